# SPDX-License-Identifier: GPL-3.0-or-later
"""The boot matrix: what the agent says a guest can boot from, against what the guest does on that hardware.

For each guest of guests.py the template's ISO is booted once on a machine that has nothing of VMware's, and the agent's
verdicts are taken from what it registers at the gateway. Then the guest itself is booted, on a snapshot of its disks,
with each controller and firmware; every machine has one network card of each kind. A cell is right when `ready` booted
(for a card: got its driver) and `no` did not.

usage: python -m tests.e2e.matrix [--help]

Without a choice of cells the tables of docs/boot-matrix.md are written anew.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from e2e import guests as guest_images
from e2e.guests import Guest, GuestError
from e2e.qemu import Controller, Disk, Firmware, Machine, MachineError, Nic, Smbios, scaled
from e2e.site import SiteError
from e2e.source_machine import SourceMachineError
from e2e.story import CheckError, Plain, Story, expect, provider_variables, tenant_variables
from support.pages import replace_part

PAGE = Path(__file__).resolve().parents[2] / "docs/boot-matrix.md"

#: VMware's controllers that QEMU has too; and one that VMware has not, where the host-only guest must boot.
CONTROLLERS = (Controller.PVSCSI, Controller.LSI_SAS, Controller.AHCI, Controller.NVME, Controller.IDE)
CONTROL = Controller.VIRTIO_BLK
#: VMware's network cards: (the agent's name, QEMU's model, PCI id). QEMU's plain e1000 is an older one than VMware's.
NICS = (
    ("vmxnet3", "vmxnet3", "15ad:07b0"),
    ("e1000e", "e1000e", "8086:10d3"),
    ("e1000", "e1000-82545em", "8086:100f"),
)
#: The guest whose machine is powered off at its console after the assessment; the others lose their power.
POWERED_OFF = "plain"
MEMORY_MIB = 768
AGENT_MEMORY_MIB = 1024

_BOOTED = r"selfcheck: (?P<facts>.*)$"
# How a system says that it goes no further: initramfs-tools, dracut, systemd, the kernel.
_STOPPED = (
    r"(?P<stopped>ALERT! +.*does not exist|^\(initramfs\)|dracut-initqueue.*timeout|dracut Warning: Could not boot"
    r"|Entering emergency mode|You are in emergency mode|Kernel panic.*)"
)
_ASKS = r"Please unlock disk [^\n]*:"


@dataclass(frozen=True, slots=True)
class Cell:
    """One machine that a guest is put on; it has every kind of network card."""

    guest: str
    controller: Controller
    firmware: Firmware

    def __str__(self) -> str:
        return f"{self.guest}-{self.controller}-{self.firmware}"


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the agent said of a guest: verdict and evidence by device, host name, and the system's key."""

    verdicts: Mapping[str, str] = field(default_factory=dict)
    evidence: Mapping[str, Sequence[str]] = field(default_factory=dict)
    hostname: str = ""
    key: str = ""
    systems: int = 0
    firmware: str = ""
    warnings: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Boot:
    """What a guest did. `said`: the line that decided it; `nics`: driver by PCI id ("none" without one)."""

    booted: bool
    said: str
    hostname: str = ""
    firmware: str = ""
    nics: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Result:
    """A cell's prediction beside its reality."""

    cell: Cell
    predicted: Prediction
    real: Boot

    @property
    def storage(self) -> str:
        return self.predicted.verdicts.get(self.cell.controller, "unknown")

    @property
    def wrong(self) -> list[str]:
        """Everything in which the agent was wrong, as sentences; `likely` and `unknown` are never wrong."""
        found = []
        if self.cell.controller is not CONTROL and _contradicts(self.storage, self.real.booted):
            found.append(
                f"{self.cell}: {self.cell.controller} is {self.storage!r}, and the guest said {self.real.said!r}"
            )
        if self.real.booted:
            for device, _, pci_id in NICS:
                verdict, driver = self.predicted.verdicts.get(device, "unknown"), self.real.nics[pci_id]
                if _contradicts(verdict, driver == device):
                    found.append(f"{self.cell}: {device} is {verdict!r}, its driver in the guest is {driver}")
            if self.predicted.hostname and self.predicted.hostname != self.real.hostname:
                found.append(f"{self.cell}: host name {self.predicted.hostname!r}, the guest is {self.real.hostname!r}")
        return found


