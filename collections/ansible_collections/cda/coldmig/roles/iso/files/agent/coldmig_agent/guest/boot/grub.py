# SPDX-License-Identifier: GPL-3.0-or-later
"""GRUB's menus: grub.cfg as grub-mkconfig writes it, grubenv, the stub on the ESP, and GRUB Legacy's menu.lst.

grub.cfg is a script. It is not run: what mkconfig, NixOS and SUSE write is recognised line by line, anything else is
passed over.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from coldmig_agent.guest.boot.menu import MAX_PARSED, entry, loader_path
from coldmig_agent.guest.facts import BootEntry, GrubEnv, Stub
from coldmig_agent.text import clean

SAVED = "${saved_entry}"
_MAX_LINE = 8192
_SET = re.compile(r"set\s+(default|kernelopts)=(.*)$")
_HEAD = re.compile(r"""(menuentry|submenu)\s+(?:'([^']*)'|"([^"]*)"|(\S+))""")
_IDENTITY = re.compile(r"""(?:--id|menuentry_id_option)[\s=]+['"]?([^'"\s{]+)""")
_LINUX = re.compile(r"(?:linux|linux16|linuxefi|module|module2)\s+(?:--nounzip\s+)?(\S+)\s*(.*)$")
_INITRD = re.compile(r"(?:initrd|initrd16|initrdefi)\s+(.+)$")
_SEARCH = re.compile(r"search(?:\.(?:fs_uuid|fs_label)\s+(\S+)|\s.*?(?:--fs-uuid|-u|--label|-l)\b(.*))")


@dataclass(frozen=True, slots=True)
class Item:
    """An entry and where it is in the menu: ``(1, 0)`` is the first one of the submenu that is the second item."""

    position: tuple[int, ...]
    #: Titles and identities of the submenus above it.
    above: tuple[tuple[str, str], ...]
    entry: BootEntry


@dataclass(slots=True)
class Menu:
    """A grub.cfg. ``default`` may be a number, a title, an identity, a path of these with ``>``, or SAVED."""

    default: str = "0"
    uses_next: bool = False
    uses_bls: bool = False
    kernelopts: str = ""
    items: list[Item] = field(default_factory=list)


@dataclass(slots=True)
class _Block:
    kind: str
    title: str = ""
    identity: str = ""
    children: int = 0
    kernel: str = ""
    options: str = ""
    initrds: tuple[str, ...] = ()
    volume: str = ""
    chain: str = ""


def _searched(line: str) -> str:
    """The UUID or label that a ``search`` looks for."""
    found = _SEARCH.match(line)
    if found is None:
        return ""
    words = [found[1]] if found[1] else [word for word in found[2].split() if not word.startswith("-")]
    return clean((words or [""])[-1].strip("\"'"), 64)


class _Reader:
    def __init__(self) -> None:
        self.menu = Menu()
        self._blocks = [_Block("top")]
        self._defaults: list[str] = []
        self._defaults_over = False
        #: The brace of a block that was begun is expected on a line of its own.
        self._waiting = False

    def line(self, text: str) -> None:
        """Take in the next line, stripped."""
        block = self._blocks[-1]
        if found := _HEAD.match(text):
            self._open(found, text)
            return
        if text == "{" and self._waiting:
            self._waiting = False
            return
        if text == "}":
            if len(self._blocks) > 1:
                self._close(self._blocks.pop())
            return
        if text.endswith("{"):
            self._blocks.append(_Block("other"))
            return
        if block.kind == "menuentry":
            self._inside(block, text)
        else:
            self._outside(text)

    def _open(self, found: re.Match[str], text: str) -> None:
        title = found[2] or found[3] or found[4] or ""
        identity = _IDENTITY.search(text)
        self._blocks.append(_Block(found[1], title, identity[1] if identity else ""))
        self._defaults_over = True
        self._waiting = not text.endswith(("{", "}"))
        if text.endswith("}"):
            self._close(self._blocks.pop())

    def _outside(self, text: str) -> None:
        # Counting boots that failed sets the default once more, under a condition.
        self._defaults_over = self._defaults_over or "boot_counter" in text
        if text.split(None, 1)[:1] == ["blscfg"]:
            self.menu.uses_bls = True
        elif found := _SET.match(text):
            value = found[2].strip().strip("\"'")
            if found[1] == "kernelopts":
                self.menu.kernelopts = value
            elif value == "${next_entry}":
                self.menu.uses_next = True
            elif not self._defaults_over:
                self._defaults.append(clean(value, 512))

    @staticmethod
    def _inside(block: _Block, text: str) -> None:
        if found := _LINUX.match(text):
            if text.startswith("module") and block.kernel:  # Xen: the kernel comes first, then its initramfs
                block.initrds += (found[1],)
            else:
                block.kernel, block.options = found[1], found[2]
        elif found := _INITRD.match(text):
            block.initrds = tuple(found[1].split())
        elif text.startswith("chainloader"):
            block.chain = " ".join(text.split()[1:])
        elif volume := _searched(text):
            block.volume = volume

    def _close(self, block: _Block) -> None:
        if block.kind not in {"menuentry", "submenu"}:
            return
        parents = [item for item in self._blocks if item.kind in {"top", "submenu"}]
        if block.kind == "menuentry" and len(self.menu.items) < MAX_PARSED:
            position = tuple(parent.children for parent in parents)
            above = tuple((parent.title, parent.identity) for parent in parents[1:])
            made = entry(
                block.title, block.identity, block.kernel, block.initrds, block.options,
                volume=block.volume, chain=block.chain,
            )  # fmt: skip
            self.menu.items.append(Item(position, above, made))
        parents[-1].children += 1

    def result(self) -> Menu:
        """What was read so far."""
        if self._defaults:
            self.menu.default = SAVED if SAVED in self._defaults else self._defaults[-1]
        return self.menu


