# SPDX-License-Identifier: GPL-3.0-or-later
"""Which volume a guest means by a name: in fstab, after ``root=``, in a boot loader's ``search``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from coldmig_agent.guest.facts import InspectedFacts

_TAGS = {
    "/dev/disk/by-uuid/": "UUID=",
    "/dev/disk/by-label/": "LABEL=",
    "/dev/disk/by-partuuid/": "PARTUUID=",
    "/dev/disk/by-partlabel/": "PARTLABEL=",
}
_DISK = re.compile(r"^/dev/(?:(?:[hsv]d|xvd)(?P<letters>[a-z]{1,2})|nvme(?P<nvme>\d{1,3})n1p?)(?P<number>\d{0,3})$")


def _disk_number(letters: str) -> int:
    value = 0
    for letter in letters:
        value = value * 26 + ord(letter) - ord("a") + 1
    return value - 1


def lvm_names(key: str) -> tuple[str, ...]:
    """``lvm/vg/lv`` → ``/dev/vg/lv`` and the name of its device-mapper device, in which ``-`` is doubled."""
    parts = key.split("/")
    if len(parts) != 3 or parts[0] != "lvm":
        return ()
    group, volume = parts[1], parts[2]
    return (
        f"/dev/{group}/{volume}",
        f"/dev/mapper/{group.replace('-', '--')}-{volume.replace('-', '--')}",
    )


def normal(spec: str) -> str:
    """One spelling for one name: tags for links by UUID and label, no quotes, UUIDs in lower case."""
    text = spec.strip().strip("\"'")
    for prefix, tag in _TAGS.items():
        if text.startswith(prefix):
            text = tag + text.removeprefix(prefix).replace("\\x20", " ").replace("\\x2f", "/")
    tag, equals, value = text.partition("=")
    if equals and tag.upper() in {"UUID", "LABEL", "PARTUUID", "PARTLABEL"}:
        value = value.strip("\"'")
        return f"{tag.upper()}={value.lower() if tag.upper().endswith('UUID') else value}"
    return text


class Volumes:
    """All volumes of the machine, by every name that a guest may have for them."""

    def __init__(self, items: Sequence[InspectedFacts]) -> None:
        self.items = tuple(items)
        self._names: dict[str, list[InspectedFacts]] = {}
        for item in items:
            names = [*item.names, *lvm_names(item.key)]
            if item.uuid:
                names += [f"UUID={item.uuid}", f"/dev/mapper/luks-{item.uuid}"]
            if item.label:
                names.append(f"LABEL={item.label}")
            if item.key.startswith("md/"):
                name = item.key.removeprefix("md/")
                names += [f"/dev/md/{name}", f"/dev/{name}", f"/dev/disk/by-id/md-uuid-{name}"]
            for name in dict.fromkeys(normal(name) for name in names):
                self._names.setdefault(name, []).append(item)

    def find(self, spec: str) -> InspectedFacts | None:
        """The volume; None where the name means none of them, or several that are not alike."""
        name = normal(spec)
        found = self._names.get(name, [])
        if not found and (match := _DISK.match(name)):
            disk = int(match["nvme"]) if match["nvme"] else _disk_number(match["letters"])
            found = self._of_disk(disk, match["number"])
        # Several: members of one Btrfs, or a copy. The first one that was read stands for them, a snapshot for none.
        return min(found, key=lambda item: (item.snapshot, item.facts is None), default=None)

    def _of_disk(self, disk: int, number: str) -> list[InspectedFacts]:
        """A disk by its old name: its letter is taken for its place, else it is the only one with that partition."""
        ending = f"/{number}" if number else ""
        partitions = [item for item in self.items if re.fullmatch(rf"disk\d+{ending}", item.key)]
        exact = [item for item in partitions if item.key == f"disk{disk}{ending}"]
        return exact or (partitions if len(partitions) == 1 else [])

    def by_search(self, value: str) -> InspectedFacts | None:
        """A volume by what a boot loader looks for: a UUID or a label."""
        return self.find(f"UUID={value}") or self.find(f"LABEL={value}") if value else None

    def encrypted(self) -> list[InspectedFacts]:
        """Volumes that only a key opens."""
        return [item for item in self.items if item.fstype == "crypto_LUKS"]