def _contradicts(verdict: str, reality: bool) -> bool:
    return (verdict == "ready" and not reality) or (verdict == "no" and reality)


# -- what the agent says ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def assessor(directory: Path) -> Iterator[Callable[[Guest], Prediction]]:
    """A site with a template that only assesses: what it yields boots the ISO with a guest's disks and tells what came.

    Raises SiteError; what it yields raises SiteError, MachineError, CheckError.
    """
    with Story(directory, Plain()) as story:
        story.start_gateway()
        tenant = tenant_variables(story.base_iso, story.iso, auto_start=False)
        tenant["coldmig_templates"][0]["mode"] = "assess"
        story.site.write_inventories(provider_variables(story.site), tenant)
        story.activate()
        story.make_iso()
        yield lambda guest: _prediction(_register(story, guest, directory / f"agent-{guest.name}"))


def predict(directory: Path, guests: Sequence[Guest], jobs: int = 2) -> dict[str, Prediction]:
    """What the agent says of each guest. Raises SiteError, MachineError, CheckError."""
    with assessor(directory) as ask, ThreadPoolExecutor(jobs) as pool:
        return dict(zip((guest.name for guest in guests), pool.map(ask, guests), strict=True))


def _register(story: Story, guest: Guest, directory: Path) -> dict[str, Any]:
    """The assessment that the guest's machine registers when it is booted from the ISO."""
    smbios = Smbios(serial=f"MATRIX-{guest.name}", uuid=str(uuid.uuid5(guest_images.NAMESPACE, f"smbios/{guest.name}")))
    with snapshots(guest, directory) as disks:
        machine = Machine(
            name=f"agent-{guest.name}",
            directory=directory,
            chipset="q35",
            memory_mib=AGENT_MEMORY_MIB,
            controller=Controller.AHCI,
            disks=disks,
            nics=[Nic("virtio-net-pci", "52:54:00:c0:1d:01")],
            medium=story.iso,
            smbios=smbios,
        )
        with machine.start() as running:
            deadline = time.monotonic() + scaled(150)
            while time.monotonic() < deadline:
                for migration in story.site.migrations():
                    if migration["machine"]["serial"] == smbios.serial:
                        expect(f"{guest.name}: state", migration["state"], "assessed")
                        stats = running.block_stats()
                        if not all(one.untouched for one in stats):
                            raise SiteError(f"{guest.name}: its disks were written to: {stats}")
                        # Then a person decides, with a key.
                        running.wait_for(r"press r for rebooting", 30)
                        if guest.name == POWERED_OFF:
                            running.type_text("p")
                            running.wait_exit(60)
                        return migration
                if not running.alive:
                    break
                time.sleep(2)
            tail = "\n".join(running.text().splitlines()[-40:])
            raise SiteError(f"{guest.name}: the agent did not register it; its console ends with:\n{tail}")


def _prediction(migration: Mapping[str, Any]) -> Prediction:
    machine = migration["machine"]
    guest = migration.get("guest") or machine["guest"]
    readiness = guest.get("readiness", ())
    return Prediction(
        verdicts={one["device"]: one["verdict"] for one in readiness},
        evidence={one["device"]: one["evidence"] for one in readiness},
        hostname=guest.get("hostname") or "",
        key=guest.get("key", ""),
        systems=len(machine.get("guests", ())),
        firmware=guest.get("firmware") or machine.get("firmware", ""),
        warnings=sorted(warning["code"] for warning in machine.get("warnings", ())),
    )


# -- what the guest does ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def snapshots(guest: Guest, directory: Path) -> Iterator[list[Disk]]:
    """The guest's disks for one machine: what it writes goes away with the context."""
    directory.mkdir(parents=True, exist_ok=True)
    disks = []
    for index, image in enumerate(guest.disks):
        overlay = directory / f"disk{index}.qcow2"
        argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(image), str(overlay)]
        subprocess.run(argv, check=True)
        disks.append(Disk(overlay, f"{guest.name.upper()}-{index}", format="qcow2"))
    try:
        yield disks
    finally:
        for disk in disks:
            disk.path.unlink(missing_ok=True)


