# SPDX-License-Identifier: GPL-3.0-or-later
"""Files for systemd-networkd. Where its own checker is installed, it must find nothing to say about them."""

from __future__ import annotations

import configparser
from collections.abc import Mapping
from pathlib import Path

import pytest

from coldmig_agent.config import InterfaceConfig, NetworkConfig
from coldmig_agent.interfaces import InterfaceState
from coldmig_agent.netconfig import NetworkSetupError, first_with_carrier, networkd_files
from coldmig_agent.network import advice, is_ready, name_servers, write_resolv_conf


def interface(**values: object) -> InterfaceConfig:
    defaults: dict[str, object] = {
        "mac": None,
        "name": None,
        "first_with_carrier": False,
        "addresses": ("192.0.2.10/24",),
        "gateway": "192.0.2.1",
        "vlan": None,
    }
    return InterfaceConfig(**{**defaults, **values})  # type: ignore[arg-type]


def parsed(text: str) -> Mapping[str, list[tuple[str, str]]]:
    """Sections with all their assignments; keys may repeat."""
    found: dict[str, list[tuple[str, str]]] = {}
    section = ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
            found.setdefault(section, [])
        elif line:
            key, _, value = line.partition("=")
            found[section].append((key, value))
    return found


def test_without_settings_every_wired_interface_asks_dhcp() -> None:
    files = networkd_files(NetworkConfig("dhcp", (), (), 1400))
    assert len(files) == 1
    (content,) = files.values()
    sections = parsed(content)
    assert ("Type", "ether") in sections["Match"]
    assert ("DHCP", "yes") in sections["Network"]
    assert ("MTUBytes", "1400") in sections["Link"]


def test_static_addresses_switch_dhcp_off_everywhere() -> None:
    config = NetworkConfig("static", (interface(mac="00:50:56:00:00:01"),), ("192.0.2.53",), None)
    files = networkd_files(config)
    sections = parsed(files["10-coldmig-0.network"])
    assert sections["Match"] == [("PermanentMACAddress", "00:50:56:00:00:01")]
    assert ("Address", "192.0.2.10/24") in sections["Network"]
    assert ("Gateway", "192.0.2.1") in sections["Network"]
    assert ("DNS", "192.0.2.53") in sections["Network"]
    assert all("DHCP=yes" not in content for content in files.values())
    assert ("ActivationPolicy", "up") in parsed(files["90-coldmig-rest.network"])["Link"]


def test_a_vlan_gets_a_device_and_its_trunk_no_address() -> None:
    files = networkd_files(NetworkConfig("static", (interface(name="eno1", vlan=100),), (), None))
    assert ("Id", "100") in parsed(files["10-coldmig-0.netdev"])["VLAN"]
    device = dict(parsed(files["10-coldmig-0.netdev"])["NetDev"])["Name"]
    assert parsed(files["10-coldmig-0.network"])["Match"] == [("Name", device)]
    trunk = parsed(files["20-coldmig-trunk-0.network"])
    assert trunk["Match"] == [("Name", "eno1")]
    assert ("VLAN", device) in trunk["Network"]
    assert not [key for key, _ in trunk["Network"] if key == "Address"]


def test_a_vlan_beside_an_untagged_network_joins_the_same_file() -> None:
    files = networkd_files(
        NetworkConfig("static", (interface(name="eno1"), interface(name="eno1", vlan=7, gateway=None)), (), None)
    )
    assert "20-coldmig-trunk-0.network" not in files
    assert ("VLAN", "cmvlan1") in parsed(files["10-coldmig-0.network"])["Network"]


def test_dhcp_on_one_interface_leaves_the_others_alone() -> None:
    files = networkd_files(NetworkConfig("dhcp", (interface(name="eno2", addresses=(), gateway=None),), (), None))
    assert ("DHCP", "yes") in parsed(files["10-coldmig-0.network"])["Network"]
    assert ("DHCP", "no") in parsed(files["90-coldmig-rest.network"])["Network"]


def test_the_interface_with_a_link_is_taken() -> None:
    asked: list[str] = []

    def carrier(name: str) -> bool:
        asked.append(name)
        return name == "eno2" and len(asked) > 4

    assert first_with_carrier(["eno1", "eno2"], carrier, wait_seconds=5, sleep=lambda _: None) == "eno2"


def test_without_any_link_the_first_interface_is_configured() -> None:
    assert first_with_carrier(["eno1", "eno2"], lambda _: False, wait_seconds=1, sleep=lambda _: None) == "eno1"


def test_a_machine_without_interfaces_is_an_error_that_says_so() -> None:
    with pytest.raises(NetworkSetupError, match="no wired network interface"):
        first_with_carrier([], lambda _: True)


def test_every_file_is_an_ini_file_that_networkd_reads(tmp_path: Path) -> None:
    config = NetworkConfig("static", (interface(name="eno1"), interface(mac="00:50:56:00:00:01", vlan=9)), (), 9000)
    for content in networkd_files(config).values():
        parser = configparser.ConfigParser(strict=False)
        parser.read_string(content)
        assert set(parser.sections()) <= {"Match", "Link", "Network", "DHCPv4", "NetDev", "VLAN"}


UP = InterfaceState("eno1", "00:50:56:00:00:01", True, ("192.0.2.10",))


def test_ready_means_a_link_and_an_address() -> None:
    assert is_ready([UP])
    assert not is_ready([InterfaceState("eno1", "", True, ())])
    assert not is_ready([InterfaceState("eno1", "", False, ("192.0.2.10",))])


@pytest.mark.parametrize(
    ("states", "words"),
    [
        ([], "no wired network interface"),
        ([InterfaceState("eno1", "", False, ())], "network cable"),
        ([InterfaceState("eno1", "", True, ())], "DHCP"),
    ],
)
def test_the_advice_fits_what_is_missing(states: list[InterfaceState], words: str) -> None:
    assert words in advice(states)


def test_name_servers_come_from_networkd_and_nonsense_is_left_out(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.write_text("OPER_STATE=routable\nDNS=192.0.2.53 2001:db8::53 evil\\nnameserver\n")
    assert name_servers(state) == ["192.0.2.53", "2001:db8::53"]
    target = tmp_path / "run/resolv.conf"
    write_resolv_conf(target, state)
    assert target.read_text() == "nameserver 192.0.2.53\nnameserver 2001:db8::53\n"
