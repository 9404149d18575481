# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the external tools of the build; their errors name the tool, the Debian package and the last lines it said."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

SOURCE_DATE_EPOCH = "1700000000"
"""Fixed time of everything that is built, so that the same inputs give the same bytes."""

PACKAGE_OF_TOOL = {
    "mmdebstrap": "mmdebstrap",
    "mksquashfs": "squashfs-tools",
    "xorriso": "xorriso",
    "mformat": "mtools",
    "mcopy": "mtools",
    "mmd": "mtools",
    "grub-mkimage": "grub-common",
    "depmod": "kmod",
    "modinfo": "kmod",
    "zstd": "zstd",
    "tar": "tar",
}


class BuildError(Exception):
    """The image cannot be built; the text says what a person can do about it."""


def require_tools(names: Sequence[str]) -> None:
    """Fail early, once, with all missing tools and the packages that have them."""
    missing = sorted({PACKAGE_OF_TOOL[name] for name in names if shutil.which(name, path=_path()) is None})
    if missing:
        raise BuildError(f"missing on this machine: apt install {' '.join(missing)}")


def run(
    command: Sequence[str | os.PathLike[str]], *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> str:
    """Run a tool and return what it wrote to stdout.

    :raises BuildError: it is missing or failed.
    """
    words = [os.fspath(word) for word in command]
    environment = {
        **os.environ,
        "PATH": _path(),
        "SOURCE_DATE_EPOCH": SOURCE_DATE_EPOCH,
        "LC_ALL": "C.UTF-8",
        **(env or {}),
    }
    try:
        done = subprocess.run(words, env=environment, cwd=cwd, capture_output=True, text=True, check=False)
    except FileNotFoundError as exc:
        package = PACKAGE_OF_TOOL.get(words[0], words[0])
        raise BuildError(f"{words[0]} is missing on this machine: apt install {package}") from exc
    if done.returncode != 0:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-15:])
        raise BuildError(f"{words[0]} failed with exit code {done.returncode}:\n{tail}")
    return done.stdout


def _path() -> str:
    # depmod and friends live in sbin, which an ordinary user's PATH may lack.
    return os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"
