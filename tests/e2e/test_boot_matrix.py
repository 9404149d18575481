# SPDX-License-Identifier: GPL-3.0-or-later
"""A part of the boot matrix, small enough for every run: each guest, controller, card and firmware at least once.

The cells in which a guest must not boot count most: without them a prediction could always be "ready".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from e2e import guests as guest_images
from e2e.guests import Guest
from e2e.matrix import (
    CONTROL,
    CONTROLLERS,
    NICS,
    Boot,
    Cell,
    Prediction,
    Result,
    _drivers,
    all_cells,
    assessor,
    run,
    tables,
)
from e2e.qemu import Controller, Firmware

pytestmark = [pytest.mark.slow]
BIOS, UEFI = Firmware.BIOS, Firmware.UEFI
CELLS = (
    Cell("plain", Controller.AHCI, UEFI),
    Cell("lvm-raid1", Controller.PVSCSI, UEFI),
    Cell("btrfs", Controller.LSI_SAS, BIOS),
    Cell("dirty", Controller.NVME, BIOS),
    Cell("luks", Controller.PVSCSI, BIOS),
    Cell("dracut", CONTROL, UEFI),
    Cell("dracut", Controller.PVSCSI, BIOS),
    Cell("dracut", Controller.NVME, UEFI),
    Cell("dracut", Controller.IDE, BIOS),
)
FAILING = tuple(
    cell for cell in CELLS if cell.guest == "dracut" and cell.controller in (Controller.PVSCSI, Controller.NVME)
)


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Guest], Prediction]]:
    with assessor(tmp_path_factory.mktemp("site")) as one:
        yield one


@pytest.mark.e2e
@pytest.mark.parametrize(
    "name",
    # Every run has the guest that does not start everywhere.
    [name if name == "dracut" else pytest.param(name, marks=pytest.mark.long) for name in guest_images.NAMES],
)
def test_a_guest_boots_where_the_agent_says_so_and_nowhere_else(
    ask: Callable[[Guest], Prediction], tmp_path: Path, name: str
) -> None:
    guest = guest_images.build((name,))[name]
    predicted = ask(guest)
    cells = [cell for cell in CELLS if cell.guest == name]
    # A guest that waits for a disk that does not come needs no processor for it.
    jobs = 2 if set(cells) & set(FAILING) else 1
    results = run(cells, {name: guest}, {name: predicted}, tmp_path, jobs=jobs)
    print(tables(results))
    assert [sentence for result in results for sentence in result.wrong] == []
    assert {result.cell: result.real.booted for result in results} == {cell: cell not in FAILING for cell in cells}
    for result in results:
        wanted = "efi" if result.cell.firmware is UEFI else "bios"
        assert not result.real.booted or result.real.firmware == wanted
    if guest.passphrase is None:
        # Of `dirty` it stands in the journal only: whoever does not replay that reads another name.
        assert predicted.hostname == guest.hostname
        assert {"ready", "no"} >= {predicted.verdicts[device] for device, _, _ in NICS}


def test_the_part_has_every_guest_controller_and_firmware() -> None:
    assert {cell.guest for cell in CELLS} == set(guest_images.NAMES)
    assert {cell.controller for cell in CELLS} == {*CONTROLLERS, CONTROL}
    assert {cell.firmware for cell in CELLS} == set(Firmware)
    assert set(FAILING) <= set(CELLS) <= set(all_cells())


def _result(verdict: str, booted: bool, drivers: str = "vmxnet3") -> Result:
    cards = dict(zip((pci_id for _, _, pci_id in NICS), (drivers, "e1000e", "e1000"), strict=True))
    predicted = Prediction({"pvscsi": verdict, "vmxnet3": "ready"}, hostname="a")
    return Result(Cell("plain", Controller.PVSCSI, BIOS), predicted, Boot(booted, "…", "a", "bios", cards))


@pytest.mark.parametrize(
    ("verdict", "booted", "wrong"),
    [
        ("ready", True, False), ("ready", False, True), ("no", False, False), ("no", True, True),
        ("likely", True, False), ("likely", False, False), ("unknown", False, False),
    ],
)  # fmt: skip
def test_a_prediction_is_wrong_when_it_was_certain_of_the_contrary(verdict: str, booted: bool, wrong: bool) -> None:
    assert bool(_result(verdict, booted).wrong) is wrong


def test_a_card_without_its_driver_is_a_wrong_prediction() -> None:
    assert "vmxnet3 is 'ready', its driver in the guest is none" in _result("ready", True, "none").wrong[0]


def test_both_ways_to_tell_the_cards_are_understood() -> None:
    all_of_them = {"15ad:07b0": "vmxnet3", "8086:10d3": "e1000e", "8086:100f": "e1000"}
    assert _drivers("8086:100f=e1000,15ad:07b0=vmxnet3,8086:10d3=e1000e") == all_of_them
    assert _drivers("vmxnet3,e1000e,e1000") == all_of_them
    assert _drivers("15ad:07b0=none,8086:10d3=e1000e") == {**all_of_them, "15ad:07b0": "none", "8086:100f": "none"}
