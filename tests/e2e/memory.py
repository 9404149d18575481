# SPDX-License-Identifier: GPL-3.0-or-later
"""The memory table: how little memory a machine may have so that it is registered, looked into, copied and powered off.

Every cell is a machine of its own at a real gateway: firmware, medium and memory as the cell says, the disks those of a
guest whose root lies on LVM on a RAID1 (so the inspection has to put everything together). It boots the template's
ISO, its disks are copied and verified, its logs tell how much memory was left, and it powers itself off, as its
template says. With `pull` the medium is taken away as soon as the live system runs.

usage: python -m tests.e2e.memory [--help]

Without a choice of cells the table in docs/iso.md is written anew.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from e2e import guests as guest_images
from e2e.guests import Guest, GuestError
from e2e.matrix import snapshots
from e2e.qemu import Controller, Firmware, Machine, MachineError, MediumAs, Nic, Running, Smbios, scaled
from e2e.site import SiteError
from e2e.source_machine import SourceMachineError
from e2e.story import CheckError, Plain, Story, provider_variables, tenant_variables
from support.pages import replace_part

PAGE = Path(__file__).resolve().parents[2] / "docs/iso.md"
GUEST = "lvm-raid1"

_IN_RAM = re.compile(r"Copying the live system \(\d+ MiB\) into memory")
_FROM_MEDIUM = re.compile(r"[Rr]unning from the medium")
_DEAD = ("Kernel panic", r"^error: out of memory", "Out of memory: Killed process", r"No medium \S+ found")
_NETWORK = "NIC_RX_FILTER_CHANGED"
_LEAST = re.compile(r"memory: (\d+) KiB, least available (\d+) KiB, agent at most (\d+) KiB")


class Boot(StrEnum):
    """Firmware, and whether it insists on signatures."""

    BIOS = "BIOS"
    UEFI = "UEFI"
    SECURE = "Secure Boot"


@dataclass(frozen=True, slots=True)
class Cell:
    """One machine. `pull`: the medium is taken away once the agent has begun."""

    memory_mib: int
    boot: Boot
    medium_as: MediumAs = MediumAs.CD
    pull: bool = False

    def __str__(self) -> str:
        words = [str(self.memory_mib), self.boot.name.lower(), str(self.medium_as), *(["pull"] if self.pull else [])]
        return "-".join(words)


@dataclass(frozen=True, slots=True)
class Result:
    """How far a machine came. `reached`: nothing, registered, copied, off; `said`: why no further.

    Memory in MiB: what the kernel has, the least that was available while the agent ran, the agent's most.
    """

    cell: Cell
    reached: str
    said: str = ""
    in_ram: bool = False
    inspected: int = 0
    problems: Sequence[str] = ()
    total: int = 0
    least: int = 0
    agent: int = 0
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Everything went well, up to the power switch."""
        return self.reached == "off"


#: What the product promises, each with both kinds of medium where that is another path.
PROMISED = (
    *(Cell(512, boot, medium_as) for boot in Boot for medium_as in (MediumAs.CD, MediumAs.USB_STICK)),
    Cell(384, Boot.UEFI),
    Cell(384, Boot.SECURE),
    Cell(384, Boot.BIOS),
    Cell(320, Boot.BIOS),
    Cell(320, Boot.BIOS, MediumAs.USB_STICK),
    Cell(768, Boot.BIOS),
    Cell(768, Boot.UEFI),
    Cell(768, Boot.BIOS, pull=True),
    Cell(512, Boot.BIOS, pull=True),
)
#: Below the promise: what is told, where it ends.
LESS = (Cell(320, Boot.UEFI), Cell(320, Boot.SECURE), Cell(256, Boot.BIOS))


@contextlib.contextmanager
def laboratory(directory: Path) -> Iterator[Story]:
    """A site with a template whose machines are copied at once, send their logs and power off. Raises SiteError."""
    with Story(directory, Plain()) as story:
        story.start_gateway()
        tenant = tenant_variables(story.base_iso, story.iso, auto_start=True)
        tenant["coldmig_templates"][0] |= {"at_end": {"success": "poweroff"}, "collect_logs": True}
        story.site.write_inventories(provider_variables(story.site), tenant)
        story.activate()
        story.make_iso()
        yield story


