# SPDX-License-Identifier: GPL-3.0-or-later
"""The full screen: the right words in every phase, within its size, with what matters most never cut."""

from __future__ import annotations

from dataclasses import replace

import pytest
from console_lab import GIB, SNAPSHOT, VIEW

from coldmig_agent.checks import STEPS, Result, Verdict
from coldmig_agent.console.picture import log_lines, overview, scrolled, styled, way_lines
from coldmig_agent.console.words import disk_line, savings_line, total_line
from coldmig_agent.status import Phase, Snapshot, Status
from coldmig_agent.warnings import CATALOGUE, notice

KEYS = (("h", "help"), ("r", "reboot"))


def screen(snapshot: Snapshot, width: int = 80, height: int = 25) -> str:
    return "\n".join(line.text for line in overview(snapshot, width, height, keys=KEYS))


def test_a_disk_shows_share_rate_and_time_left() -> None:
    line = disk_line(VIEW)
    assert "disk 0 [########" in line
    assert "40.0 %" in line
    assert "1.2 GiB of 3.0 GiB" in line
    assert "35.0 MiB/s" in line
    assert "52 s left" in line


def test_an_unknown_time_is_said_and_a_complete_disk_has_none() -> None:
    assert "time left unknown" in disk_line(replace(VIEW, seconds_left=None))
    assert "left" not in disk_line(replace(VIEW, done_chunks=3072, seconds_left=0))


def test_lost_bytes_are_shown() -> None:
    assert "4.0 KiB UNREADABLE" in disk_line(replace(VIEW, unreadable_bytes=4096))


def test_the_screen_shows_everything_an_operator_asks_for() -> None:
    text = screen(SNAPSHOT)
    for part in ("https://site.example:8443", "standard (acme)", "c4654531", "erp-db-01", "10.0.2.15", "Debian", "TPM",
                 "COPYING", "40.0 %", "Leave this machine running"):  # fmt: skip
        assert part in text


@pytest.mark.parametrize(
    ("phase", "words"),
    [
        (Phase.WAITING, "CONFIRM THIS MIGRATION"),
        (Phase.VERIFYING, "VERIFYING EVERY CHUNK"),
        (Phase.DONE, "You can power off this machine now"),
        (Phase.FAILED, "HAS FAILED"),
        (Phase.CANCELED, "WAS CANCELED"),
    ],
)
def test_every_phase_says_what_it_means(phase: Phase, words: str) -> None:
    assert words in screen(replace(SNAPSHOT, phase=phase))


def test_a_reason_is_shown_with_the_end() -> None:
    assert "wrong machine" in screen(replace(SNAPSHOT, phase=Phase.CANCELED, detail="canceled: wrong machine"))


def test_a_problem_is_shown_with_the_assurance_that_the_agent_goes_on() -> None:
    text = screen(replace(SNAPSHOT, problem="cannot reach https://site.example:8443: connection refused"))
    assert "PROBLEM" in text
    assert "connection refused" in text
    assert "keeps trying" in text


def test_the_screen_never_exceeds_its_size_and_keeps_what_matters() -> None:
    big = replace(
        SNAPSHOT,
        machine=tuple(f"disk {n}: /dev/sd{n} " + "x" * 200 for n in range(40)),
        notices=tuple(notice("old-device-names", system="x", names=str(n) * 400) for n in range(30)),
        disks=tuple(replace(VIEW, index=n) for n in range(40)),
        problem="the site is away",
    )
    for width, height in ((80, 24), (80, 25), (132, 50), (40, 15)):
        for page in range(5):
            lines = overview(big, width, height, page, ["an event"] * 9, KEYS)
            assert len(lines) == height
            assert all(len(line.text) <= width for line in lines)
            assert lines[-1].text.startswith(" h help")
    assert "the site is away" in screen(big)
    assert "40 disks in all" in screen(big)


def pages(snapshot: Snapshot, count: int, height: int = 24) -> str:
    return "\n".join(line.text for page in range(count) for line in overview(snapshot, 80, height, page, keys=KEYS))


