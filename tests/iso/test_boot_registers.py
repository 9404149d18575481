# SPDX-License-Identifier: GPL-3.0-or-later
"""Every firmware and medium, with disks on every controller: the real agent registers them all at a real gateway.

Its boots are those of test_boot.py, with the agent instead of the probe; the table is in docs/iso.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.cda.coldmig.plugins.module_utils._iso_image import write_iso

from e2e.qemu import Firmware, Machine, MediumAs, Nic, scaled
from e2e.site import gateway_for_guests, url_for_guests
from support.gateway import Gateway
from support.processes import wait_until

from .test_boot import CONTROLLERS, on_every_controller

pytestmark = [pytest.mark.slow, pytest.mark.long]

CELLS = [
    (firmware, secure_boot, medium_as)
    for firmware, secure_boot in ((Firmware.BIOS, False), (Firmware.UEFI, False), (Firmware.UEFI, True))
    for medium_as in (MediumAs.CD, MediumAs.USB_STICK, MediumAs.USB_CD)
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway_for_guests(tmp_path_factory.mktemp("site")) as gateway:
        yield gateway


@pytest.mark.parametrize(
    ("firmware", "secure_boot", "medium_as"),
    CELLS,
    ids=[f"{firmware}{'-secure' if secure else ''}-{medium}" for firmware, secure, medium in CELLS],
)
def test_registers_the_disks_of_every_controller(  # noqa: PLR0917 - fixtures and parameters
    site: Gateway, base_iso: Path, tmp_path: Path, firmware: Firmware, secure_boot: bool, medium_as: MediumAs
) -> None:
    name = f"{firmware}{'-secure' if secure_boot else ''}-{medium_as}"
    medium = tmp_path / "template.iso"
    write_iso(base_iso, medium, site.iso(name, auto_start=False, url=url_for_guests(site.port)))
    machine = Machine(
        name=name,
        directory=tmp_path,
        firmware=firmware,
        chipset="q35" if secure_boot else "pc",
        secure_boot=secure_boot,
        medium=medium,
        medium_as=medium_as,
        disks=on_every_controller(tmp_path),
        nics=[Nic("virtio-net-pci", "52:54:00:c0:1d:02")],
    )
    with machine.start() as running:
        migration = wait_until(lambda: running.alive and site.migrations(name), f"{name} to register", scaled(60))[0]
        stats = running.block_stats()
    assert {disk["serial"] for disk in migration["machine"]["disks"]} == {
        f"ON-{controller}" for controller in CONTROLLERS
    }
    assert migration["state"] == "waiting"
    assert migration["machine"]["live_boot_firmware"] == ("bios" if firmware is Firmware.BIOS else "efi")
    assert all(one.untouched for one in stats)
