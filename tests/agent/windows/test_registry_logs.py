# SPDX-License-Identifier: GPL-3.0-or-later
"""The logs of a registry hive: what Windows would take from them is taken, and nothing else."""

from __future__ import annotations

import lzma
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hive_lab import PAGE, changed, dirty, entry, hive, log_of, new_log, old_log, resealed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coldmig_agent.guest.windows.marvin32 import marvin32
from coldmig_agent.guest.windows.regf import RegfError, checksum, parse
from coldmig_agent.guest.windows.replay import (
    CLEAN,
    HEAD,
    MAX_HIVE,
    REPLAYED,
    STALE,
    Recovery,
    apply,
    log_extent,
    plan,
    recover,
)


def poked(data: bytes, page: int) -> bytes:
    """The hive with something else in a page behind its keys."""
    at = PAGE + page * PAGE + 100
    return data[:at] + bytes([page]) * 40 + data[at + 40 :]


# Every state differs from the one before it in a page of its own.
ROOM = 8 * PAGE
OLD = hive({"Name": "yesterday", "Number": 1}, room=ROOM)
NEW = poked(OLD, 2)
NEWER = poked(NEW, 4)
NEWEST = poked(NEWER, 6)


def state(data: bytes, *logs: bytes) -> Recovery:
    return plan(data[:HEAD], len(data), logs)


def bins(data: bytes) -> bytes:
    return data[PAGE:]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("", 0x30ED35C100CD3C7D),
        ("af", 0x48E73FC77D75DDC1),
        ("e70f", 0xB5F6E1FC485DBFF8),
        ("37f495", 0xF0B07C789B8CF7E8),
        ("8642dc59", 0x7008F2E87E9CF556),
        ("153fb79826", 0xE6C08C6DA2AFA997),
    ],
)
def test_the_checksum_is_marvin32(data: str, expected: int) -> None:
    assert marvin32(bytes.fromhex(data), (0x001BDBCC, 0x004FB61A)) == expected


@pytest.mark.parametrize(("word", "expected"), [(0, 1), (0xFFFFFFFF, 0xFFFFFFFE), (5, 5)])
def test_the_checksum_of_a_base_block_is_never_zero_or_all_ones(word: int, expected: int) -> None:
    assert checksum(struct.pack("<I", word) + bytes(504)) == expected


# --- real hives


def test_a_real_hive_is_recovered_as_windows_10_did_it(guest_data: Path) -> None:
    place = guest_data / "hives/NewDirtyHive1"
    logs = [(place / f"NewDirtyHive.{log}").read_bytes() for log in ("LOG1", "LOG2")]
    expected = (place / "RecoveredHive_Windows10").read_bytes()
    recovered = recover((place / "NewDirtyHive").read_bytes(), logs)
    assert bins(recovered) == bins(expected)
    assert recovered[12:508] == expected[12:508]
    assert not parse(recovered).dirty


def test_all_entries_of_both_logs_of_a_real_system_are_applied(guest_data: Path) -> None:
    place = guest_data / "hives"
    primary, *logs = (
        lzma.decompress((place / f"win10_dell_SYSTEM_B_dirty{log}.xz").read_bytes()) for log in ("", ".LOG1", ".LOG2")
    )
    recovery = state(primary, *logs)
    assert (recovery.state, recovery.entries, len(recovery.pages)) == (REPLAYED, 24, 315)


# --- Windows 8.1 and later


def test_a_clean_hive_is_left_as_it_is_whatever_its_logs_say() -> None:
    assert state(OLD, log_of(OLD, NEW, 8)) == Recovery(CLEAN, len(OLD))


def test_a_dirty_hive_gets_the_pages_of_its_log() -> None:
    recovered = recover(dirty(OLD), [log_of(OLD, NEW, 8)])
    assert bins(recovered) == bins(NEW)
    assert not parse(recovered).dirty


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_log_with_the_lower_numbers_comes_first(order: tuple[int, int]) -> None:
    logs = [log_of(OLD, NEW, 8), log_of(NEW, NEWER, 9)]
    recovered = recover(dirty(OLD), [logs[index] for index in order])
    assert bins(recovered) == bins(NEWER)


