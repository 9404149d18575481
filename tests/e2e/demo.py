# SPDX-License-Identifier: GPL-3.0-or-later
"""`make demo`: migrate one real machine on this one, from its ISO to its login prompt in the cloud.

usage: python -m tests.e2e.demo [--firmware bios|uefi] [--keep]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import signal
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TextIO

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from e2e.qemu import Accelerator, Firmware, MachineError, accelerator
from e2e.site import SiteError
from e2e.source_machine import SourceMachineError
from e2e.story import CheckError, Outcome, Story, dump, mib

WIDTH = 100


class Terminal:
    """Tells a story: lines that are rewritten on a terminal, plain lines in a log."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._live = out.isatty() and os.environ.get("TERM") != "dumb"
        self._colour = self._live and "NO_COLOR" not in os.environ
        self._began = time.monotonic()
        self._step_began = self._began
        self._number = 0
        self._title = ""
        self._result = ""
        self._shown = 0.0
        self.failed: str | None = None
        """Title of the step that did not come to its end."""

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[Terminal]:
        self._number += 1
        self._title, self._result = title, ""
        self._step_began = time.monotonic()
        self._shown = self._step_began
        if self._live:
            self._rewrite(f"{self._head('…')} {title}")
        else:
            self.line(f"{self._head(' ')} {title}")
        try:
            yield self
        except BaseException:
            self.failed = title
            if self._live:
                self._rewrite(f"{self._head(self._paint('✗', '31'))} {title}\n")
            raise
        took = f"{time.monotonic() - self._step_began:.1f} s"
        if self._live:
            dots = "·" * max(2, WIDTH - 12 - len(title) - len(took))
            self._rewrite(f"{self._head(self._paint('✓', '32'))} {title} {self._paint(dots, '2')} {took}\n")
        # In a log the time stands with the result, as nothing can be written behind the title any more.
        text = (self._result or "done") + ("" if self._live else f" ({took})")
        for line in textwrap.wrap(text, WIDTH - 12, break_on_hyphens=False):
            self.line(" " * 11 + line)

    def result(self, text: str) -> None:
        self._result = text

    def progress(self, text: str) -> None:
        now = time.monotonic()
        if self._live:
            self._rewrite(f"{self._head('…')} {self._title}: {self._paint(text, '2')}")
        elif now - self._shown > 20:
            self._shown = now
            self.line(f"{'':11}{now - self._step_began:5.0f} s  {text}")

    def line(self, text: str = "") -> None:
        self._out.write(text + "\n")
        self._out.flush()

    def verdict(self, good: bool, text: str) -> None:
        word = self._paint("PASSED", "1;32") if good else self._paint("FAILED", "1;31")
        self.line(f"{word}: {text}")

    def heading(self, text: str) -> None:
        self.line(self._paint(text, "1"))

    def _head(self, mark: str) -> str:
        return f"{time.monotonic() - self._began:6.1f} s {mark}"

    def _rewrite(self, text: str) -> None:
        columns = shutil.get_terminal_size().columns
        plain = text.rstrip("\n")
        # Cut by visible length is not worth its code: progress lines are short, and a wrapped one does no harm.
        self._out.write("\r\x1b[2K" + (plain if self._colour else plain[: columns - 1]))
        if text.endswith("\n"):
            self._out.write("\n")
        self._out.flush()

    def _paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text


