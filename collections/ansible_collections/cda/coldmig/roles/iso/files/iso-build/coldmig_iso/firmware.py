# SPDX-License-Identifier: GPL-3.0-or-later
"""Keep only the firmware files that a kept kernel module names."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable
from pathlib import Path

from coldmig_iso.modules import kernel_release, module_directory
from coldmig_iso.run import BuildError, run

_BATCH = 400


def wanted_firmware(tree: Path) -> set[str]:
    """Names (paths below /usr/lib/firmware, may hold ``*``) in the modules' own lists."""
    paths = [str(path) for path in sorted(module_directory(tree).rglob("*.ko"))]
    names: set[str] = set()
    for start in range(0, len(paths), _BATCH):
        names.update(run(["modinfo", "-F", "firmware", *paths[start : start + _BATCH]]).split())
    return names


def match(names: Iterable[str], available: Iterable[str]) -> tuple[set[str], set[str]]:
    """Split into (files to keep, names for which there is no file)."""
    files = set(available)
    keep: set[str] = set()
    missing: set[str] = set()
    for name in names:
        found = {name} & files or set(fnmatch.filter(files, name))
        keep |= found
        if not found:
            missing.add(name)
    return keep, missing


def prune(tree: Path, extra: Iterable[str] = ()) -> list[str]:
    """Delete unneeded firmware; return the names that no Debian package has (for the build's report).

    ``extra``: patterns of files that stay although no module names them.

    :raises BuildError: such a pattern matches nothing.
    """
    root = tree / "usr/lib/firmware"
    if not root.is_dir():
        if extra := list(extra):
            raise BuildError(f"firmware {extra[0]!r}: the image has no firmware; add the package that has it")
        return []
    files = {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}
    keep, missing = match(wanted_firmware(tree), files)
    for pattern in extra:
        found, nothing = match([pattern], files)
        if nothing:
            raise BuildError(f"firmware {pattern!r}: no package of the image has such a file; add the package")
        keep |= found
    for name in list(keep):
        keep |= _targets(root, name)
    for name in files - keep:
        (root / name).unlink()
    for path in sorted(root.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
            path.rmdir()
    return sorted(missing)


def _targets(root: Path, name: str) -> set[str]:
    """Files behind a chain of symbolic links inside the firmware directory."""
    found: set[str] = set()
    path = root / name
    while path.is_symlink():
        path = Path(os.path.normpath(path.parent / path.readlink()))
        if not path.is_relative_to(root):
            break
        found.add(str(path.relative_to(root)))
    return found


def describe(tree: Path) -> str:
    """One line for the build's report."""
    root = tree / "usr/lib/firmware"
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()] if root.is_dir() else []
    size = sum(path.stat().st_size for path in files)
    return f"{len(files)} firmware files, {size >> 20} MiB, for kernel {kernel_release(tree)}"
