# SPDX-License-Identifier: GPL-3.0-or-later
"""What an initramfs can do: the drivers in it, the lists of its kernel that it carries, who made it and how."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from typing import BinaryIO, cast

from coldmig_agent.guest.assignments import lines
from coldmig_agent.guest.devices import drivers_by_alias, normal, parse_alias_file, parse_modinfo
from coldmig_agent.guest.facts import MAX_MODULES, ImageFacts, Release
from coldmig_agent.guest.hostname import usable
from coldmig_agent.guest.initramfs import InitramfsError, read_image
from coldmig_agent.guest.modules import merge_drivers, module_names
from coldmig_agent.guest.release import parse_os_release
from coldmig_agent.guest.rootfs import GuestRoot
from coldmig_agent.text import clean

MAX_BYTES = 1 << 30
_CHECK_TIME_EVERY = 256
_LISTS = re.compile(r"(?:^|/)lib/modules/[^/]+/(modules\.(?:builtin|alias|builtin\.modinfo))$")
_VERSION = re.compile(r"(?:^|/)lib/modules/([^/]+)/")
_RELEASES = ("etc/initrd-release", "usr/lib/initrd-release", "etc/os-release", "usr/lib/os-release", "lib/os-release")
_CRYPTTAB = ("etc/crypttab", "cryptroot/crypttab")
_MODPROBE = re.compile(r"^(?:etc|lib|usr/lib|run)/modprobe\.d/[^/]+\.conf$")
_DRACUT_ARGUMENTS = re.compile(r"^(?:usr/)?lib/dracut/build-parameter\.txt$")
_BLACKLIST = re.compile(r"(?:blacklist\s+(\S{1,64})|install\s+(\S{1,64})\s+\S*/(?:false|true)\b)")
#: A path that only images of this kind have.
_MAKERS = (
    (re.compile(r"^(?:usr/)?lib/dracut(?:/|$)"), "dracut"),
    (re.compile(r"^(?:scripts/init-premount|conf/initramfs\.conf$|conf/arch\.conf$)"), "initramfs-tools"),
    (re.compile(r"^(?:init_functions$|etc/mkinitcpio|hooks/|buildconfig$)"), "mkinitcpio"),
    (re.compile(r"^nix/store/"), "nixos"),
    (re.compile(r"^etc/booster\.init\.yaml$"), "booster"),
)
_MAX_CONFIGS = 64


def blacklisted(text: str) -> set[str]:
    """Modules that a modprobe.d file keeps from being loaded for a device."""
    found = (_BLACKLIST.match(line) for line in lines(text, 512))
    return {normal(match[1] or match[2]) for match in found if match}


class Part:
    """A stretch of an open file, to be read once from its beginning."""

    def __init__(self, fd: int, start: int, size: int) -> None:
        self._fd = fd
        self._at = start
        self._left = size

    def read(self, size: int) -> bytes:
        """At most ``size`` further bytes."""
        data = os.pread(self._fd, min(size, self._left), self._at)
        self._at += len(data)
        self._left -= len(data)
        return data


class _Collector:
    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._seen = 0
        self._configs = 0
        self.modules: list[str] = []
        self.versions: dict[str, None] = {}
        self.kept: dict[str, bytes] = {}
        self.blacklist: set[str] = set()
        self.maker = ""
        self.hostonly = False

    def keep(self, name: str) -> bool:
        """Whether the content of a file is wanted."""
        name = _plain(name)
        if _MODPROBE.match(name):
            self._configs += 1
            return self._configs <= _MAX_CONFIGS
        found = _LISTS.search(name)
        if found:
            return found[1] not in self.kept
        return name in {*_RELEASES, *_CRYPTTAB, "etc/hostname"} or bool(_DRACUT_ARGUMENTS.match(name))

    def visit(self, name: str, content: bytes) -> None:
        """Note a file. Raises InitramfsError when the time is over."""
        self._seen += 1
        if self._seen % _CHECK_TIME_EVERY == 0 and time.monotonic() > self._deadline:
            raise InitramfsError("reading it took too long")
        name = _plain(name)
        version = _VERSION.search(name)
        if version and len(self.versions) < 8:
            self.versions[clean(version[1], 128)] = None
        if ".ko" in name or name.endswith(".o"):
            if len(self.modules) < MAX_MODULES * 2:
                self.modules.append(name)
            return
        if not self.maker:
            self.maker = next((maker for pattern, maker in _MAKERS if pattern.match(name)), "")
        if found := _LISTS.search(name):
            self.kept.setdefault(found[1], content)  # an empty list is one, too
        if not content:
            return
        if _MODPROBE.match(name):
            self.blacklist |= blacklisted(content.decode("utf-8", "replace"))
        elif _DRACUT_ARGUMENTS.match(name):
            words = content[:4096].decode("utf-8", "replace").replace("'", " ").split()
            self.hostonly = any(word in {"--hostonly", "-H"} for word in words)
        else:
            self.kept[name] = content[: 1 << 14]

    def text(self, name: str) -> str:
        """Content that was kept, empty where there was none."""
        return self.kept.get(name, b"").decode("utf-8", "replace")

    def release(self) -> Release | None:
        """What the image says that it belongs to."""
        found = (parse_os_release(self.text(name)) for name in _RELEASES if name in self.kept)
        return next((item for item in found if item is not None), None)


def _encrypted(text: str) -> tuple[str, ...]:
    """Second words of a crypttab: the devices."""
    lines = (line.split() for line in text.splitlines()[:64])
    return tuple(clean(words[1], 160) for words in lines if len(words) > 1 and not words[0].startswith("#"))


def _plain(name: str) -> str:
    return name.removeprefix("./").lstrip("/")


def read_part(file: Part | BinaryIO, path: str, deadline: float) -> ImageFacts:
    """Facts of an initramfs from an open file, up to a time of the monotonic clock."""
    collected = _Collector(deadline)
    try:
        listing = read_image(cast(BinaryIO, file), collected.visit, collected.keep)
        complete, problem, entries = listing.complete, listing.problem, listing.entries
    except OSError as error:
        complete, problem, entries = False, error.strerror or "input/output error", 0
    aliases = drivers_by_alias(parse_alias_file(collected.text("modules.alias")))
    modinfo = drivers_by_alias(parse_modinfo(collected.kept.get("modules.builtin.modinfo", b"")))
    names = (line.strip() for line in collected.text("etc/hostname").splitlines())
    return ImageFacts(
        path=clean(path, 255),
        complete=complete,
        problem=clean(problem, 160),
        entries=entries,
        modules=module_names(collected.modules),
        versions=tuple(collected.versions),
        builtin=module_names(lines(collected.text("modules.builtin"))),
        builtin_known="modules.builtin" in collected.kept,
        drivers=merge_drivers(aliases, modinfo),
        blacklist=tuple(sorted(collected.blacklist)[:64]),
        maker=collected.maker,
        hostonly=collected.hostonly,
        crypt=tuple(device for path in _CRYPTTAB for device in _encrypted(collected.text(path)))[:16],
        release=collected.release(),
        hostname=next((name for name in map(usable, names) if name), None),
    )


def read_file(root: GuestRoot, path: str, deadline: float) -> ImageFacts:
    """Facts of the initramfs at a path of the guest."""
    if time.monotonic() > deadline:
        return ImageFacts(clean(path, 255), False, "there was no time left to read it")
    try:
        with root.open(path) as fd:
            size = os.fstat(fd).st_size
            if size > MAX_BYTES:
                return ImageFacts(clean(path, 255), False, "it is larger than 1 GiB")
            return read_part(Part(fd, 0, size), path, deadline)
    except (OSError, ValueError) as error:
        return ImageFacts(clean(path, 255), False, clean(str(error), 160))


def merged(images: Iterable[ImageFacts]) -> ImageFacts | None:
    """Several images that a loader puts one after the other, as one; None for none."""
    found = list(images)
    if not found:
        return None
    main = max(found, key=lambda item: (len(item.modules), item.entries))
    if len(found) == 1:
        return main
    return ImageFacts(
        path=main.path,
        complete=all(item.complete for item in found),
        problem=next((item.problem for item in found if item.problem), ""),
        entries=sum(item.entries for item in found),
        modules=tuple(sorted({name for item in found for name in item.modules}))[:MAX_MODULES],
        versions=tuple(dict.fromkeys(version for item in found for version in item.versions)),
        builtin=tuple(sorted({name for item in found for name in item.builtin})),
        builtin_known=any(item.builtin_known for item in found),
        drivers=merge_drivers(*(item.drivers for item in found)),
        blacklist=tuple(sorted({name for item in found for name in item.blacklist})),
        maker=main.maker,
        hostonly=main.hostonly,
        crypt=tuple(dict.fromkeys(device for item in found for device in item.crypt)),
        release=main.release,
        hostname=main.hostname,
    )
