# SPDX-License-Identifier: GPL-3.0-or-later
"""Stage "system": trim the Debian tree and make its squashfs, and take out what the initrd and the boot need."""

from __future__ import annotations

import shutil
from pathlib import Path

from coldmig_iso import extras, firmware, modules
from coldmig_iso.extras import Extras
from coldmig_iso.lists import read_list
from coldmig_iso.run import BuildError, run
from coldmig_iso.squashfs import Compression, make_squashfs, wrap
from coldmig_iso.tree import ARCHIVE

SYSTEM = "system.cpio"
KERNEL = "vmlinuz"
BUSYBOX = "busybox"
INITRD_MODULES = "initrd-modules"
ASSEMBLY = "usr/lib/coldmig/assembly"
REPORT = "report.txt"
MEMBER = "system.squashfs"

INPUTS = (
    "modules-system.txt",
    "modules-initrd.txt",
    "modules-assembly.txt",
    "removed.txt",
    "fence/removed-files.txt",
    "fence/forbidden-modules.txt",
    "fence/forbidden-packages.txt",
)


def build_system(
    tree_result: Path, compression: Compression, scratch: Path, result: Path, extra: Extras | None = None
) -> None:
    """Fill ``result`` with ``system.cpio``, ``vmlinuz``, ``busybox``, ``initrd-modules/`` and ``report.txt``."""
    extra = extra or Extras()
    tree = scratch / "tree"
    tree.mkdir()
    # Everything in the squashfs belongs to root anyway, so this needs no root; the modes are those of the archive.
    run(
        [
            "tar",
            "--extract",
            "--no-same-owner",
            "--preserve-permissions",
            "--exclude=./dev/*",
            "--directory",
            tree,
            "--file",
            tree_result / ARCHIVE,
        ]
    )
    _keep_kernel(tree, result / KERNEL)
    busybox = tree / "usr/bin/busybox"
    if not busybox.is_file():
        raise BuildError("the tree has no /usr/bin/busybox (package busybox-static)")
    shutil.copy(busybox, result / BUSYBOX)
    total = len(list(modules.module_directory(tree).rglob("*.ko")))
    extras.add_module_files(tree, extra.module_files)
    dependencies = modules.read_dependencies(tree)
    boot_modules = extras.module_patterns(dependencies, extra.boot_modules)
    _copy_initrd_modules(tree, result / INITRD_MODULES, boot_modules)
    _copy_assembly_modules(tree, tree / ASSEMBLY)
    more = [*boot_modules, *extras.module_patterns(dependencies, extra.modules)]
    kept = modules.choose(tree, "modules-system.txt", extra=more)
    modules.prune(tree, kept)
    missing = firmware.prune(tree, extra.firmware)
    remove(tree, read_list("removed.txt") + read_list("fence/removed-files.txt"))
    report = [
        f"kernel {modules.kernel_release(tree)}, {len(kept)} of {total} modules",
        firmware.describe(tree),
        *(f"no Debian package has firmware {name}" for name in missing),
    ]
    (result / REPORT).write_text("\n".join(report) + "\n", encoding="utf-8")
    image = scratch / MEMBER
    make_squashfs(tree, image, compression)
    wrap(image, result / SYSTEM, MEMBER)


def remove(tree: Path, patterns: list[str]) -> None:
    """Delete what the shell patterns name; a pattern without a match is fine (the package may not be there)."""
    for pattern in patterns:
        for path in sorted(tree.glob(pattern)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _keep_kernel(tree: Path, target: Path) -> None:
    kernels = sorted((tree / "boot").glob("vmlinuz-*"))
    if len(kernels) != 1:
        raise BuildError(f"the tree has {len(kernels)} kernel images in /boot, expected one")
    shutil.copy(kernels[0], target)


def _copy_assembly_modules(tree: Path, target: Path) -> None:
    """A module directory of its own for the inspection (``modprobe --dirname``)."""
    source = modules.module_directory(tree)
    release = target / "lib/modules" / source.name
    for name in sorted(modules.choose(tree, "modules-assembly.txt", forbidden=())):
        (release / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, release / name)
    for index in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        shutil.copy(source / index, release / index)
    run(["depmod", "-b", target, source.name])


def _copy_initrd_modules(tree: Path, target: Path, extra: list[str]) -> None:
    source = modules.module_directory(tree)
    release = target / "usr/lib/modules" / source.name
    for name in sorted(modules.choose(tree, "modules-initrd.txt", extra=extra)):
        (release / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, release / name)
    for index in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        shutil.copy(source / index, release / index)
    modules.depmod(target)
    for path in release.glob("modules.*"):
        # busybox reads the text forms
        if path.name not in ("modules.dep", "modules.alias", "modules.softdep", "modules.builtin"):
            path.unlink()
