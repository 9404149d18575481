# SPDX-License-Identifier: GPL-3.0-or-later
"""The guests of the boot matrix: Debian 12 on everything that a machine may keep its root on.

guest_disks.py makes them; `plain` is the machine of source_machine.py. They are kept in the cache, under a name that
stands for what they were made from.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from e2e import guest_disks, images, source_machine
from e2e.guest_disks import NAMESPACE, PASSPHRASE, PLANS, STALE, GuestError
from e2e.source_machine import EXCLUDED_PATHS, PACKAGES, SUITE, cache_directory

__all__ = ["NAMES", "NAMESPACE", "STALE", "Guest", "GuestError", "build", "hostname"]

NAMES = ("plain", *PLANS)


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest whose disks are ready; they are only read, machines run on snapshots of them."""

    name: str
    hostname: str
    disks: tuple[Path, ...]
    passphrase: str | None = None
    """What it asks for on its console before it can mount its root."""


def hostname(name: str) -> str:
    """A guest's host name, as a boot of it says."""
    return source_machine.HOSTNAME if name == "plain" else guest_disks.hostname(name)


def build(names: tuple[str, ...] = NAMES, cache: Path | None = None, *, mirror: str | None = None) -> dict[str, Guest]:
    """Returns the guests, building what the cache has not made from the same inputs; with sudo when we are not root.

    `mirror` is handed to mmdebstrap as it is; by default the tool's own default (or COLDMIG_DEBIAN_MIRROR) is used.
    Raises GuestError, SourceMachineError.
    """
    cache = cache or cache_directory()
    mirror = mirror or os.environ.get("COLDMIG_DEBIAN_MIRROR") or None
    directory = cache / f"guests-{_key(mirror)}"
    cache.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        # Two test processes may want them at the same time.
        with (cache / "guests.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if missing := _missing(names, directory):
                guest_disks.build(directory, cache, mirror, missing)
            if "plain" in names:
                source_machine.build(cache, mirror=mirror)
    elif _missing(names, directory):
        _with_sudo(names, cache)
    guests: dict[str, Guest] = {}
    for name in names:
        if name == "plain":
            guests[name] = Guest(name, hostname(name), source_machine.build(cache, mirror=mirror).all)
        else:
            disks = tuple(sorted(directory.glob(f"{name}-*.raw")))
            guests[name] = Guest(name, hostname(name), disks, PASSPHRASE if name == "luks" else None)
    return guests


def _key(mirror: str | None) -> str:
    files = (guest_disks.__file__, images.__file__)
    inputs = [*(Path(file).read_text() for file in files), PACKAGES, EXCLUDED_PATHS, SUITE, mirror]
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:16]


def _missing(names: tuple[str, ...], directory: Path) -> list[str]:
    return [name for name in names if name in PLANS and not (directory / f"{name}.ready").exists()]


def _with_sudo(names: tuple[str, ...], cache: Path) -> None:
    argv = ["sudo", "--preserve-env=COLDMIG_DEBIAN_MIRROR,COLDMIG_ACCEL,COLDMIG_TIMEOUT_SCALE"]
    argv += [sys.executable, str(Path(__file__)), "--cache", str(cache), *names]
    done = subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise GuestError(f"building the guests with sudo failed: {done.stderr.strip()}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cache", type=Path, help="directory for built images")
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], metavar="NAME", help=f"of {', '.join(NAMES)}")
    arguments = parser.parse_args()
    try:
        found = build(tuple(arguments.names) or NAMES, arguments.cache)
    except (GuestError, source_machine.SourceMachineError) as error:
        print(f"guests: {error}", file=sys.stderr)
        return 1
    for guest in found.values():
        print(guest.name, *guest.disks)
    return 0


if __name__ == "__main__":
    sys.exit(main())
