# SPDX-License-Identifier: GPL-3.0-or-later
"""A source machine below a directory: a hand-made sysfs with image files in the place of devices."""

from __future__ import annotations

from pathlib import Path

from agent_lab import MIB, empty_image, write_tree

from coldmig_agent.discovery import disks
from coldmig_agent.discovery.disks import Source


class Machine:
    """A sysfs, a /dev and a /run below a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.opened: list[Path] = []
        for name in ("sys/block", "sys/class/block", "dev", "run"):
            (root / name).mkdir(parents=True)

    def add(self, name: str, place: str, size: int = 8 * MIB, content: bytes = b"", **files: str) -> Path:
        path = empty_image(self.root / "dev" / name, size)
        with path.open("r+b") as file:
            file.write(content)
        base = f"sys/devices/{place}/block/{name}"
        defaults = {"size": f"{size // 512}\n", "dev": "8:0\n", "queue/logical_block_size": "512\n"}
        write_tree(self.root, {f"{base}/{key}": value for key, value in {**defaults, **files}.items()})
        (self.root / "sys/block" / name).symlink_to(self.root / base)
        (self.root / "sys/class/block" / name).symlink_to(self.root / base)
        return path

    def read(self) -> list[Source]:
        self.opened.clear()
        return disks.read_machine_disks(self.root / "sys", self.root / "dev", self.root / "run", self.opened.append)