def boot(cell: Cell, guest: Guest, directory: Path) -> Boot:
    """Boots the guest. Raises MachineError when it neither booted nor said that it could not: that is no verdict."""
    began = time.monotonic()
    with snapshots(guest, directory) as disks:
        machine = Machine(
            name=str(cell),
            directory=directory,
            firmware=cell.firmware,
            memory_mib=MEMORY_MIB,
            cores_per_socket=1,
            controller=cell.controller,
            disks=disks,
            nics=[Nic(model, f"00:50:56:00:00:{n:02x}") for n, (_, model, _) in enumerate(NICS)],
            smbios=Smbios("VMware, Inc.", "VMware Virtual Platform", f"VMware-{cell}"),
        )
        with machine.start() as running:
            if guest.passphrase:
                found = running.wait_for(f"{_ASKS}|{_BOOTED}|{_STOPPED}", 90)
                if not found.groupdict()["stopped"]:
                    running.type_text(f"{guest.passphrase}\n")
            found = running.wait_for(f"{_BOOTED}|{_STOPPED}", 90)
    seconds = time.monotonic() - began
    if found["stopped"]:
        return Boot(False, found["stopped"].strip(), seconds=seconds)
    facts = dict(word.split("=", 1) for word in found["facts"].split() if "=" in word)
    return Boot(True, found[0].strip(), facts["host"], facts["firmware"], _drivers(facts["nics"]), seconds)


def _drivers(text: str) -> dict[str, str]:
    """Driver by PCI id, out of a list of id=driver; the guest `plain` tells the drivers only."""
    words = text.split(",")
    told = dict(word.split("=", 1) for word in words if "=" in word)
    return {pci_id: told.get(pci_id, device if device in words else "none") for device, _, pci_id in NICS}


