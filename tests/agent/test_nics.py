# SPDX-License-Identifier: GPL-3.0-or-later
"""Network interfaces on a hand-made sysfs: which count, in which order, with what."""

from __future__ import annotations

from pathlib import Path

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


def test_a_management_controllers_interface_is_kept_with_a_notice(tmp_path: Path) -> None:
    add_pci_nic(tmp_path, "idrac", "05.0", "00:50:56:00:00:01", driver="cdc_ether")
    found, notices = nics.read(tmp_path, lambda _: None)
    assert len(found) == 1
    assert [notice.code for notice in notices] == ["nic-management"]


def test_a_machine_without_network_has_no_interfaces(tmp_path: Path) -> None:
    assert nics.read(tmp_path) == ([], [])
    assert all_states(tmp_path, tmp_path) == []


def test_the_loopback_interface_of_this_machine_has_no_permanent_address() -> None:
    assert permanent_mac("lo") is None
    assert permanent_mac("no-such-if") is None
