# SPDX-License-Identifier: GPL-3.0-or-later
"""What a provider adds to the image: packages, kernel modules, firmware, files. The fence has the last word."""

from __future__ import annotations

import fnmatch
import posixpath
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from coldmig_iso import modules
from coldmig_iso.cache import digest_of
from coldmig_iso.lists import read_list
from coldmig_iso.run import BuildError, run

_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")  # Debian policy 5.6.1
_MODULE = re.compile(r"[A-Za-z0-9_-]+|kernel/[A-Za-z0-9_./*?\[\]!-]+|/.+\.ko")
_FIRMWARE = re.compile(r"(?!/)[A-Za-z0-9_.,+:/*?\[\]!-]+")
_MERGED = ("bin", "lib", "lib64", "sbin")
_UPDATES = "updates"


@dataclass(frozen=True)
class ExtraFile:
    """A file of the build host, and its place in the live system (absolute). Executable if the source is."""

    source: Path
    dest: str

    @property
    def place(self) -> str:
        """Path below the root, where the file really lies: /bin, /lib and /sbin are links to /usr."""
        path = self.dest.lstrip("/")
        return f"usr/{path}" if path.split("/", 1)[0] in _MERGED else path

    @property
    def mode(self) -> int:
        return 0o755 if self.source.stat().st_mode & 0o111 else 0o644


@dataclass(frozen=True)
class Extras:
    """Everything that is added.

    ``modules``: names (``iwlwifi``), patterns of paths (``kernel/drivers/net/wireless/*``), or ``.ko`` files of the
    build host. ``boot_modules``: the same, also for the initrd. ``firmware``: patterns below ``/usr/lib/firmware``.
    """

    packages: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    boot_modules: tuple[str, ...] = ()
    firmware: tuple[str, ...] = ()
    files: tuple[ExtraFile, ...] = ()

    @property
    def module_files(self) -> list[Path]:
        """The ``.ko`` files among the modules."""
        return [Path(name) for name in (*self.modules, *self.boot_modules) if name.startswith("/")]

    def check(self) -> None:
        """Look at everything that can be known before anything is built.

        :raises BuildError: names the entry and what would be right.
        """
        for name in self.packages:
            if not _PACKAGE.fullmatch(name):
                raise BuildError(f"package {name!r}: not the name of a Debian package (iwd, firmware-iwlwifi)")
        refuse_packages(self.packages)
        for name in (*self.modules, *self.boot_modules):
            if not _MODULE.fullmatch(name):
                raise BuildError(
                    f"module {name!r}: give a name (iwlwifi), a pattern (kernel/drivers/net/wireless/*)"
                    " or the absolute path of a .ko file"
                )
        for path in self.module_files:
            _refuse_module(path.name)
            _require_file(path, "module")
        for name in self.firmware:
            if not _FIRMWARE.fullmatch(name) or ".." in name.split("/"):
                raise BuildError(f"firmware {name!r}: give a path or pattern below /usr/lib/firmware (iwlwifi-*.ucode)")
        places: set[str] = set()
        for file in self.files:
            _check_file(file)
            if file.place in places:
                raise BuildError(f"file {file.dest!r}: given twice")
            places.add(file.place)

    def system_key(self) -> str:
        """Key of what goes into the stage "system"."""
        return digest_of(self.modules, ("/",), self.boot_modules, ("/",), self.firmware, *self.module_files)

    def layer_key(self) -> str:
        """Key of what goes into the stage "layer"."""
        return digest_of(*(part for file in self.files for part in (f"{file.mode:o} {file.place}", file.source)))

    def copy_files(self, root: Path) -> None:
        """Put the files into the layer's tree.

        :raises BuildError: one of our own files is there; so no part of the fence can be replaced.
        """
        for file in self.files:
            target = root / file.place
            if target.is_symlink() or target.exists():
                raise BuildError(f"file {file.dest!r}: is a part of the live system and cannot be replaced")
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError):
                raise BuildError(f"file {file.dest!r}: lies below a file of the live system") from None
            shutil.copyfile(file.source, target)
            target.chmod(file.mode)


