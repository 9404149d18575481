# SPDX-License-Identifier: GPL-3.0-or-later
"""The devices that a virtual machine of VMware can have, as Windows' device databases and services name them."""

from __future__ import annotations

from dataclasses import dataclass

STORAGE, NETWORK, BASE = "storage", "network", "base"


@dataclass(frozen=True, slots=True)
class Device:
    """``identifiers``: PCI hardware and compatible identifiers, the exact one first. ``services``: drivers that are
    known for it, the newest first. ``helpers``: drivers that it needs beside its own."""

    name: str
    kind: str
    identifiers: tuple[str, ...]
    services: tuple[str, ...]
    helpers: tuple[str, ...] = ()


DEVICES = (
    Device("pvscsi", STORAGE, ("VEN_15AD&DEV_07C0",), ("pvscsi",)),
    Device("lsilogic-sas", STORAGE, ("VEN_1000&DEV_0054",), ("LSI_SAS",)),
    Device("ahci", STORAGE, ("VEN_15AD&DEV_07E0", "CC_010601", "CC_0106"), ("storahci", "msahci")),
    Device("nvme", STORAGE, ("VEN_15AD&DEV_07F0", "CC_010802", "CC_0108"), ("stornvme",)),
    Device("lsilogic", STORAGE, ("VEN_1000&DEV_0030",), ("LSI_SCSI", "symmpi")),
    Device("ide", STORAGE, ("VEN_8086&DEV_7111", "CC_0101"), ("intelide", "pciide"), ("atapi",)),
    Device("vmxnet3", NETWORK, ("VEN_15AD&DEV_07B0",), ("vmxnet3ndis6", "vmxnet3ndis5")),
    Device("e1000e", NETWORK, ("VEN_8086&DEV_10D3",), ("e1iexpress", "E1i65x64", "e1express")),
    Device("e1000", NETWORK, ("VEN_8086&DEV_100F",), ("E1G60", "E1000")),
)

#: Drivers without which no disk is reached, whatever its controller; ``volmgr`` came with Vista, ``ftdisk`` went.
BASE_DRIVERS = ("pci", "disk", "partmgr", "mountmgr", "volmgr")
BASE_DRIVERS_NT5 = ("pci", "disk", "partmgr", "mountmgr", "ftdisk")

#: Classes of devices between a controller and a file system; their filter drivers must load at boot.
DISK_CLASSES = {
    "{4d36e967-e325-11ce-bfc1-08002be10318}": "DiskDrive",
    "{4d36e96a-e325-11ce-bfc1-08002be10318}": "HDC",
    "{4d36e97b-e325-11ce-bfc1-08002be10318}": "SCSIAdapter",
    "{71a27cdd-812a-11d0-bec7-08002be2092f}": "Volume",
}