def test_a_warning_is_shown_with_its_severity_its_code_and_what_to_do() -> None:
    sealed = notice("tpm-sealed", place="disk 0 (/dev/sda), partition 3", how="ubuntu-fde")
    text = screen(replace(SNAPSHOT, phase=Phase.WAITING, notices=(sealed,)))
    assert " BLOCKS    a key of disk 0" in text
    assert "[tpm-sealed]" in text
    assert "-> Make a recovery key" in text


def test_what_does_not_fit_is_shown_in_turns_and_nothing_is_left_out() -> None:
    many = tuple(notice(code, **dict.fromkeys(entry.fields, "x")) for code, entry in CATALOGUE.items())
    snapshot = replace(SNAPSHOT, phase=Phase.WAITING, notices=many)
    first = overview(snapshot, 80, 24, keys=KEYS)
    (footer,) = [line.text for line in first if "page 1 of" in line.text]
    count = int(footer.split(" of ")[1].split(";")[0])
    text = pages(snapshot, count)
    assert [code for code in CATALOGUE if f"[{code}]" not in text.replace("\n           ", " ")] == []
    for page in range(count):
        assert any("CONFIRM THIS MIGRATION" in line.text for line in overview(snapshot, 80, 24, page, keys=KEYS))
    assert overview(snapshot, 80, 24, count, keys=KEYS) == first


def test_an_assessed_machine_shows_every_device_and_which_keys_to_press() -> None:
    text = screen(replace(SNAPSHOT, phase=Phase.ASSESSED))
    assert "NOTHING IS COPIED" in text
    assert "disks: PVSCSI ready, NVMe no" in text
    assert "press r to reboot this machine or p to power it off" in text
    assert "PVSCSI ready, NVMe no" not in screen(replace(SNAPSHOT, phase=Phase.WAITING))


def test_a_long_phase_says_what_it_is_doing() -> None:
    status = Status()
    status.phase(Phase.DISCOVERING)
    status.step("looking into disk 0, partition 2")
    assert "looking into disk 0, partition 2" in screen(status.snapshot())
    assert status.snapshot().phase is Phase.DISCOVERING


def test_what_was_saved_and_what_limits_is_shown_without_pushing_out_the_disk() -> None:
    view = replace(VIEW, skipped_bytes=GIB, reused_chunks=512)
    text = screen(replace(SNAPSHOT, disks=(view,), copy="the link to the site limits the speed; 4 connections, zstd-3"))
    for words in ("disk 0: 1.0 GiB free, 512.0 MiB at the site from before", "the link to the site limits the speed"):
        assert words in text
    assert savings_line(VIEW) == ""
    many = tuple(replace(view, index=number) for number in range(8))
    assert "at the site from before" not in screen(replace(SNAPSHOT, disks=many))


def test_a_place_in_the_queue_is_shown_with_what_to_do() -> None:
    text = screen(replace(SNAPSHOT, phase=Phase.QUEUED, detail="3 of 7"))
    assert "WAITING FOR A FREE PLACE" in text
    assert "3 of 7" in text
    assert "its turn comes" in text
    status = Status()
    status.phase(Phase.QUEUED, "3 of 7")
    status.phase(Phase.QUEUED, "2 of 7")
    assert [line for _number, line in status.events_after(0)] == [
        "Waiting for a free place: 3 of 7",
        "Waiting for a free place: 2 of 7",
    ]


def test_a_copy_with_bad_places_ends_with_them_on_the_screen() -> None:
    detail = "disk 0: 2.0 KiB cannot be read (3 places, the first at byte 512)"
    text = screen(replace(SNAPSHOT, phase=Phase.DONE, detail=detail))
    assert "YOU CAN POWER OFF" in text
    assert "2.0 KiB cannot be read" in text


RESULTS = (
    Result("cable", Verdict.OK, "ens3 has a link"),
    Result("address", Verdict.OK, "ens3 10.0.2.15"),
    Result("DNS", Verdict.SKIPPED, "not needed"),
    Result("port", Verdict.FAILED, "the site refuses connections on port 8443", ("Is the service running there?",)),
)


