# SPDX-License-Identifier: GPL-3.0-or-later
"""Menus of SYSLINUX and EXTLINUX."""

from __future__ import annotations

import posixpath

from coldmig_agent.guest.boot.menu import MAX_PARSED, entry
from coldmig_agent.guest.facts import BootEntry

_MAX_LINE = 4096


def parse_syslinux(text: str, directory: str) -> tuple[int | None, list[BootEntry]]:
    """Default index and entries; relative paths start at the directory of the configuration."""
    default = timeout = marked = ""
    labels: list[dict[str, str]] = []
    for raw in text.splitlines():
        words = raw[:_MAX_LINE].strip().split(None, 1)
        key, value = (words[0].lower(), words[1].strip() if len(words) == 2 else "") if words else ("", "")
        match key:
            case "default" if not labels:
                default = value
            case "ontimeout":
                timeout = value
            case "label" if len(labels) < MAX_PARSED:
                labels.append({"label": value})
            case "menu" if labels:
                what, _unused, rest = value.partition(" ")
                if what.lower() == "label":
                    labels[-1]["title"] = rest.replace("^", "")
                elif what.lower() == "default":
                    marked = labels[-1]["label"]
            case "kernel" | "linux" | "initrd" | "append" if labels:
                labels[-1]["kernel" if key == "linux" else key] = value
            case _:
                pass
    entries = [_entry(item, directory) for item in labels if item.get("kernel")]
    wanted = [name for name in (timeout, marked, default) if name]
    for name in wanted:
        for index, found in enumerate(entries):
            if found.identity.lower() == name.split()[0].lower():
                return index, entries
    return 0 if entries else None, entries


def _path(directory: str, word: str) -> str:
    return posixpath.normpath(posixpath.join(directory, word))


def _entry(values: dict[str, str], directory: str) -> BootEntry:
    options = values.get("append", "")
    initrds = values.get("initrd", "").replace(",", " ").split()
    for word in options.split():
        if word.startswith("initrd="):
            initrds += word.removeprefix("initrd=").split(",")
    return entry(
        values.get("title") or values["label"],
        values["label"],
        _path(directory, values["kernel"].split()[0]),
        [_path(directory, word) for word in initrds],
        options,
    )