def parse_grub(text: str) -> Menu:
    """The menu of a grub.cfg."""
    reader = _Reader()
    for raw in text.splitlines():
        reader.line(raw[:_MAX_LINE].strip())
    return reader.result()


def parse_grubenv(text: str, path: str) -> GrubEnv:
    """A grubenv: assignments in a block of 1024 bytes, filled up with ``#``."""
    values: dict[str, str] = {}
    for line in text.replace("\0", "").splitlines():
        key, equals, value = line.partition("=")
        if equals and key in {"next_entry", "saved_entry", "kernelopts"}:
            values[key] = clean(value.replace("\\\\", "\\"), 2048)
    return GrubEnv(
        clean(path, 255), values.get("next_entry", ""), values.get("saved_entry", ""), values.get("kernelopts", "")
    )


def _matches(word: str, number: int, title: str, identity: str) -> bool:
    return bool(word) and (word in {title, identity} or (word.isdigit() and len(word) < 5 and int(word) == number))


def choose(items: Sequence[Item], default: str) -> int | None:
    """Index of the item that ``default`` names; that of the first one where it names none, as GRUB does."""
    words = default.split(">")
    if default:
        for index, item in enumerate(items):
            names = [*item.above, (item.entry.title, item.entry.identity)]
            if len(words) <= len(names) and all(
                _matches(word, number, *name) for word, number, name in zip(words, item.position, names, strict=False)
            ):
                return index
    return 0 if items else None


def parse_stub(text: str, path: str) -> Stub | None:
    """The small grub.cfg on an ESP that looks for a file system and reads the real one there."""
    if "configfile" not in text and "source" not in text and "normal" not in text:
        return None
    volume = prefix = ""
    for raw in text.splitlines():
        line = raw[:_MAX_LINE].strip()
        volume = _searched(line) or volume
        if found := re.match(r"set\s+prefix=(\S+)", line):
            prefix = loader_path(re.sub(r"[\"']", "", found[1]))
    return Stub(clean(path, 255), volume, prefix) if volume else None


def parse_legacy(text: str, saved: str) -> tuple[int | None, list[BootEntry]]:
    """Default index and entries of a menu.lst. ``saved``: content of GRUB Legacy's file ``default``."""
    default = "0"
    blocks: list[_Block] = []
    for raw in text.splitlines():
        line = re.sub(r"^(\w+)\s*=\s*", r"\1 ", raw[:_MAX_LINE].strip())
        word, _unused, rest = line.partition(" ")
        rest = rest.strip()
        match word.lower():
            case "default" if not blocks:
                default = rest
            case "title" if len(blocks) < MAX_PARSED:
                blocks.append(_Block("menuentry", rest))
            case "kernel" | "module" if blocks:
                words = rest.split(None, 1) or [""]
                if word == "module" and ("xen" not in blocks[-1].kernel or blocks[-1].chain == "xen"):
                    blocks[-1].initrds += (words[0],)
                elif word == "module":
                    blocks[-1].kernel, blocks[-1].options = words[0], "".join(words[1:])
                    blocks[-1].chain = "xen"
                else:
                    blocks[-1].kernel, blocks[-1].options = words[0], "".join(words[1:])
            case "initrd" if blocks:
                blocks[-1].initrds = tuple(rest.split())
            case "chainloader" if blocks:
                blocks[-1].chain = rest
            case _:
                pass
    entries = [
        entry(block.title, "", block.kernel, block.initrds, block.options, chain="" if block.kernel else block.chain)
        for block in blocks
    ]
    if default.lower() == "saved":
        default = (saved.split() or ["0"])[0]
    number = int(default) if default.isdigit() and len(default) < 5 else 0
    return (number if number < len(entries) else 0) if entries else None, entries
