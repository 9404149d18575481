# SPDX-License-Identifier: GPL-3.0-or-later
"""Stage "layer": our own files (fence, units, agent, its libraries), a small squashfs over the Debian system.

It is apart from the Debian system so that a new agent costs seconds, and so that /init can see that the fence is there.
"""

from __future__ import annotations

import shutil
import sys
import zipfile
from pathlib import Path

from coldmig_iso import SOURCES
from coldmig_iso.extras import Extras
from coldmig_iso.lists import read_list
from coldmig_iso.run import BuildError, run
from coldmig_iso.squashfs import Compression, make_squashfs, wrap

LAYER = "layer.cpio"
MEMBER = "layer.squashfs"
INPUTS = ("fence", "live", "enabled-units.txt", "requirements.txt")

_UNITS = "etc/systemd/system"
_PYTHON_VERSION = "3.11"
_PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64")
_LINKS = {
    "etc/resolv.conf": "/run/coldmig/resolv.conf",  # written by the agent from networkd's state
    "etc/systemd/system/default.target": "/usr/lib/systemd/system/multi-user.target",
}


def download_wheels(result: Path) -> None:
    """Fetch the agent's libraries, exactly the pinned files."""
    platforms = [word for platform in _PLATFORMS for word in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", *platforms]
    command += ["--python-version", _PYTHON_VERSION, "--implementation", "cp", "--require-hashes"]
    command += ["--requirement", str(SOURCES / "requirements.txt"), "--dest", str(result)]
    run(command)


def populate(root: Path, agent: Path, wheels: Path, extra: Extras | None = None) -> None:
    """Put all our files into ``root`` as they will be in the live system."""
    for source in (SOURCES / "live", SOURCES / "fence/files"):
        shutil.copytree(source, root, dirs_exist_ok=True)
    for name, target in _LINKS.items():
        _link(root / name, target)
    for unit in read_list("fence/masked-units.txt"):
        _link(root / _UNITS / unit, "/dev/null")
    for rules in read_list("fence/masked-udev-rules.txt"):
        _link(root / "etc/udev/rules.d" / rules, "/dev/null")
    for line in read_list("enabled-units.txt"):
        unit, target = line.split()
        where = _UNITS if (root / _UNITS / unit).exists() else "usr/lib/systemd/system"
        _link(root / _UNITS / f"{target}.wants" / unit, f"/{where}/{unit}")
    libraries = root / "usr/lib/python3/dist-packages"
    libraries.mkdir(parents=True)
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(libraries)
    command = root / "usr/bin/coldmig-agent"
    command.parent.mkdir(parents=True)
    shutil.copy(agent, command)
    _normal_modes(root)
    if extra:
        extra.copy_files(root)


def build_layer(  # noqa: PLR0917 - what goes into it, and where to
    agent: Path, wheels: Path, compression: Compression, scratch: Path, result: Path, extra: Extras | None = None
) -> None:
    """Fill ``result`` with ``layer.cpio``."""
    root = scratch / "root"
    root.mkdir(mode=0o755)
    populate(root, agent, wheels, extra)
    image = scratch / MEMBER
    make_squashfs(root, image, compression)
    wrap(image, result / LAYER, MEMBER)


def make_agent(sources: Path, target: Path) -> None:
    """Build the agent's zipapp with its own build script."""
    script = sources / "build.py"
    if not script.is_file():
        raise BuildError(f"{script} is missing; give the agent's file with --agent")
    run([sys.executable, script, target])


def _link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def _normal_modes(root: Path) -> None:
    """The same modes whatever umask the checkout was made with."""
    for path in [root, *root.rglob("*")]:
        if path.is_symlink():
            continue
        program = path.is_dir() or path.parent.name in ("bin", "coldmig")
        path.chmod(0o755 if program else 0o644)