def measure(story: Story, cell: Cell, guest: Guest, directory: Path) -> Result:
    """Boot one machine and follow it to its end. Raises CheckError, SiteError where something is wrong."""
    began = time.monotonic()
    # Of its own: otherwise it would go on where the copy of an earlier cell ended.
    smbios = Smbios(serial=f"MEMORY-{cell}", uuid=str(uuid.uuid5(guest_images.NAMESPACE, f"memory/{directory}/{cell}")))
    with snapshots(guest, directory) as disks:
        machine = Machine(
            name=str(cell),
            directory=directory,
            firmware=Firmware.BIOS if cell.boot is Boot.BIOS else Firmware.UEFI,
            secure_boot=cell.boot is Boot.SECURE,
            chipset="pc" if cell.boot is Boot.BIOS else "q35",
            memory_mib=cell.memory_mib,
            controller=Controller.AHCI if cell.boot is Boot.BIOS else Controller.VIRTIO_SCSI,
            disks=disks,
            nics=[Nic("virtio-net-pci", "52:54:00:c0:1d:02")],
            medium=story.iso,
            medium_as=cell.medium_as,
            smbios=smbios,
            # Its clock is years off and must stay so.
            extra=("-rtc", "base=2021-03-04T05:06:07"),
        )
        with machine.start() as running:
            migration, said = _follow(story, cell, running, smbios.serial)
            off = False
            if migration and migration["state"] == "copied":
                with contextlib.suppress(MachineError):
                    running.wait_for("powering off in", 30)
                    stats = running.block_stats()
                    if not all(one.untouched for one in stats):
                        raise CheckError(f"{cell}: its disks were written to: {stats}")
                    # The firmware may set the clock, before there is a network.
                    after = running.events[running.events.index(_NETWORK) :]
                    if "RTC_CHANGE" in after:
                        raise CheckError(f"{cell}: its clock was set")
                    running.wait_exit(30)
                    off = True
            text = running.text()
    result = _result(story, cell, migration, text, said, off=off)
    if migration:
        shutil.rmtree(story.directory / "state/staging" / migration["id"], ignore_errors=True)
    return Result(**{**_fields(result), "seconds": time.monotonic() - began})


def _follow(story: Story, cell: Cell, running: Running, serial: str) -> tuple[dict[str, Any] | None, str]:
    """The machine's migration, as far as it came, and why it came no further."""
    deadline = time.monotonic() + scaled(70)
    migration: dict[str, Any] | None = None
    pulled = False
    while time.monotonic() < deadline:
        found = [one for one in story.site.migrations() if one["machine"]["serial"] == serial]
        if found and migration is None:
            deadline = time.monotonic() + scaled(120)
        migration = found[0] if found else None
        if migration and migration["state"] in ("copied", "failed", "canceled"):
            return migration, str(migration["reason"] or "")
        text = running.text()
        for pattern in _DEAD:
            if hit := re.search(pattern, text, re.MULTILINE):
                return migration, hit[0]
        if cell.pull and not pulled and "Looking at this machine" in text:
            running.pull_medium()
            pulled = True
        if not running.alive:
            return migration, "the machine ended"
        time.sleep(2)
    lines = [line.strip() for line in running.text().splitlines() if len(line.strip()) > 3]
    return migration, f"no more after: {lines[-1][:100] if lines else '(silence)'}"


def _result(story: Story, cell: Cell, migration: dict[str, Any] | None, text: str, said: str, *, off: bool) -> Result:
    if migration is None:
        return Result(cell, "nothing", said, bool(_IN_RAM.search(text)))
    inspection = migration["machine"].get("inspection") or {}
    figures = _LEAST.search(_logs(story, migration["id"]))
    total, least, agent = (int(number) >> 10 for number in figures.groups()) if figures else (0, 0, 0)
    reached = "off" if off else "copied" if migration["state"] == "copied" else "registered"
    return Result(
        cell,
        reached,
        said,
        bool(_IN_RAM.search(text)) and not _FROM_MEDIUM.search(text),
        sum(volume["role"] is not None for volume in inspection.get("volumes", ())),
        tuple(inspection.get("problems", ())),
        total,
        least,
        agent,
    )


