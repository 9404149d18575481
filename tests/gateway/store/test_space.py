# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

from coldmig_gateway import space
from coldmig_gateway.space import Space


def test_a_copy_needs_a_little_more_than_the_disk() -> None:
    size = 100 << 30
    assert size < space.needed_for(size) < size * 1.001


def test_a_disk_of_which_little_is_used_needs_little() -> None:
    size = 16 << 40
    assert space.needed_for(size, 1 << 30) < (1 << 30) * 1.02
    assert space.needed_for(size, 0) < 16 << 20
    assert space.needed_for(1 << 30, size) == space.needed_for(1 << 30)


def test_a_part_of_the_file_system_is_left_free(tmp_path: Path) -> None:
    assert space.reserve_for(1 << 40, None) == (1 << 40) // 100
    assert space.reserve_for(1 << 30, None) == 256 << 20
    assert space.reserve_for(1 << 40, 0) == 0
    whole, rest = space.measure(tmp_path, 0), space.measure(tmp_path, 1 << 20)
    assert whole.total - rest.total == 1 << 20
    assert space.measure(tmp_path, 1 << 60).free == 0


def test_what_was_promised_is_free_for_nobody_else_until_it_is_used() -> None:
    disk = Space(total=1000, free=600)
    assert space.unreserved(disk, []) == 600
    assert space.unreserved(disk, [(300, 0), (200, 150)]) == 250
    assert space.unreserved(disk, [(300, 400)]) == 600
    assert space.unreserved(disk, [(900, 0)]) == 0


def test_staged_bytes_are_those_that_the_file_system_gave(tmp_path: Path) -> None:
    assert space.staged(tmp_path, "none") == 0
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "disk-0.pack").write_bytes(b"x" * 100_000)
    with (tmp_path / "m" / "disk-0.index").open("wb") as sparse:
        sparse.truncate(1 << 30)
    assert 100_000 <= space.staged(tmp_path, "m") < 1 << 20


def test_what_is_shared_with_an_earlier_attempt_is_held_but_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    for name in ("disk-0.pack", "disk-0.base-1.pack", "disk-0.base-1.index", "disk-1.pack", "disk-10.pack"):
        (tmp_path / "m" / name).write_bytes(b"x" * 100_000)
    one = space.staged(tmp_path, "m") // 3
    assert 100_000 <= one < 200_000
    assert space.held(tmp_path, "m", 0) == 2 * one
    assert space.held(tmp_path, "m", 1) == one
    assert space.held(tmp_path, "none", 0) == 0


def test_the_file_system_is_asked(tmp_path: Path) -> None:
    measured = space.measure(tmp_path)
    assert 0 < measured.free <= measured.total
