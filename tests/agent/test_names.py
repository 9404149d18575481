# SPDX-License-Identifier: GPL-3.0-or-later
"""What a machine is called, from its own system down to the address of its first card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from agent_lab import MIB, empty_image, write_tree

from coldmig_agent import names
from coldmig_agent.discovery import ldm
from coldmig_agent.discovery.disks import Source, read_image_files
from coldmig_agent.encryption.bitlocker import BitLocker
from coldmig_agent.machine import Guest, Nic

CARD = Nic("eno1", "00:50:56:00:00:01", "00:50:56:00:00:02", "e1000e", 1000, True, None)
BITLOCKER = BitLocker((0x0800,), "WIN-SRV1 C: 1/1/2026")


@pytest.fixture
def source(tmp_path: Path) -> Source:
    (found,) = read_image_files([empty_image(tmp_path / "disk.img", MIB)])
    return found


def zfs_of(source: Source, owner: str) -> Source:
    (volume,) = source.volumes
    return replace(source, volumes=(replace(volume, content=replace(volume.content, owner=owner)),))


def test_every_step_of_the_chain_counts_only_where_all_before_it_fail(tmp_path: Path, source: Source) -> None:
    write_tree(tmp_path, {"systemd/netif/leases/2": "ADDRESS=10.0.0.5\nHOSTNAME=leased-7\n"})
    guests = [Guest(), Guest(hostname="erp-db-01")]
    disk = replace(source, dynamic=ldm.Group("FILESRVDg0"))
    pool = zfs_of(source, "filer1")
    empty = tmp_path / "empty"

    def name(guests: list[Guest], encrypted: list[BitLocker], sources: list[Source], run: Path, *rest: str) -> str:
        cards = [CARD] if rest else []
        return names.machine_name(guests, encrypted, sources, run, addresses=list(rest[1:]), cards=cards)

    assert name(guests, [BITLOCKER], [disk], tmp_path, "card", "10.0.0.5") == "erp-db-01"
    assert name([], [BITLOCKER], [disk], tmp_path, "card", "10.0.0.5") == "WIN-SRV1"
    assert name([], [], [disk, pool], tmp_path, "card", "10.0.0.5") == "FILESRV"
    assert name([], [], [pool], tmp_path, "card", "10.0.0.5") == "filer1"
    assert name([], [], [source], tmp_path, "card", "10.0.0.5") == "leased-7"
    assert name([], [], [source], empty, "card", "10.0.0.5") == "10.0.0.5"
    assert name([], [], [source], empty, "card") == CARD.permanent_mac
    assert name([], [], [source], empty) == "unknown"


def test_a_windows_is_called_by_its_netbios_name_where_it_has_no_other(source: Source, tmp_path: Path) -> None:
    guest = Guest("windows", computer_name="WIN7")
    assert names.machine_name([guest], [], [source], tmp_path, addresses=[], cards=[]) == "WIN7"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("srv1.example.com.", "srv1.example.com"),
        ("  padded ", "padded"),
        ("localhost", None),
        ("LOCALHOST.localdomain", None),
        ("coldmig", None),
        ("-dash", None),
        ("a b", None),
        ("evil\x1b[2J", None),
        ("", None),
        (None, None),
        ("x" * 300, "x" * 253),
    ],
)
def test_a_name_counts_only_if_a_computer_can_be_called_so(name: str | None, expected: str | None) -> None:
    assert names.usable(name) == expected


def test_leases_that_say_nothing_are_passed_over(tmp_path: Path) -> None:
    assert names.of_leases(tmp_path) is None
    files = {"1": "HOSTNAME=localhost\n", "2": "\x00\xff", "3": "HOSTNAME=a b\n", "4": "X=1\nHOSTNAME=fourth\n"}
    write_tree(tmp_path, {f"systemd/netif/leases/{number}": text for number, text in files.items()})
    assert names.of_leases(tmp_path) == "fourth"
