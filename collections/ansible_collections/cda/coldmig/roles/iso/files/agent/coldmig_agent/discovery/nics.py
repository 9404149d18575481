# SPDX-License-Identifier: GPL-3.0-or-later
"""Network interfaces of the source, with the addresses that its hardware has.

Speed and carrier are known only while an interface is up: the live system's network settings bring all of them up long
before anybody asks (netconfig).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from coldmig_agent import interfaces
from coldmig_agent.interfaces import read_text
from coldmig_agent.machine import Nic, Notice
from coldmig_agent.text import clean
from coldmig_agent.warnings import notice

MAX_NICS = 64
#: Drivers of the interfaces that management controllers show to their host over USB; a virtual machine has no use for
#: them. The same drivers serve adapters that somebody plugged in, so they count only together with the maker.
_USB_NETWORK = frozenset({"cdc_ether", "rndis_host", "cdc_eem", "cdc_ncm"})
#: USB vendors of management controllers: Insyde/ATEN/AMI (iDRAC, iLO, IMM, BMC), and Linux' own gadget.
_MANAGEMENT_VENDORS = frozenset({"0557", "046b", "413c", "03f0", "04b3", "0b1f", "1d6b", "0525"})
_MANAGEMENT_WORDS = re.compile(r"idrac|\bilo\b|\bimm\b|\bxcc\b|\bbmc\b|virtual|gadget|redfish|openbmc", re.IGNORECASE)
_NO_MAC = frozenset({"00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff"})


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


def _is_management(device: Path, driver: str) -> bool:
    """A USB network function that says it is a controller's, or comes from a maker of such."""
    if driver not in _USB_NETWORK:
        return False
    usb = device.parent
    words = " ".join(read_text(usb / name) or "" for name in ("manufacturer", "product"))
    vendor = (read_text(usb / "idVendor") or "").lower()
    return not vendor or vendor in _MANAGEMENT_VENDORS or bool(_MANAGEMENT_WORDS.search(words))


def read(
    sys: Path, permanent_mac: Callable[[str], str | None] = interfaces.permanent_mac
) -> tuple[list[Nic], list[Notice]]:
    """All wired interfaces in bus order; management controllers' and virtual functions are reported with a notice."""
    nics: list[Nic] = []
    notices: list[Notice] = []
    for name in interfaces.ethernet_names(sys)[:MAX_NICS]:
        entry = sys / "class/net" / name
        device = (entry / "device").resolve()
        driver = clean((device / "driver").resolve().name if (device / "driver").exists() else "", 32)
        mac = interfaces.mac_address(name, sys)
        if not mac or mac in _NO_MAC:
            continue
        management = _is_management(device, driver)
        virtual_function = (device / "physfn").exists()
        nics.append(
            Nic(
                name=name,
                mac=mac,
                permanent_mac=permanent_mac(name) or mac,
                driver=driver,
                speed_mbps=_speed(entry),
                carrier=interfaces.has_carrier(name, sys),
                pci_id=_pci_id(device),
                virtual_function=virtual_function,
                management=management,
            )
        )
        if management:
            notices.append(notice("nic-management", name=name, driver=driver))
        if virtual_function:
            parent = (device / "physfn").resolve()
            names = [item.name for item in (parent / "net").iterdir()] if (parent / "net").is_dir() else []
            where = ", ".join(sorted(names)[:4]) or parent.name
            notices.append(notice("nic-virtual-function", name=name, parent=where))
    return nics, notices