def table(rows: Sequence[Sequence[str]], indent: str = "  ") -> list[str]:
    """Columns as wide as their widest cell; the first row is the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [
        indent + lines[0],
        indent + "  ".join("-" * width for width in widths),
        *(indent + line for line in lines[1:]),
    ]


def summary(outcome: Outcome) -> list[str]:
    """The tables at the end."""
    migration = outcome.migration
    machine = migration["machine"]
    vm, cloud, says = outcome.vm, outcome.cloud, outcome.guest_says
    if vm is None or cloud is None:
        raise CheckError("the story was not told to its end")
    nics = ", ".join(f"{nic['driver']} {nic['permanent_mac']}" for nic in machine["nics"])
    found = [
        ("", "the agent found", "the VM has", "the guest says"),
        ("name", machine["name"], cloud.name, says["host"]),
        ("OS", machine["guest"]["pretty_name"], vm.guest_id, "login prompt, data " + says["data"]),
        ("firmware", machine["firmware"], vm.firmware, says["firmware"]),
        (
            "CPU",
            f"{machine['cpu']['sockets']} x {machine['cpu']['cores_per_socket']} cores",
            f"{vm.sockets} x {vm.cores_per_socket} cores",
            f"{says['cpus']} CPUs",
        ),
        ("memory", mib(machine["memory_bytes"]), f"{vm.memory_mib} MiB", f"{says['memory_mib']} MiB usable"),
        ("disks", " + ".join(mib(d["size_bytes"]) for d in machine["disks"]), vm.controllers[0], says["disks"]),
        ("NICs", nics, ", ".join(f"{kind} {mac}" for kind, mac, _ in vm.nics), says["nics"]),
        ("network", ", ".join(machine["addresses"]), ", ".join(f"{n} ({mode})" for n, mode, _ in cloud.networks), ""),
    ]
    reported = {disk["index"]: disk for disk in (migration.get("progress") or {}).get("disks", [])}
    moved = [("disk", "size", "unused", "read", "sent", "at the site", "VMDK", "SHA-256 of the source, unchanged")]
    for index, disk in enumerate(migration["disks"]):
        progress = reported.get(disk["index"], {})
        moved.append(
            (
                str(index),
                mib(disk["size_bytes"]),
                mib(progress["skipped_bytes"]) if progress.get("skipped_bytes") is not None else "?",
                mib(progress["read_bytes"]) if "read_bytes" in progress else "?",
                mib(progress["sent_bytes"]) if "sent_bytes" in progress else "?",
                mib(disk["stored_bytes"]),
                mib(disk["vmdk_bytes"]),
                outcome.source_sha256[index],
            )
        )
    times = ", ".join(f"{key} {value:.1f} s" for key, value in outcome.seconds.items() if key != "all")
    times = textwrap.fill(times, WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    return [*table(found), "", *table(moved), "", *times.splitlines()]


def _terminated(number: int, _frame: FrameType | None) -> None:
    # As Ctrl-C does: contexts are left, what runs is stopped.
    raise KeyboardInterrupt(signal.Signals(number).name)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="demo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--firmware", choices=[*Firmware], default=Firmware.BIOS, help="of the source machine")
    parser.add_argument("--auto-start", action="store_true", help="a template that does not ask for confirmation")
    parser.add_argument("--keep", action="store_true", help="keep everything that was made, also on success")
    options = parser.parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminated)
    firmware = Firmware(options.firmware)
    terminal = Terminal(sys.stdout)
    # A short path: the gateway has a socket in its state directory.
    directory = Path(tempfile.mkdtemp(prefix="coldmig-demo-"))
    how = "KVM" if accelerator() is Accelerator.KVM else "TCG: KVM cannot boot a guest here, so machines are slow"
    terminal.heading(f"cda.coldmig: one machine moves ({firmware.upper()}, {how})")
    terminal.line()
    try:
        with Story(directory, terminal, firmware, options.auto_start) as story:
            outcome = story.tell()
            dump(outcome, directory / "outcome.json")
        lines = summary(outcome)
    except KeyboardInterrupt:
        terminal.line()
        terminal.verdict(False, f"interrupted during: {terminal.failed or 'the beginning'}. Everything was stopped.")
        _leave(directory, terminal, keep=options.keep, failed=True)
        return 130
    except (CheckError, SiteError, MachineError, SourceMachineError, OSError) as error:
        terminal.line()
        for line in str(error).splitlines():
            terminal.line(f"    {line}")
        terminal.line()
        terminal.verdict(False, f"{terminal.failed}")
        _leave(directory, terminal, keep=options.keep, failed=True)
        return 1
    except BaseException:
        _leave(directory, terminal, keep=options.keep, failed=True)
        raise
    terminal.line()
    for line in lines:
        terminal.line(line)
    terminal.line()
    minutes, seconds = divmod(round(outcome.seconds["all"]), 60)
    terminal.verdict(
        True,
        f"{outcome.migration['name']} moved in {minutes} min {seconds} s. Its source was not written to, "
        "its disks arrived identical, and it boots where it arrived.",
    )
    _leave(directory, terminal, keep=options.keep, failed=False)
    return 0


def _leave(directory: Path, terminal: Terminal, *, keep: bool, failed: bool) -> None:
    """Removes what is not wanted any more: all of it after success, the big images after a failure."""
    if keep:
        terminal.line(f"Kept: {directory}")
        return
    if not failed:
        shutil.rmtree(directory, ignore_errors=True)
        return
    for path in directory.rglob("*"):
        if path.suffix in (".raw", ".qcow2", ".iso", ".vmdk", ".pack", ".fd") and path.is_file():
            path.unlink(missing_ok=True)
    terminal.line(f"Logs: {directory} (also logs/source.console.log, logs/gateway.log, logs/NN-playbook-….log)")


if __name__ == "__main__":
    sys.exit(main())
