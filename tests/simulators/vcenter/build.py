# SPDX-License-Identifier: GPL-3.0-or-later
"""Build the simulated vCenter from our main program and Debian's source package of govmomi, once per content.

Needs the packages golang-go and golang-github-vmware-govmomi-dev. The result lies in the cache, under a digest of all
inputs.

usage: build.py        prints the path of the binary
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parent / "vcsim"
GOPATH = Path("/usr/share/gocode")
GOVMOMI = GOPATH / "src/github.com/vmware/govmomi"


class BuildError(RuntimeError):
    """The vCenter simulator cannot be built; the text says what to install or what the compiler said."""


def cache_dir() -> Path:
    """The project's cache: COLDMIG_CACHE, else under XDG_CACHE_HOME."""
    if explicit := os.environ.get("COLDMIG_CACHE"):
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "coldmig"


def _digest(go: str) -> str:
    digest = hashlib.sha256()
    version = subprocess.run([go, "version"], capture_output=True, check=True).stdout
    digest.update(version)
    # the library is a Debian package: its simulator's text stands for its version
    for path in [*sorted(SOURCE.glob("*.go")), *sorted((GOVMOMI / "simulator").glob("*.go"))]:
        digest.update(f"{path.name}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:20]


def build() -> Path:
    """Give the path of the binary, building it when the cache has none for these inputs.

    Raises:
        BuildError: go or the library is not installed, or the compiler refuses the source.
    """
    go = shutil.which("go")
    if go is None:
        raise BuildError("go is not installed; Debian package: golang-go")
    if not GOVMOMI.is_dir():
        raise BuildError(f"{GOVMOMI} is not there; Debian package: golang-github-vmware-govmomi-dev")
    target = cache_dir() / "vcsim" / _digest(go) / "vcsim"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            return target
        fresh = target.with_name("vcsim.new")
        done = subprocess.run(
            [go, "build", "-o", str(fresh), "."],
            cwd=SOURCE,
            env={
                **os.environ,
                "GO111MODULE": "off",
                "GOPATH": str(GOPATH),
                "GOCACHE": str(cache_dir() / "go-build"),
                "GOFLAGS": "",
                "CGO_ENABLED": "0",
            },
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=lambda: os.nice(5) and None,
        )
        if done.returncode:
            raise BuildError(f"go build:\n{done.stdout}{done.stderr}")
        fresh.rename(target)
    return target


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{build()}\n")
    except BuildError as error:
        sys.exit(f"build.py: {error}")