def test_a_log_that_does_not_continue_the_other_is_left_out() -> None:
    recovery = state(dirty(OLD), log_of(OLD, NEW, 8), log_of(NEW, NEWER, 10))
    assert (recovery.state, recovery.entries) == (REPLAYED, 1)
    assert bins(apply(dirty(OLD), recovery)) == bins(NEW)


def test_a_log_older_than_the_hive_is_left_out() -> None:
    recovery = state(dirty(OLD, 20, 19), log_of(OLD, NEW, 8))
    assert recovery.state == STALE
    assert "newer" in recovery.problem


def test_remains_of_earlier_entries_behind_the_newest_are_left_out() -> None:
    size = len(bins(NEW))
    log = new_log(8, size, [entry(8, size, changed(OLD, NEW)), entry(5, size, changed(NEW, NEWER))])
    assert changed(OLD, NEW) != changed(NEW, NEWER)
    assert bins(recover(dirty(OLD), [log])) == bins(NEW)


@pytest.mark.parametrize("place", [24, 32, 40, 600], ids=["hash of the content", "hash of the head", "head", "page"])
def test_an_entry_with_a_wrong_checksum_ends_the_recovery_and_what_came_before_counts(place: int) -> None:
    size = len(bins(NEW))
    second = bytearray(entry(9, size, changed(NEW, NEWER)))
    second[place] ^= 1
    log = new_log(8, size, [entry(8, size, changed(OLD, NEW)), bytes(second), entry(10, size, changed(NEWER, NEWEST))])
    recovery = state(dirty(OLD), log)
    assert recovery.entries == 1
    assert bins(apply(dirty(OLD), recovery)) == bins(NEW)


def test_without_a_base_block_of_its_own_only_the_newest_log_counts() -> None:
    broken = dirty(OLD)[:508] + b"\0\0\0\0" + OLD[512:]
    recovered = recover(broken, [log_of(OLD, NEW, 8), log_of(OLD, NEWER, 9)])
    assert bins(recovered) == bins(NEWER)
    assert not parse(recovered).dirty


def test_a_log_can_make_a_hive_longer() -> None:
    longer = hive({"Name": "x" * 300}, room=ROOM + 5 * PAGE)
    recovered = recover(dirty(OLD), [log_of(OLD, longer, 8)])
    assert bins(recovered) == bins(longer)


def test_the_lowest_flag_of_the_last_entry_is_taken_over() -> None:
    size = len(bins(NEW))
    recovered = recover(dirty(OLD), [new_log(8, size, [entry(8, size, changed(OLD, NEW), flags=1)])])
    assert struct.unpack_from("<I", recovered, 144)[0] == 1


def test_a_dirty_hive_without_usable_logs_is_made_readable_and_called_stale() -> None:
    recovery = state(dirty(OLD), b"", b"no log at all" * 100, log_of(OLD, NEW, 8)[:512])
    assert (recovery.state, recovery.pages) == (STALE, ())
    recovered = apply(dirty(OLD), recovery)
    assert bins(recovered) == bins(OLD)
    assert not parse(recovered).dirty


@pytest.mark.parametrize(
    "pages",
    [
        [(1 << 20, bytes(512))],
        [(0, b"x")],
        [(13, bytes(512))],
        [(0, b"")],
    ],
    ids=["outside of the bins", "a byte", "off a sector", "nothing"],
)
def test_pages_that_cannot_be_are_not_applied(pages: list[tuple[int, bytes]]) -> None:
    log = new_log(8, len(bins(OLD)), [entry(8, len(bins(OLD)), pages)])
    assert state(dirty(OLD), log).state == STALE


