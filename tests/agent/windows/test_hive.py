# SPDX-License-Identifier: GPL-3.0-or-later
"""Values out of registry hives: real ones against what two other readers agree on, and made ones for the rest."""

from __future__ import annotations

import csv
import lzma
import os
import struct
from collections import Counter
from pathlib import Path

import pytest
from hive_lab import PAGE, changed, dirty, entry, hive, log_of, nested, new_log, old_log, resealed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coldmig_agent.guest.rootfs import GuestRoot
from coldmig_agent.guest.windows import hive as module
from coldmig_agent.guest.windows.hive import Hive, HiveError, open_hive
from coldmig_agent.guest.windows.tree import Tree

#: hivex's own destructor stumbles over a hive that could not be opened.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
REPLAYED = " + LOG1 + LOG2 (replayed)"


def tree(directory: Path) -> Tree:
    return Tree(GuestRoot.at(directory))


def unpack(source: Path, names: dict[str, str], target: Path) -> None:
    for packed, name in names.items():
        data = (source / packed).read_bytes()
        (target / name).write_bytes(lzma.decompress(data) if packed.endswith(".xz") else data)


def as_listed(hive: Hive, key: str, name: str) -> str:
    """A value as expected.tsv writes it; ``*`` stands for the names of all values."""
    if name == "*":
        return ",".join(hive.values(key)) or "(absent)"
    found = hive.raw(key, name)
    if found is None:
        return "(absent)"
    kind, data = found
    if kind in {1, 2}:
        return hive.text(key, name) or ""
    return str(hive.number(key, name)) if kind in {4, 5, 11} else data.hex()


def real_files(label: str) -> dict[str, str]:
    """Which files of guest-data make the hive that a row of expected.tsv is about."""
    if label.endswith(REPLAYED):
        name = label.removesuffix(REPLAYED)
        return {f"{name}.xz": "HIVE", f"{name}.LOG1.xz": "HIVE.LOG1", f"{name}.LOG2.xz": "HIVE.LOG2"}
    return {label if label.endswith(".xz") or label.startswith("phony") else f"{label}.xz": "HIVE"}


def test_every_listed_value_of_the_real_hives_is_read_as_other_readers_do(guest_data: Path, tmp_path: Path) -> None:
    source = guest_data / "hives"
    with (source / "expected.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert len(rows) > 150
    wrong = []
    right: Counter[str] = Counter()
    for number, label in enumerate(dict.fromkeys(row["file"] for row in rows)):
        place = tmp_path / str(number)
        place.mkdir()
        unpack(source, real_files(label), place)
        with open_hive(tree(place), "/hive") as (found, state):
            assert state.state == {True: "replayed"}.get(label.endswith(REPLAYED), state.state)
            for row in (row for row in rows if row["file"] == label):
                value = as_listed(found, row["key"], row["value"])
                right[label] += value == row["hivex_1.3.23"]
                if value != row["hivex_1.3.23"]:
                    wrong.append((label, row["key"], row["value"], value, row["hivex_1.3.23"]))
            assert not found.damage
    for label, count in right.items():
        print(f"{count:4} values right in {label}")
    assert not wrong
    assert sum(right.values()) == len(rows)


# --- made hives

OLD = hive(
    nested({"A\\B\\number": 1, "A\\B\\text": "yesterday", "A\\B\\list": ["one", "two"], "A\\B\\bytes": b"12345"})
)
NEW = hive(nested({"A\\B\\number": 2, "A\\B\\text": "today", "A\\B\\list": ["one", "two"], "A\\B\\bytes": b"12345"}))


def test_values_are_read_by_their_type_and_names_without_regard_to_case(tmp_path: Path) -> None:
    (tmp_path / "SYSTEM").write_bytes(OLD)
    with open_hive(tree(tmp_path), "system") as (found, state):
        assert (state.name, state.state) == ("SYSTEM", "clean")
        assert found.number("a\\b", "NUMBER") == 1
        assert found.text("A\\b", "Text") == "yesterday"
        assert found.texts("A\\B", "list") == ["one", "two"]
        assert found.raw("A\\B", "bytes") == (3, b"12345")
        assert found.keys("A") == ["B"]
        assert sorted(found.values("A\\B")) == ["bytes", "list", "number", "text"]
        assert found.has("A\\B")


def test_what_is_absent_or_of_another_type_is_none_and_no_damage(tmp_path: Path) -> None:
    (tmp_path / "SYSTEM").write_bytes(OLD)
    with open_hive(tree(tmp_path), "SYSTEM") as (found, _state):
        assert found.number("A\\B", "text") is None
        assert found.text("A\\B", "number") is None
        assert found.texts("A\\B", "number") == []
        assert found.text("A\\B", "nothing") is None
        assert found.text("A\\nothing\\B", "text") is None
        assert found.keys("nothing") == []
        assert not found.has("A\\B\\C")
        assert found.damage == 0


def test_text_that_would_drive_a_terminal_or_is_long_is_made_harmless(tmp_path: Path) -> None:
    (tmp_path / "SYSTEM").write_bytes(hive({"K": {"name": "a\x1b[2Jb" + "c" * 1000, "odd": (1, b"a\0b")}}))
    with open_hive(tree(tmp_path), "SYSTEM") as (found, _state):
        text = found.text("K", "name")
        assert text is not None
        assert len(text) == 255
        assert "\x1b" not in text
        assert found.text("K", "odd") == "a\N{REPLACEMENT CHARACTER}"


def test_a_value_beyond_the_bound_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "SYSTEM").write_bytes(hive({"K": {"big": bytes(module.MAX_VALUE + 1), "small": 1}}))
    with open_hive(tree(tmp_path), "SYSTEM") as (found, _state):
        assert found.raw("K", "big") is None
        assert found.number("K", "small") == 1