def refuse_packages(names: Iterable[str]) -> None:
    """:raises BuildError: one of the packages (asked for, or brought along) breaks the fence."""
    for name in names:
        for pattern in read_list("fence/forbidden-packages.txt"):
            if fnmatch.fnmatchcase(name, pattern):
                raise BuildError(
                    f"package {name}: would break the promise that nothing is written to the source"
                    " (fence/forbidden-packages.txt); leave it out, or the package that needs it"
                )


def add_module_files(tree: Path, files: Iterable[Path]) -> None:
    """Put ``.ko`` files into the tree's module directory, in front of those of the kernel's package.

    :raises BuildError: a file is no module for this kernel.
    """
    directory = modules.module_directory(tree)
    added = False
    for path in files:
        magic = run(["modinfo", "-F", "vermagic", path]).split(" ", maxsplit=1)[0].strip()
        if magic != directory.name:
            raise BuildError(f"module {path}: built for kernel {magic or '(none)'}, the image has {directory.name}")
        (directory / _UPDATES).mkdir(exist_ok=True)
        shutil.copyfile(path, directory / _UPDATES / path.name)
        added = True
    if added:
        modules.depmod(tree)


def module_patterns(dependencies: modules.Dependencies, wanted: Iterable[str]) -> list[str]:
    """Paths of the wanted modules.

    :raises BuildError: the kernel has no such module, or the fence forbids it.
    """
    paths: set[str] = set()
    for name in wanted:
        if name.startswith("/"):
            found = {f"{_UPDATES}/{Path(name).name}"}
        elif "/" in name:
            found = set(fnmatch.filter(dependencies, name))
        else:
            found = {path for path in dependencies if modules.module_name(path) == name.replace("-", "_")}
            for path in found:
                _refuse_module(path)
        if not found:
            raise BuildError(f"module {name!r}: the image's kernel has none of this name")
        paths |= found
    return sorted(paths)


def _refuse_module(path: str) -> None:
    name = modules.module_name(path)
    if any(fnmatch.fnmatch(name, pattern) for pattern in read_list("fence/forbidden-modules.txt")):
        raise BuildError(f"module {name}: writes to disks on its own account (fence/forbidden-modules.txt)")


def _require_file(path: Path, what: str) -> None:
    if not path.is_file():
        raise BuildError(f"{what} {path}: no such file on the build host")


def _check_file(file: ExtraFile) -> None:
    _require_file(file.source, "file")
    dest = file.dest
    if not dest.startswith("/") or posixpath.normpath(dest) != dest or dest == "/":
        raise BuildError(f"file {dest!r}: give the absolute path in the live system, without '..'")
    if dest.split("/")[1] in ("dev", "proc", "run", "sys", "tmp"):
        raise BuildError(f"file {dest!r}: /{dest.split('/')[1]} of the live system is empty at its start")
    if file.place.endswith(".ko"):
        raise BuildError(f"file {dest!r}: give kernel modules as modules, so that their index knows them")
    fence = read_list("fence/removed-files.txt") + [
        f"{directory}/{unit}{rest}"
        for directory in ("etc/systemd/system", "usr/lib/systemd/system")
        for unit in read_list("fence/masked-units.txt")
        for rest in ("", ".d/*")
    ]
    fence += [
        f"{directory}/{rules}"
        for directory in ("etc/udev/rules.d", "usr/lib/udev/rules.d")
        for rules in read_list("fence/masked-udev-rules.txt")
    ]
    fence += ["etc/modprobe.d/*", "etc/lvm/*", "etc/mdadm/*", "etc/crypttab", "usr/lib/modprobe.d/*"]
    for pattern in fence:
        if fnmatch.fnmatchcase(file.place, pattern):
            raise BuildError(f"file {dest!r}: the read-only fence leaves it out or owns it ({pattern})")
