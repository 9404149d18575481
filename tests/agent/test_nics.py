# SPDX-License-Identifier: GPL-3.0-or-later
"""Network interfaces on a hand-made sysfs: which count, in which order, with what."""

from __future__ import annotations

from pathlib import Path

import pytest
from agent_lab import write_tree

from coldmig_agent.discovery import nics
from coldmig_agent.interfaces import all_states, ethernet_names, permanent_mac


def add_pci_nic(root: Path, name: str, slot: str, mac: str, driver: str = "e1000e", **files: str) -> None:
    """A PCI network function with its interface, linked as the kernel does it."""
    device = f"devices/pci0000:00/0000:00:{slot}"
    write_tree(
        root,
        {
            f"{device}/vendor": "0x8086\n",
            f"{device}/device": "0x10d3\n",
            f"{device}/net/{name}/address": f"{mac}\n",
            f"{device}/net/{name}/type": "1\n",
            f"{device}/net/{name}/carrier": "1\n",
            f"{device}/net/{name}/speed": "1000\n",
            f"bus/pci/drivers/{driver}/": "",
            "bus/pci/devices/": "",
            **{f"{device}/net/{name}/{key}": value for key, value in files.items()},
        },
    )
    (root / device / "driver").symlink_to(root / f"bus/pci/drivers/{driver}")
    (root / device / "subsystem").symlink_to(root / "bus/pci")
    (root / device / f"net/{name}/device").symlink_to(root / device)
    (root / "class/net").mkdir(parents=True, exist_ok=True)
    (root / f"class/net/{name}").symlink_to(root / device / f"net/{name}")


def test_an_interface_is_described_with_driver_speed_and_pci_id(tmp_path: Path) -> None:
    add_pci_nic(tmp_path, "eno1", "03.0", "00:50:56:00:00:01")
    (found,), notices = nics.read(tmp_path, lambda _: "00:50:56:ff:ff:ff")
    assert (found.name, found.mac, found.permanent_mac) == ("eno1", "00:50:56:00:00:01", "00:50:56:ff:ff:ff")
    assert (found.driver, found.speed_mbps, found.carrier, found.pci_id) == ("e1000e", 1000, True, "8086:10d3")
    assert notices == []


def test_without_a_permanent_address_the_one_in_use_counts(tmp_path: Path) -> None:
    add_pci_nic(tmp_path, "eno1", "03.0", "00:50:56:00:00:01")
    (found,), _ = nics.read(tmp_path, lambda _: None)
    assert found.permanent_mac == "00:50:56:00:00:01"


def test_the_order_is_that_of_the_slots_and_not_of_the_names(tmp_path: Path) -> None:
    add_pci_nic(tmp_path, "aaa", "1f.0", "00:50:56:00:00:02")
    add_pci_nic(tmp_path, "zzz", "03.0", "00:50:56:00:00:01")
    assert ethernet_names(tmp_path) == ["zzz", "aaa"]


def test_an_unknown_speed_is_none(tmp_path: Path) -> None:
    add_pci_nic(tmp_path, "eno1", "03.0", "00:50:56:00:00:01", speed="-1\n")
    (found,), _ = nics.read(tmp_path, lambda _: None)
    assert found.speed_mbps is None


def test_wireless_virtual_and_loopback_interfaces_are_left_out(tmp_path: Path) -> None:
    add_pci_nic(tmp_path, "wlan0", "04.0", "00:50:56:00:00:01", **{"phy80211/index": "0"})
    write_tree(tmp_path, {"class/net/lo/type": "772\n", "class/net/br0/type": "1\n", "class/net/br0/address": "x\n"})
    assert ethernet_names(tmp_path) == []


def add_usb_nic(root: Path, name: str, mac: str, driver: str, **usb: str) -> None:
    """A USB network function; its device with maker and product is one level up."""
    device = "devices/pci0000:00/0000:00:14.0/usb1/1-3"
    write_tree(
        root,
        {
            f"{device}/1-3:1.0/net/{name}/address": f"{mac}\n",
            f"{device}/1-3:1.0/net/{name}/type": "1\n",
            f"bus/usb/drivers/{driver}/": "",
            "class/net/": "",
            **{f"{device}/{key}": f"{value}\n" for key, value in usb.items()},
        },
    )
    (root / device / "1-3:1.0/driver").symlink_to(root / f"bus/usb/drivers/{driver}")
    (root / device / f"1-3:1.0/net/{name}/device").symlink_to(root / device / "1-3:1.0")
    (root / f"class/net/{name}").symlink_to(root / device / f"1-3:1.0/net/{name}")


@pytest.mark.parametrize(
    ("driver", "usb", "management"),
    [
        ("cdc_ether", {"idVendor": "413c", "product": "iDRAC Virtual NIC"}, True),
        ("cdc_ether", {"idVendor": "04b3", "product": "RNDIS/CDC ETHER"}, True),
        (
            "rndis_host",
            {"idVendor": "ffff", "product": "Virtual Ethernet", "manufacturer": "American Megatrends"},
            True,
        ),
        ("cdc_ether", {"idVendor": "1234", "product": "OpenBMC network"}, True),
        ("cdc_ether", {}, True),
        ("cdc_ncm", {"idVendor": "0bda", "product": "USB 10/100/1000 LAN", "manufacturer": "Realtek"}, False),
        ("r8152", {"idVendor": "413c", "product": "Dock"}, False),
    ],
)
def test_management_controllers_are_told_from_adapters(
    tmp_path: Path, driver: str, usb: dict[str, str], management: bool
) -> None:
    add_usb_nic(tmp_path, "usb0", "00:50:56:00:00:01", driver, **usb)
    (found,), notices = nics.read(tmp_path, lambda _: None)
    assert found.management is management
    assert [(notice.code, notice.severity) for notice in notices] == [("nic-management", "info")] * management


def test_a_virtual_function_names_the_card_that_it_is_part_of(tmp_path: Path) -> None:
    add_pci_nic(tmp_path, "ens3f0", "03.0", "00:50:56:00:00:01")
    add_pci_nic(tmp_path, "ens3f0v0", "04.0", "00:50:56:00:00:02", driver="ixgbevf")
    (tmp_path / "devices/pci0000:00/0000:00:04.0/physfn").symlink_to(tmp_path / "devices/pci0000:00/0000:00:03.0")
    (physical, virtual), (notice,) = nics.read(tmp_path, lambda _: None)
    assert (physical.virtual_function, virtual.virtual_function) == (False, True)
    assert notice.code == "nic-virtual-function"
    assert "ens3f0v0 is a virtual function (SR-IOV) of ens3f0" in notice.message


def test_an_interface_without_an_address_of_its_own_is_none(tmp_path: Path) -> None:
    add_pci_nic(tmp_path, "dummy", "03.0", "00:00:00:00:00:00")
    assert nics.read(tmp_path, lambda _: None) == ([], [])


def test_a_machine_without_network_has_no_interfaces(tmp_path: Path) -> None:
    assert nics.read(tmp_path) == ([], [])
    assert all_states(tmp_path, tmp_path) == []


def test_the_loopback_interface_of_this_machine_has_no_permanent_address() -> None:
    assert permanent_mac("lo") is None
    assert permanent_mac("no-such-if") is None
