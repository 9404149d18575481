# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that the settings leave out: which ones, and that those known by the kernel's word are never opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from agent_lab import empty_image

from coldmig_agent.config import DiskRule, parse_rule
from coldmig_agent.discovery import disks, leaveout
from coldmig_agent.discovery.blockdevices import BlockDevice
from coldmig_agent.machine import LeftOut
from support.images import MIB

DISK = BlockDevice(
    "sdb", Path("/dev/sdb"), "0", 4_000_787_030_016, 512, None, "WD-1 23", "", "", False,
    links=("/dev/disk/by-id/usb-WD_Elements-0:0", "/dev/disk/by-path/pci-0000:00:14.0-usb-0:1:1.0-scsi-0:0:0:0"),
)  # fmt: skip


def rule(**values: Any) -> DiskRule:
    return parse_rule(values, "rule")


@pytest.mark.parametrize(
    ("values", "labels", "fits"),
    [
        ({"serial": "WD-1 23"}, None, True),
        ({"serial": "wd-1 23"}, None, False),
        ({"path": "/dev/sdb"}, None, True),
        ({"path": "/dev/sd?"}, None, True),
        ({"path": "/dev/disk/by-id/usb-*"}, None, True),
        ({"path": "/dev/sda"}, None, False),
        ({"size": "4TB"}, None, True),
        ({"size": "4TiB"}, None, False),
        ({"size": 4_000_787_030_016}, None, True),
        ({"size": 4_000_787_030_015}, None, False),
        ({"larger_than": "4TB"}, None, True),
        ({"larger_than": 4_000_787_030_016}, None, False),
        ({"smaller_than": "4TiB"}, None, True),
        ({"smaller_than": 4_000_787_030_016}, None, False),
        ({"larger_than": "1TB", "smaller_than": "2TB"}, None, False),
        ({"label": "BACKUP"}, None, False),  # nobody has looked yet
        ({"label": "BACKUP"}, ("ROOT", "BACKUP"), True),
        ({"label": "BACKUP"}, (), False),
        ({"label": "BACKUP", "serial": "another"}, ("BACKUP",), False),
        ({"path": "/dev/sdb", "size": "2TB"}, None, False),
    ],
)
def test_all_that_a_rule_says_has_to_fit(values: dict[str, Any], labels: Any, fits: bool) -> None:
    assert leaveout.fits(rule(**values), DISK, labels) is fits


def test_one_rule_of_several_is_enough_and_is_named() -> None:
    rules = [rule(serial="another"), rule(path="/dev/sd*", larger_than="1TB")]
    assert leaveout.reason(rules, DISK) == "left out by the settings (path /dev/sd*, larger than 1TB)"
    assert leaveout.reason(rules[:1], DISK) == ""


def machine(root: Path, serials: dict[str, str]) -> Path:
    for name, serial in serials.items():
        for path, text in {"size": "2048", "serial": serial, "queue/logical_block_size": "512", "dev": "8:0"}.items():
            (root / "sys/block" / name / path).parent.mkdir(parents=True, exist_ok=True)
            (root / "sys/block" / name / path).write_text(text)
        (root / "dev").mkdir(exist_ok=True)
        empty_image(root / "dev" / name, MIB)
    return root


def found(root: Path, *rules: DiskRule) -> tuple[list[str], list[LeftOut], list[str]]:
    opened: list[Path] = []
    left: list[LeftOut] = []
    paths = (root / "sys", root / "dev", root / "run")
    sources = disks.read_machine_disks(*paths, opened.append, rules=rules, left_out=left.append)
    return [source.disk.serial for source in sources], left, [path.name for path in opened]


def test_a_disk_left_out_by_its_serial_number_is_not_opened(tmp_path: Path) -> None:
    root = machine(tmp_path, {"vda": "A", "vdb": "B", "vdc": "C"})
    kept, left, opened = found(root, rule(serial="B"))
    assert (kept, opened) == (["A", "C"], ["vda", "vdc"])
    assert left == [LeftOut(str(root / "dev/vdb"), MIB, "B", "", "left out by the settings (serial B)")]


def test_a_disk_left_out_by_its_label_is_looked_into_for_it(tmp_path: Path) -> None:
    root = machine(tmp_path, {"vda": "A", "vdb": "B"})
    with (root / "dev/vdb").open("r+b") as file:
        file.seek(1024)
        file.write(bytes(56) + b"\x53\xef" + bytes(62) + b"BACKUP".ljust(16, b"\0"))
    kept, left, opened = found(root, rule(label="BACKUP"))
    assert (kept, opened) == (["A"], ["vda", "vdb"])
    assert [disk.serial for disk in left] == ["B"]


def test_the_rest_is_numbered_without_gaps(tmp_path: Path) -> None:
    images = [empty_image(tmp_path / f"{number}.img", MIB) for number in range(3)]
    left: list[LeftOut] = []
    sources = disks.read_image_files(images, [rule(serial="image-1")], left.append)
    assert [(source.disk.index, source.disk.serial) for source in sources] == [(0, "image-0"), (1, "image-2")]
    assert [volume.disk for source in sources for volume in source.volumes] == [0, 1]
    assert [disk.serial for disk in left] == ["image-1"]
