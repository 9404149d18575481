# SPDX-License-Identifier: GPL-3.0-or-later
"""Which kernel modules stay: by directory and name, closed over their dependencies, without the forbidden ones."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from coldmig_iso.lists import read_list
from coldmig_iso.run import BuildError, run

Dependencies = Mapping[str, list[str]]
"""Module path below the release directory (``kernel/fs/ext4/ext4.ko``) -> paths of all modules it needs."""


def kernel_release(tree: Path) -> str:
    """The one kernel release in a tree."""
    releases = sorted(path.name for path in (tree / "usr/lib/modules").iterdir() if path.is_dir())
    if len(releases) != 1:
        raise BuildError(f"the tree has {len(releases)} kernels ({', '.join(releases) or 'none'}), expected one")
    return releases[0]


def module_directory(tree: Path) -> Path:
    """``usr/lib/modules/<release>`` of a tree."""
    return tree / "usr/lib/modules" / kernel_release(tree)


def parse_dependencies(text: str) -> dict[str, list[str]]:
    """Parse modules.dep: ``path: needed needed…`` (already transitive)."""
    result = {}
    for line in text.splitlines():
        path, colon, needed = line.partition(":")
        if colon:
            result[path] = needed.split()
    return result


def module_name(path: str) -> str:
    """Name of a module from its path, with ``-`` as ``_`` as the kernel does."""
    return Path(path).name.split(".ko", 1)[0].replace("-", "_")


def select(dependencies: Dependencies, patterns: Iterable[str]) -> set[str]:
    """Paths that match one of the shell patterns; a later pattern with ``!`` takes matches away again."""
    chosen: set[str] = set()
    for pattern in patterns:
        if pattern.startswith("!"):
            chosen -= set(fnmatch.filter(chosen, pattern[1:]))
        else:
            chosen |= set(fnmatch.filter(dependencies, pattern))
    return chosen


def close(dependencies: Dependencies, chosen: Iterable[str]) -> set[str]:
    """Add everything that the chosen modules need."""
    result: set[str] = set()
    todo = list(chosen)
    while todo:
        path = todo.pop()
        if path not in result:
            result.add(path)
            todo += dependencies[path]
    return result


def without_forbidden(dependencies: Dependencies, chosen: Iterable[str], forbidden: Iterable[str]) -> set[str]:
    """Leave out the modules whose name matches ``forbidden``, and everything that needs one of them."""
    banned = {path for path in dependencies if any(fnmatch.fnmatch(module_name(path), name) for name in forbidden)}
    return {path for path in chosen if path not in banned and not banned.intersection(dependencies[path])}


def missing_dependencies(dependencies: Dependencies, kept: set[str]) -> dict[str, list[str]]:
    """Kept modules that lack something: must be empty."""
    return {
        path: lacking for path in sorted(kept) if (lacking := [need for need in dependencies[path] if need not in kept])
    }


def read_dependencies(tree: Path) -> dict[str, list[str]]:
    """The dependencies in a tree's modules.dep."""
    return parse_dependencies((module_directory(tree) / "modules.dep").read_text(encoding="utf-8"))


def choose(
    tree: Path, list_name: str, forbidden: Sequence[str] | None = None, *, extra: Iterable[str] = ()
) -> set[str]:
    """The modules of a tree that a list in iso-build/ names, closed and without the forbidden ones.

    ``forbidden``: patterns of module names instead of those of the fence. ``extra``: paths of more modules.
    """
    directory = module_directory(tree)
    dependencies = read_dependencies(tree)
    wanted = select(dependencies, read_list(list_name)) | set(extra)
    if not wanted:
        raise BuildError(f"{list_name} matches no module of kernel {directory.name}")
    banned = read_list("fence/forbidden-modules.txt") if forbidden is None else forbidden
    kept = without_forbidden(dependencies, close(dependencies, wanted), banned)
    if lacking := missing_dependencies(dependencies, kept):
        raise BuildError(f"modules without what they need: {lacking}")
    return kept


def prune(tree: Path, kept: set[str]) -> None:
    """Delete all other modules of the tree and rewrite its indexes."""
    directory = module_directory(tree)
    for path in directory.rglob("*.ko*"):
        if str(path.relative_to(directory)) not in kept:
            path.unlink()
    for path in sorted(directory.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    depmod(tree)


def depmod(tree: Path) -> None:
    """Write modules.dep, modules.alias and the others anew."""
    run(["depmod", "-b", tree / "usr", kernel_release(tree)])