@pytest.mark.parametrize("names", [("SYSTEM", "SYSTEM.LOG1"), ("system", "System.Log2"), ("SYSTEM", "SYSTEM.LOG")])
def test_a_dirty_hive_is_read_with_its_log(tmp_path: Path, names: tuple[str, str]) -> None:
    (tmp_path / names[0]).write_bytes(dirty(OLD))
    (tmp_path / names[1]).write_bytes(log_of(OLD, NEW, 8))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with open_hive(tree(tmp_path), "SYSTEM") as (found, state):
        assert (state.state, state.entries) == ("replayed", 1)
        assert found.text("A\\B", "text") == "today"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_dirty_hive_of_windows_7_is_read_with_its_log(tmp_path: Path) -> None:
    (tmp_path / "SYSTEM").write_bytes(dirty(OLD))
    (tmp_path / "SYSTEM.LOG1").write_bytes(old_log(OLD, NEW, 8))
    (tmp_path / "SYSTEM.LOG2").write_bytes(b"")
    with open_hive(tree(tmp_path), "SYSTEM") as (found, state):
        assert (state.state, found.number("A\\B", "number")) == ("replayed", 2)


def test_a_dirty_hive_without_logs_is_read_as_it_is_and_called_stale(tmp_path: Path) -> None:
    (tmp_path / "SYSTEM").write_bytes(dirty(OLD))
    with open_hive(tree(tmp_path), "SYSTEM") as (found, state):
        assert (state.state, found.text("A\\B", "text")) == ("stale", "yesterday")
        assert "log" in state.problem


def test_a_dirty_hive_too_large_to_copy_is_read_without_its_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "SYSTEM").write_bytes(dirty(OLD))
    (tmp_path / "SYSTEM.LOG1").write_bytes(log_of(OLD, NEW, 8))
    monkeypatch.setattr(module, "MAX_COPY", len(OLD) - 1)
    with open_hive(tree(tmp_path), "SYSTEM") as (found, state):
        assert (state.state, found.text("A\\B", "text")) == ("stale", "yesterday")


def test_a_log_that_would_make_a_huge_hive_does_not(tmp_path: Path) -> None:
    huge = 400 << 20
    log = new_log(8, huge, [entry(8, huge, changed(OLD, NEW))])
    (tmp_path / "SYSTEM").write_bytes(dirty(OLD))
    (tmp_path / "SYSTEM.LOG1").write_bytes(log)
    with open_hive(tree(tmp_path), "SYSTEM") as (found, state):
        assert (state.state, found.text("A\\B", "text")) == ("stale", "yesterday")