def test_in_trouble_the_step_that_fails_is_named_with_what_to_try() -> None:
    trouble = replace(SNAPSHOT, phase=Phase.ENROLLING, problem="cannot reach the site", checks=RESULTS)
    text = screen(trouble)
    assert "cable ok, address ok, port FAILED" in text
    assert " port      the site refuses connections on port 8443" in text
    assert "-> Is the service running there?" in text
    assert "FAILED" not in screen(replace(trouble, problem=""))


def test_every_step_is_listed_with_those_that_were_not_tested() -> None:
    lines = [line.text for line in way_lines(replace(SNAPSHOT, checks=RESULTS), 80)]
    rows = [line for line in lines if line[1:2].isdigit()]
    assert [row.split()[1] for row in rows] == list(STEPS)
    assert "FAILED" in rows[5]
    assert "not tested" in rows[6]
    assert all(len(line) <= 80 for line in lines)


def test_a_line_of_a_disk_keeps_its_time_on_80_columns() -> None:
    large = replace(VIEW, index=17, size_bytes=1000 << 30, done_chunks=1000 << 10, total_chunks=2000 << 10)
    large = replace(large, bytes_per_second=1000 << 20, seconds_left=86000.0, unreadable_bytes=1000)
    text = screen(replace(SNAPSHOT, disks=(large,)))
    assert "23 h 53 min" in text
    assert "UNREADABLE" in text


def test_all_disks_together_are_told_where_there_are_several() -> None:
    done = replace(VIEW, index=1, done_chunks=3072, seconds_left=0.0)
    assert total_line((VIEW,)) == ""
    assert total_line((VIEW, done)) == "all disks: 4.2 GiB of 6.0 GiB  35.0 MiB/s  52 s left"
    assert "unknown" in total_line((VIEW, replace(VIEW, index=1, seconds_left=None)))
    assert total_line((done, done)) == "all disks: 6.0 GiB of 6.0 GiB"
    assert "all disks: 4.2 GiB" in screen(replace(SNAPSHOT, disks=(VIEW, done)))


def test_the_last_events_are_there_where_there_is_room() -> None:
    lines = overview(SNAPSHOT, 80, 24, log=["one", "two", "three"], keys=KEYS)
    assert [line.text for line in lines[-3:-1]] == [" two", " three"]
    assert any(line.text == " one" for line in overview(SNAPSHOT, 80, 40, log=["one", "two", "three"], keys=KEYS))


def test_the_banner_and_what_was_booted_are_shown() -> None:
    text = screen(replace(SNAPSHOT, banner="Property of Acme", version="1.2.3"))
    assert "Property of Acme" in text
    assert "agent 1.2.3" in text.splitlines()[0]


def test_a_long_text_scrolls_within_its_ends() -> None:
    lines = styled([f"line {number}" for number in range(100)])
    top, offset = scrolled("Log", lines, -5, (80, 24))
    assert (offset, top[2].text) == (0, "line 0")
    end, offset = scrolled("Log", lines, 10**6, (80, 24))
    assert (offset, end[-2].text) == (79, "line 99")
    assert "80-100 of 100" in end[0].text
    short, offset = scrolled("Log", lines[:3], 50, (80, 24))
    assert offset == 0
    assert len(short) == 24


def test_the_log_tells_when_and_folds_long_lines() -> None:
    lines = log_lines([("12:00:01", "PROBLEM: " + "word " * 40)], 80)
    assert lines[0].text.startswith(" 12:00:01 PROBLEM")
    assert lines[0].style == "bad"
    assert lines[1].text.startswith(" " * 10 + "word")


def test_nothing_but_printable_ascii_is_drawn() -> None:
    evil = "a\x1b[2Jb\x9bc\u202ed\xe4"
    snapshot = replace(SNAPSHOT, name=evil, site=evil, detail=evil, problem=evil, machine=(evil,), banner=evil)
    for line in overview(snapshot, 80, 30, log=[evil], keys=KEYS):
        assert all(" " <= letter <= "~" for letter in line.text)
