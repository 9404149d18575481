# SPDX-License-Identifier: GPL-3.0-or-later
"""Network interfaces of the source, with the addresses that its hardware has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from coldmig_agent import interfaces
from coldmig_agent.interfaces import read_text
from coldmig_agent.machine import Nic, Notice
from coldmig_agent.text import clean

MAX_NICS = 64
#: Interfaces that management controllers show to their host over USB; a virtual machine has no use for them.
_MANAGEMENT_DRIVERS = frozenset({"cdc_ether", "rndis_host", "cdc_eem", "cdc_ncm"})


def _hex(path: Path) -> str | None:
    text = read_text(path)
    return text.removeprefix("0x").lower() if text and text.startswith("0x") else None


def _pci_id(device: Path) -> str | None:
    """``vendor:device`` of the interface's PCI function; a virtio device's own ids stand one level up."""
    for place in (device, device.parent):
        if not (place / "subsystem").exists() or (place / "subsystem").resolve().name != "pci":
            continue
        vendor, model = _hex(place / "vendor"), _hex(place / "device")
        if vendor and model:
            return f"{vendor}:{model}"
    return None


def _speed(entry: Path) -> int | None:
    text = read_text(entry / "speed")
    return int(text) if text and text.isdigit() and 0 < int(text) < 10_000_000 else None


def read(
    sys: Path, permanent_mac: Callable[[str], str | None] = interfaces.permanent_mac
) -> tuple[list[Nic], list[Notice]]:
    """All wired interfaces in bus order; management controllers' and virtual functions are reported with a notice."""
    nics: list[Nic] = []
    notices: list[Notice] = []
    for name in interfaces.ethernet_names(sys)[:MAX_NICS]:
        entry = sys / "class/net" / name
        device = (entry / "device").resolve()
        driver = (device / "driver").resolve().name if (device / "driver").exists() else ""
        mac = interfaces.mac_address(name, sys)
        if not mac:
            continue
        nics.append(
            Nic(
                name=name,
                mac=mac,
                permanent_mac=permanent_mac(name) or mac,
                driver=clean(driver, 32),
                speed_mbps=_speed(entry),
                carrier=interfaces.has_carrier(name, sys),
                pci_id=_pci_id(device),
            )
        )
        if driver in _MANAGEMENT_DRIVERS:
            message = f"interface {name} ({driver}) looks like a management controller's; the VM hardly needs it"
            notices.append(Notice("nic-management", message))
        if (device / "physfn").exists():
            notices.append(Notice("nic-virtual-function", f"interface {name} is a virtual function (SR-IOV)"))
    return nics, notices