@pytest.mark.parametrize("size", [0, 4095, 0xFFFFF000, MAX_HIVE])
def test_an_entry_with_an_impossible_size_of_the_hive_is_not_applied(size: int) -> None:
    log = new_log(8, len(bins(OLD)), [entry(8, size, [(0, bytes(512))])])
    assert state(dirty(OLD), log).state == STALE


def test_only_the_part_of_a_log_that_counts_is_read() -> None:
    size = len(bins(NEW))
    log = new_log(8, size, [entry(8, size, changed(OLD, NEW))])
    with_remains = log + entry(3, size, changed(NEW, NEWER)) + bytes(1 << 16)
    assert log_extent(lambda offset, length: with_remains[offset : offset + length], len(with_remains)) == len(log)
    assert log_extent(lambda _offset, length: bytes(length), 1 << 20) == 0


# --- up to Windows 8


def test_the_dirty_pages_of_an_old_log_are_written() -> None:
    recovered = recover(dirty(OLD), [old_log(OLD, NEW, 8)])
    assert bins(recovered) == bins(NEW)
    assert not parse(recovered).dirty


def test_an_old_log_of_another_time_is_left_out_unless_it_is_newer() -> None:
    written = resealed(dirty(OLD)[:12] + struct.pack("<Q", 1000) + dirty(OLD)[20:PAGE]) + bins(OLD)
    assert state(written, old_log(OLD, NEW, 8, written=999)).state == STALE
    assert bins(recover(written, [old_log(OLD, NEW, 8, written=1001)])) == bins(NEW)
    both = [old_log(OLD, NEWER, 9, written=1001), old_log(OLD, NEW, 8, written=1000)]
    assert bins(recover(written, both)) == bins(NEW)


def test_an_old_log_that_is_cut_off_is_not_applied() -> None:
    assert state(dirty(OLD), old_log(OLD, NEW, 8)[:-512]).state == STALE


# --- hostile files


@pytest.mark.parametrize("data", [b"", b"regf", bytes(HEAD), b"hbin" + OLD[4:], OLD[:PAGE]])
def test_what_is_no_hive_is_refused_with_the_reason(data: bytes) -> None:
    with pytest.raises(RegfError, match=r"bytes|regf"):
        recover(data, [])


def test_a_hive_beyond_all_measure_is_refused_before_anything_is_made_of_it() -> None:
    with pytest.raises(RegfError, match=str(MAX_HIVE)):
        plan(OLD[:HEAD], MAX_HIVE + 1, [])


def _damaged(make: Callable[[], bytes]) -> st.SearchStrategy[bytes]:
    whole = make()
    spots = st.lists(st.tuples(st.integers(0, min(len(whole), 6000) - 1), st.integers(0, 255)), max_size=6)

    def change(arguments: tuple[list[tuple[int, int]], int, bool]) -> bytes:
        places, length, seal = arguments
        data = bytearray(whole)
        for place, value in places:
            data[place] = value
        done = bytes(data[: len(data) - length])
        return resealed(done[:512]) + done[512:] if seal and len(done) >= 512 else done

    return st.tuples(spots, st.integers(0, len(whole)) | st.just(0), st.booleans()).map(change)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    data=_damaged(lambda: dirty(OLD)),
    log1=_damaged(lambda: log_of(OLD, NEW, 8)),
    log2=_damaged(lambda: old_log(OLD, NEW, 8)),
)
def test_damaged_hives_and_logs_end_in_a_typed_error_or_within_their_bounds(
    data: bytes, log1: bytes, log2: bytes
) -> None:
    try:
        recovery = plan(data[:HEAD], len(data), [log1, log2])
    except RegfError:
        return
    assert recovery.size <= MAX_HIVE
    assert all(place >= 0 and place + len(page) <= recovery.size for place, page in recovery.pages)
    if recovery.size < 1 << 24:
        assert len(apply(data, recovery)) == recovery.size
