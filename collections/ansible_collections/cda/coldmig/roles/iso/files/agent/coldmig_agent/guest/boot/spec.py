# SPDX-License-Identifier: GPL-3.0-or-later
"""Boot Loader Specification entries (``/loader/entries/*.conf``), as GRUB's blscfg and systemd-boot read them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass

from coldmig_agent.guest.boot.menu import entry
from coldmig_agent.guest.facts import BootEntry
from coldmig_agent.text import natural_key

_TRIES = re.compile(r"\+(\d+)(?:-\d+)?$")
_MAX_PATTERN = 128


@dataclass(frozen=True, slots=True)
class Spec:
    """An entry with what decides its place: sort key, version, and whether its tries are used up."""

    name: str
    entry: BootEntry
    sort_key: str
    version: str
    bad: bool


def parse_entry(text: str, filename: str, kernelopts: str = "") -> Spec | None:
    """One file; None where it starts no kernel. ``kernelopts`` stands in for that variable of GRUB."""
    values: dict[str, list[str]] = {}
    for line in text.splitlines():
        words = line.strip().split(None, 1)
        if len(words) == 2 and not words[0].startswith("#"):
            values.setdefault(words[0], []).append(words[1].strip())
    kernel = (values.get("linux") or values.get("efi") or [""])[0]
    if not kernel:
        return None
    name = filename.removesuffix(".conf")
    tries = _TRIES.search(name)
    name = _TRIES.sub("", name)
    options = " ".join(values.get("options", [])).replace("${kernelopts}", "$kernelopts")
    version = values.get("version", [""])[0]
    made = entry(
        values.get("title", [name])[0],
        name,
        kernel,
        [word for value in values.get("initrd", []) for word in value.split()],
        options.replace("$kernelopts", kernelopts) if kernelopts else options,
        version=version,
    )
    return Spec(name, made, values.get("sort-key", [""])[0], version, tries is not None and tries[1] == "0")


def grub_order(specs: Sequence[Spec]) -> list[Spec]:
    """As blscfg shows them: by the file's name, the newest first."""
    return sorted(specs, key=lambda item: natural_key(item.name), reverse=True)


def systemd_order(specs: Sequence[Spec]) -> list[Spec]:
    """As systemd-boot shows them: by sort key, each with the newest first; then the others; used-up ones last."""
    newest = sorted(specs, key=lambda item: natural_key(item.version or item.name), reverse=True)
    return sorted(newest, key=lambda item: (item.bad, not item.sort_key, item.sort_key))


def systemd_default(specs: Sequence[Spec], loader_conf: str) -> int | None:
    """Index of what systemd-boot starts without its variables: those of another machine do not come along."""
    pattern = ""
    for line in loader_conf.splitlines():
        words = line.strip().split(None, 1)
        if len(words) == 2 and words[0] in {"default", "preferred"} and not words[1].startswith("@"):
            pattern = words[1].strip()[:_MAX_PATTERN].lower()
            if words[0] == "preferred":
                break
    for index, item in enumerate(specs):
        names = {item.name.lower(), f"{item.name.lower()}.conf"}
        if pattern and any(fnmatch.fnmatchcase(name, pattern) for name in names):
            return index
    return 0 if specs else None