def _logs(story: Story, migration_id: str) -> str:
    try:
        return str(story.site.api().call("GET", f"/migrations/{migration_id}/logs")["text"])
    except SiteError:
        return ""


def _fields(result: Result) -> dict[str, Any]:
    return {name: getattr(result, name) for name in Result.__dataclass_fields__}


# -- the page ---------------------------------------------------------------------------------------------------------


def table(results: Sequence[Result]) -> str:
    """The results in Markdown."""
    lines = [
        "| memory | firmware | medium | live system runs | result | least memory left | agent's most |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in sorted(
        results, key=lambda one: (-one.cell.memory_mib, list(Boot).index(one.cell.boot), str(one.cell))
    ):
        cell = result.cell
        where = "–" if result.reached == "nothing" else "in memory" if result.in_ram else "from the medium"
        medium = str(cell.medium_as) + (", pulled after the start" if cell.pull else "")
        least, agent = (f"{size} MiB" if size else "–" for size in (result.least, result.agent))
        lines.append(
            f"| {cell.memory_mib} MiB | {cell.boot} | {medium} | {where} | {_verdict(result)} | {least} | {agent} |"
        )
    return "\n".join(lines)


def _verdict(result: Result) -> str:
    if result.good:
        looked = "looked into" if not result.problems else "looked into in part"
        return f"registered, {looked}, copied"
    return {"copied": "copied", "registered": "registered only"}.get(result.reached, "**does not start**") + (
        f": {result.said}" if result.said else ""
    )


def write_page(results: Sequence[Result], page: Path = PAGE) -> None:
    """Replaces what stands between the page's markers."""
    replace_part(page, "memory", table(results))


def parse_cell(text: str) -> Cell:
    """A cell by its name, such as ``512-bios-cd`` or ``768-uefi-usb-stick-pull``; any size may be given."""
    found = re.fullmatch(r"(\d+)-(bios|uefi|secure)-(cd|usb-stick|usb-cd)(-pull)?", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r}: not MIB-(bios|uefi|secure)-(cd|usb-stick|usb-cd)[-pull]")
    return Cell(int(found[1]), Boot[found[2].upper()], MediumAs(found[3]), bool(found[4]))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cell", action="append", type=parse_cell, help="only this one, like 512-bios-cd; repeatable")
    parser.add_argument("--directory", type=Path, help="keep consoles and results here; what was measured is not again")
    options = parser.parse_args(arguments)
    cells: Sequence[Cell] = options.cell or (*PROMISED, *LESS)
    results: list[Result] = []
    with contextlib.ExitStack() as stack:
        site = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="memory-")))
        directory = options.directory or site / "cells"
        try:
            guest = guest_images.build((GUEST,))[GUEST]
            with laboratory(site / "site") as story:
                for cell in cells:
                    results.append(_kept(story, cell, guest, directory / str(cell)))
                    print(json.dumps({**asdict(results[-1]), "cell": str(cell)}), flush=True)
        except (GuestError, SourceMachineError, SiteError, MachineError, CheckError) as error:
            print(f"memory: {error}", file=sys.stderr)
            return 2
    print(table(results))
    if not options.cell:
        write_page(results)
    return 0 if all(result.good for result in results if result.cell in PROMISED) else 1


def _kept(story: Story, cell: Cell, guest: Guest, directory: Path) -> Result:
    """The result of an earlier run in this directory, else that of a new one."""
    kept = directory / "result.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Result(cell, **json.loads(kept.read_text()))
    result = measure(story, cell, guest, directory)
    kept.write_text(json.dumps({name: value for name, value in asdict(result).items() if name != "cell"}))
    return result


if __name__ == "__main__":
    sys.exit(main())
