# SPDX-License-Identifier: GPL-3.0-or-later
"""A part of the boot matrix, small enough for every run: each guest, controller, card and firmware at least once.

The cells in which a guest must not boot count most: without them a prediction could always be "ready".
"""

from __future__ import annotations

from pathlib import Path

import pytest

from e2e import guests as guest_images
from e2e.matrix import CONTROL, CONTROLLERS, NICS, Boot, Cell, Prediction, Result, all_cells, predict, run, tables
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


@pytest.mark.e2e
def test_guests_boot_where_the_agent_says_so_and_nowhere_else(tmp_path: Path) -> None:
    guests = guest_images.build()
    predictions = predict(tmp_path, list(guests.values()))
    results = run(CELLS, guests, predictions, tmp_path)
    print(tables(results))
    assert [sentence for result in results for sentence in result.wrong] == []
    assert {result.real.booted for result in results if result.cell.guest == "dracut"} == {True, False}
    assert all(result.real.booted for result in results if result.cell.controller is CONTROL)
    assert all(
        result.real.firmware == ("efi" if result.cell.firmware is UEFI else "bios")
        for result in results
        if result.real.booted
    )
    # A replayed journal shows: without it the guest has another name.
    assert predictions["dirty"].hostname == guest_images.hostname("dirty") != guest_images.STALE


def test_the_part_has_every_guest_controller_and_firmware() -> None:
    assert {cell.guest for cell in CELLS} == set(guest_images.NAMES)
    assert {cell.controller for cell in CELLS} == {*CONTROLLERS, CONTROL}
    assert {cell.firmware for cell in CELLS} == set(Firmware)
    assert set(CELLS) <= set(all_cells())


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