def test_the_working_directory_and_the_temporary_one_are_left_as_they_were(tmp_path: Path) -> None:
    place, scratch = tmp_path / "guest", tmp_path / "scratch"
    place.mkdir()
    scratch.mkdir()
    (place / "CLEAN").write_bytes(OLD)
    (place / "DIRTY").write_bytes(dirty(OLD))
    here = Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(scratch))
        for name in ("CLEAN", "DIRTY"):
            with open_hive(tree(place), name):
                assert list(scratch.iterdir()) == []
    assert Path.cwd() == here


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "bytes"),
        (bytes(PAGE * 2), "regf"),
        (resealed(OLD[:36] + struct.pack("<I", 0x7FFFFFF0) + OLD[40:PAGE]) + OLD[PAGE:], "hivex"),
        (OLD[:PAGE] + b"nono" + OLD[PAGE + 4 :], "hivex"),
    ],
    ids=["empty", "zeros", "root outside", "no bin"],
)
def test_what_is_no_hive_is_refused_with_its_name_and_the_reason(tmp_path: Path, content: bytes, word: str) -> None:
    (tmp_path / "SYSTEM").write_bytes(content)
    with pytest.raises(HiveError, match=f"SYSTEM.*{word}|{word}"), open_hive(tree(tmp_path), "SYSTEM"):
        pass


def test_of_a_damaged_hive_what_comes_before_the_damage_is_read(tmp_path: Path) -> None:
    whole = hive({"A": {"name": "seen", "other": "lost"}}, room=PAGE)
    free = PAGE + 32
    while (size := struct.unpack_from("<i", whole, free)[0]) < 0:
        free -= size
    (tmp_path / "SYSTEM").write_bytes(whole[:free] + bytes(4) + whole[free + 4 :])  # a cell of no size
    with open_hive(tree(tmp_path), "SYSTEM") as (found, _state):
        assert found.text("A", "name") == "seen"


def test_a_value_that_cannot_be_read_counts_as_damage(tmp_path: Path) -> None:
    whole = hive({"A": {"name": "seen", "other": "lost"}})
    value = whole.index(b"other") - 20
    (tmp_path / "SYSTEM").write_bytes(whole[: value + 8] + b"\xf8\xff\xff\x7f" + whole[value + 12 :])
    with open_hive(tree(tmp_path), "SYSTEM") as (found, _state):
        assert (found.text("A", "name"), found.damage) == ("seen", 0)
        assert found.text("A", "other") is None
        assert found.damage == 1


def test_links_directories_and_pipes_in_place_of_a_hive_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(OLD)
    guest = tmp_path / "guest"
    guest.mkdir()
    (guest / "LINK").symlink_to(tmp_path / "secret")
    (guest / "DIRECTORY").mkdir()
    os.mkfifo(guest / "PIPE")
    for name in ("LINK", "DIRECTORY", "PIPE", "NOTHING"):
        with pytest.raises(HiveError), open_hive(tree(guest), name):
            pass


BROKEN = st.lists(st.tuples(st.integers(0, len(OLD) - 1), st.integers(0, 255)), max_size=12)


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(places=BROKEN, cut=st.integers(0, 4096) | st.just(0), seal=st.booleans())
def test_a_damaged_hive_ends_in_a_typed_error_or_in_values(
    tmp_path: Path, places: list[tuple[int, int]], cut: int, seal: bool
) -> None:
    data = bytearray(OLD)
    for place, value in places:
        data[place] = value
    whole = bytes(data[: len(data) - cut])
    (tmp_path / "SYSTEM").write_bytes(resealed(whole[:PAGE]) + whole[PAGE:] if seal else whole)
    try:
        with open_hive(tree(tmp_path), "SYSTEM") as (found, _state):
            for key in ("A", "A\\B"):
                found.keys(key)
                for name in (*found.values(key), "number", "text", "list"):
                    for read in (found.text, found.number, found.texts, found.raw):
                        read(key, name)
    except HiveError:
        pass