def run(
    cells: Iterable[Cell],
    guests: Mapping[str, Guest],
    predictions: Mapping[str, Prediction],
    directory: Path,
    *,
    jobs: int = 2,
    tell: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """Boots every cell, `jobs` at a time, but those that an earlier run in this directory has booted.

    Raises MachineError with all cells that gave no verdict.
    """

    def one(cell: Cell) -> Result | str:
        guest, kept = guests[cell.guest], directory / str(cell) / "boot.json"
        # Built guests lie in a directory that is named after what they were made from.
        origin = str(guest.disks[0].resolve())
        with contextlib.suppress(OSError, ValueError, KeyError):
            earlier = json.loads(kept.read_text())
            if earlier.pop("origin") == origin:
                return Result(cell, predictions.get(cell.guest, Prediction()), Boot(**earlier))
        try:
            real = boot(cell, guest, directory / str(cell))
        except MachineError as error:
            print(error, file=sys.stderr)
            return str(error)
        kept.write_text(json.dumps({"origin": origin, **asdict(real)}))
        result = Result(cell, predictions.get(cell.guest, Prediction()), real)
        tell(result)
        return result

    with ThreadPoolExecutor(jobs) as pool:
        found = list(pool.map(one, cells))
    failures = [each for each in found if isinstance(each, str)]
    if failures:
        raise MachineError("\n\n".join(failures))
    return [each for each in found if isinstance(each, Result)]


def all_cells(names: Sequence[str] = guest_images.NAMES) -> list[Cell]:
    """Every guest on every controller with both firmwares; the host-only guest on the one that it was made for too."""
    cells = [Cell(name, controller, firmware) for name in names for controller in CONTROLLERS for firmware in Firmware]
    return cells + [Cell("dracut", CONTROL, firmware) for firmware in Firmware if "dracut" in names]


# -- the page ---------------------------------------------------------------------------------------------------------


def tables(results: Sequence[Result]) -> str:
    """The results in Markdown: storage by guest and controller, then cards by guest."""
    by_cell = {result.cell: result for result in results}
    names = [name for name in guest_images.NAMES if any(cell.guest == name for cell in by_cell)]
    lines = ["| guest | controller | predicted | BIOS | UEFI | equal |", "|---|---|---|---|---|---|"]
    for name in names:
        for controller in (*CONTROLLERS, CONTROL):
            pair = [by_cell.get(Cell(name, controller, firmware)) for firmware in (Firmware.BIOS, Firmware.UEFI)]
            seen = [result for result in pair if result]
            if seen:
                booted = ["–" if result is None else "boots" if result.real.booted else "does not" for result in pair]
                predicted = "–" if controller is CONTROL else seen[0].storage
                lines.append(f"| {name} | {controller} | {predicted} | {' | '.join(booted)} | {_equal(seen)} |")
    lines += ["", "| guest | card | predicted | driver in the guest | equal |", "|---|---|---|---|---|"]
    for name in names:
        seen = [result for result in results if result.cell.guest == name and result.real.booted]
        for device, _, pci_id in NICS:
            drivers = sorted({result.real.nics[pci_id] for result in seen})
            if drivers:
                verdict = seen[0].predicted.verdicts.get(device, "unknown")
                equal = "no" if any(_contradicts(verdict, driver == device) for driver in drivers) else _plain(verdict)
                lines.append(f"| {name} | {device} | {verdict} | {', '.join(drivers)} | {equal} |")
    wrong = sum(bool(result.wrong) for result in results)
    lines += ["", f"{len(results)} machines, {wrong} with a wrong prediction."]
    return "\n".join(lines)


def _equal(seen: Sequence[Result]) -> str:
    if seen[0].cell.controller is CONTROL:
        return "–"
    if any(_contradicts(result.storage, result.real.booted) for result in seen):
        return "**no**"
    return _plain(seen[0].storage)


def _plain(verdict: str) -> str:
    return "yes" if verdict in ("ready", "no") else f"({verdict})"


def write_page(results: Sequence[Result], page: Path = PAGE) -> None:
    """Replaces what stands between the page's markers."""
    replace_part(page, "matrix", tables(results))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--guest", action="append", choices=guest_images.NAMES, help="only these")
    parser.add_argument("--controller", action="append", type=Controller, choices=(*CONTROLLERS, CONTROL))
    parser.add_argument("--firmware", action="append", type=Firmware, choices=list(Firmware))
    parser.add_argument("--jobs", type=int, default=2, help="machines at a time (default 2)")
    parser.add_argument("--directory", type=Path, help="keep consoles and boots here; what was booted is not again")
    parser.add_argument("--no-agent", action="store_true", help="boot the guests only, predict nothing")
    options = parser.parse_args(arguments)
    cells = [
        cell
        for cell in all_cells()
        if (not options.guest or cell.guest in options.guest)
        and (not options.controller or cell.controller in options.controller)
        and (not options.firmware or cell.firmware in options.firmware)
    ]
    names = tuple(dict.fromkeys(cell.guest for cell in cells))
    with contextlib.ExitStack() as stack:
        directory = options.directory or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="matrix-")))
        try:
            guests = guest_images.build(names)
            predictions = {} if options.no_agent else predict(directory, list(guests.values()), options.jobs)
            for name, prediction in predictions.items():
                print(f"{name}: {json.dumps(asdict(prediction))}", flush=True)
            results = run(cells, guests, predictions, directory, jobs=options.jobs, tell=_tell)
        except (GuestError, SourceMachineError, SiteError, MachineError, CheckError) as error:
            print(f"matrix: {error}", file=sys.stderr)
            return 2
    print(tables(results))
    wrong = [sentence for result in results for sentence in result.wrong]
    print("\n".join(wrong))
    if not (options.guest or options.controller or options.firmware or options.no_agent):
        write_page(results)
    return 1 if wrong else 0


def _tell(result: Result) -> None:
    real = result.real
    verdict = "boots" if real.booted else "does not boot"
    said = re.sub(r"\s+", " ", real.said)
    print(f"{result.cell}: predicted {result.storage}, {verdict} ({real.seconds:.0f} s): {said}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
