# SPDX-License-Identifier: GPL-3.0-or-later
"""SMBIOS tables: made by hand, of real servers, and damaged."""

from __future__ import annotations

import ast
import csv
import random
import uuid
from pathlib import Path

import pytest
import smbios

from coldmig_agent.discovery import dmi

UUID = uuid.UUID("564d1925-efca-3787-8f01-020304050607")
GIB = 1 << 30


def parse(*parts: bytes) -> dmi.Dmi:
    return dmi.parse(b"".join(parts) + smbios.END, smbios.ENTRY_POINT_3)


def test_vendor_product_serial_and_uuid_are_read() -> None:
    found = parse(smbios.system("Dell Inc.", "PowerEdge R720", "ABC1234", UUID)).system
    assert found == dmi.System("Dell Inc.", "PowerEdge R720", "ABC1234", str(UUID))


def test_before_2_6_the_uuid_is_read_as_written() -> None:
    table = smbios.system("x", "y", "z", UUID) + smbios.END
    old = dmi.parse(table, b"_SM_\x00\x1f\x02\x04" + bytes(23))
    assert old.system.uuid == str(uuid.UUID(bytes=UUID.bytes_le))


@pytest.mark.parametrize("raw", [uuid.UUID(int=0), uuid.UUID(int=(1 << 128) - 1)])
def test_a_uuid_that_nobody_set_is_none(raw: uuid.UUID) -> None:
    assert parse(smbios.system("x", "y", "z", raw)).system.uuid is None


def test_placeholders_of_board_makers_are_empty() -> None:
    found = parse(smbios.system("To Be Filled By O.E.M.", "Default string", "Not Specified", UUID)).system
    assert (found.vendor, found.product, found.serial) == ("", "", "")


def test_control_characters_do_not_reach_the_console() -> None:
    assert parse(smbios.system("Evil\x1b[2J\nCorp", "p", "s", UUID)).system.vendor == "Evil [2J Corp"


def test_only_populated_sockets_of_central_processors_count() -> None:
    table = [smbios.processor(), smbios.processor(), smbios.processor(populated=False), smbios.processor(central=False)]
    assert len(parse(*table).sockets) == 2


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        ((12, 10, 24), dmi.Socket(12, 10, 24)),
        ((0, 0, 0), dmi.Socket()),
        ((288, 256, 576), dmi.Socket(288, 256, 576)),
        (None, dmi.Socket()),
    ],
    ids=["small", "not filled in", "more than a byte holds", "an old table"],
)
def test_cores_and_threads_of_a_socket_are_read(count: tuple[int, int, int] | None, expected: dmi.Socket) -> None:
    assert parse(smbios.processor(count=count)).sockets == (expected,)


def test_memory_is_the_sum_of_dram_devices() -> None:
    table = [
        smbios.memory_device(16384),
        smbios.memory_device(65536),
        smbios.memory_device(None),
        smbios.memory_device(8, kind=0x09),
        smbios.memory_device(131072, technology=7),
    ]
    assert parse(*table).memory_bytes == 80 * GIB


def test_a_table_without_memory_devices_gives_none() -> None:
    assert parse(smbios.processor()).memory_bytes is None


def test_real_servers_give_what_dmidecode_shows(guest_data: Path) -> None:
    """Index columns: sum of type 17, DIMMs, sockets of central processors, populated ones, core counts in each."""
    with (guest_data / "dmi/index.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert rows
    for row in rows:
        dump = (guest_data / "dmi" / row["file"]).read_text(encoding="utf-8", errors="replace")
        found = dmi.parse(smbios.encode_dump(dump), smbios.ENTRY_POINT_3)
        assert (found.memory_bytes or 0) >> 20 == int(row["dram_mb_type17"]), row["file"]
        assert len(found.sockets) == int(row["populated"]), row["file"]
        cores = {(socket.cores, socket.enabled, socket.threads) for socket in found.sockets}
        listed = ast.literal_eval(row["core(count,enabled,threads)"])
        assert cores == {tuple(int(text) if text else None for text in item) for item in listed}, row["file"]


def test_damaged_tables_neither_fail_nor_hang() -> None:
    table = smbios.system("v", "p", "s", UUID) + smbios.processor() + smbios.memory_device(1024) + smbios.END
    chance = random.Random(1)
    for _ in range(2000):
        broken = bytearray(table)
        for _ in range(chance.randrange(1, 6)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        found = dmi.parse(bytes(broken[: chance.randrange(len(broken) + 1)]), smbios.ENTRY_POINT_3)
        assert found.memory_bytes is None or found.memory_bytes >= 0


def test_a_machine_without_tables_gives_an_empty_result(tmp_path: Path) -> None:
    assert dmi.read(tmp_path) == dmi.Dmi(dmi.System(), (), None)
