# SPDX-License-Identifier: GPL-3.0-or-later
"""What the operator sees: the right words in every phase, on a screen and on a line, and never a stuck agent."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from coldmig_agent.consoles import (
    ConsoleThread,
    LineConsole,
    ScreenConsole,
    disk_line,
    open_consoles,
    render,
    savings_line,
)
from coldmig_agent.copying.progress import DiskView
from coldmig_agent.machine import Notice
from coldmig_agent.status import Phase, Snapshot, Status
from coldmig_agent.warnings import CATALOGUE, notice

MIB, GIB = 1 << 20, 1 << 30
VIEW = DiskView(0, 3 * GIB, 3072, 1229, 2 * GIB, GIB, 0, 35.0 * MIB, 52.0)
SNAPSHOT = Snapshot(
    phase=Phase.COPYING,
    site="https://site.example:8443",
    template="standard (acme)",
    migration="c4654531-6493-44d5-bdb8-850531dc3df8",
    name="erp-db-01",
    network=("ens3 52:54:00:12:34:56 link up 10.0.2.15",),
    machine=("erp-db-01: Debian GNU/Linux 12 (bookworm)",),
    systems=("Debian GNU/Linux 12 (bookworm) on disk 0, partition 1: boots from PVSCSI, network VMXNET3: ready",),
    readiness=("disks: PVSCSI ready, NVMe no", "network: VMXNET3 ready"),
    notices=(notice("tpm-present", version="2.0"),),
    disks=(VIEW,),
)


def screen(snapshot: Snapshot, width: int = 80, height: int = 25) -> str:
    return "\n".join(render(snapshot, width, height))


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
            lines = render(big, width, height, page)
            assert len(lines) <= height
            assert all(len(line) <= width for line in lines)
    assert "the site is away" in screen(big)
    assert "40 disks in all" in screen(big)


def pages(snapshot: Snapshot, count: int, height: int = 24) -> str:
    return "\n".join("\n".join(render(snapshot, 80, height, page)) for page in range(count))


def test_a_warning_is_shown_with_its_severity_its_code_and_what_to_do() -> None:
    sealed = notice("tpm-sealed", place="disk 0 (/dev/sda), partition 3", how="ubuntu-fde")
    text = screen(replace(SNAPSHOT, phase=Phase.WAITING, notices=(sealed,)))
    assert " BLOCKS    a key of disk 0" in text
    assert "[tpm-sealed]" in text
    assert "-> Make a recovery key" in text


def test_what_does_not_fit_is_shown_in_turns_and_nothing_is_left_out() -> None:
    many = tuple(notice(code, **dict.fromkeys(entry.fields, "x")) for code, entry in CATALOGUE.items())
    snapshot = replace(SNAPSHOT, phase=Phase.WAITING, notices=many)
    first = render(snapshot, 80, 24)
    (footer,) = [line for line in first if "page 1 of" in line]
    count = int(footer.split(" of ")[1].split(";")[0])
    text = pages(snapshot, count)
    assert [code for code in CATALOGUE if f"[{code}]" not in text.replace("\n           ", " ")] == []
    assert all("CONFIRM THIS MIGRATION" in "\n".join(render(snapshot, 80, 24, page)) for page in range(count))
    assert render(snapshot, 80, 24, count) == first


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


@pytest.fixture
def terminal() -> tuple[int, Path]:
    master, slave = os.openpty()
    path = Path(os.ttyname(slave))
    os.set_blocking(master, False)
    return master, path


def drained(master: int) -> str:
    try:
        return os.read(master, 1 << 20).decode()
    except BlockingIOError:
        return ""


def test_a_line_console_gets_every_event_once(terminal: tuple[int, Path]) -> None:
    master, path = terminal
    status = Status()
    console = LineConsole(path)
    status.phase(Phase.NETWORK)
    status.problem("no link")
    status.problem("no link")
    console.update(status)
    text = drained(master)
    assert text.count("Waiting for the network") == 1
    assert text.count("PROBLEM: no link") == 1
    console.update(status)
    assert drained(master) == ""
    console.close()


def test_a_line_console_shows_progress_now_and_then(
    terminal: tuple[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    master, path = terminal
    monkeypatch.setattr("coldmig_agent.consoles.PROGRESS_SECONDS", 0.0)
    status = Status()
    status.phase(Phase.COPYING)
    status.watch_disks(lambda: [VIEW])
    console = LineConsole(path)
    console.update(status)
    assert "40.0 %" in drained(master)
    console.close()


def test_the_screen_is_drawn_again_only_when_something_changed(terminal: tuple[int, Path]) -> None:
    master, path = terminal
    status = Status()
    console = ScreenConsole(path)
    console.update(status)
    assert "STARTING" in drained(master)
    console.update(status)
    assert drained(master) == ""
    status.phase(Phase.DISCOVERING)
    console.update(status)
    assert "READ-ONLY" in drained(master)
    console.close()


def test_a_serial_line_that_nobody_reads_does_not_stop_the_agent(terminal: tuple[int, Path]) -> None:
    _, path = terminal
    status = Status()
    console = LineConsole(path)
    began = time.monotonic()
    for number in range(3000):
        status.event(f"event {number} " + "x" * 300)
        console.update(status)
    assert time.monotonic() - began < 20
    console.close()


def test_escape_sequences_of_a_guest_never_reach_a_terminal(terminal: tuple[int, Path]) -> None:
    master, path = terminal
    status = Status()
    status.machine(["evil\x1b]0;owned\x07 host"], [Notice("code", "\x9b31m", action="\x1b[2J")], ["\x1b[1m"])
    status.problem("a\x1b[2Jb")
    console = LineConsole(path)
    console.update(status)
    text = drained(master)
    assert "\x1b" not in text
    assert "\x07" not in text
    console.close()


def test_a_console_that_cannot_be_opened_is_left_out(tmp_path: Path, terminal: tuple[int, Path]) -> None:
    assert len(open_consoles([tmp_path / "absent", terminal[1]])) == 1


def test_a_console_that_breaks_does_not_take_the_others_along(terminal: tuple[int, Path]) -> None:
    class Broken:
        def update(self, status: Status) -> None:
            raise OSError("gone")

        def close(self) -> None:
            raise AssertionError("closed after it was dropped")

    master, path = terminal
    status = Status()
    with ConsoleThread([Broken(), LineConsole(path)], status):
        status.event("still here")
    assert "still here" in drained(master)


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


def test_lines_tell_what_was_saved_and_what_limits(terminal: tuple[int, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    master, path = terminal
    monkeypatch.setattr("coldmig_agent.consoles.PROGRESS_SECONDS", 0.0)
    status = Status()
    status.phase(Phase.COPYING)
    status.watch_disks(lambda: [replace(VIEW, skipped_bytes=GIB)], lambda: "the site limits the speed")
    console = LineConsole(path)
    console.update(status)
    text = drained(master)
    assert "disk 0: 1.0 GiB free" in text
    assert "the site limits the speed" in text
    console.close()
