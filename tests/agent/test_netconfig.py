# SPDX-License-Identifier: GPL-3.0-or-later
"""Files for systemd-networkd; test_networkd.py has the real one read them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from coldmig_agent.interfaces import InterfaceState
from coldmig_agent.netapply import devices
from coldmig_agent.netconfig import Card, choose, first_with_carrier, networkd_files, write
from coldmig_agent.netsettings import BondConfig, InterfaceConfig, Match, NetworkConfig, Route
from coldmig_agent.network import advice, is_ready, name_servers, write_resolv_conf

CARDS = (
    Card("eno1", "00:50:56:00:00:01", "ixgbe"),
    Card("eno2", "00:50:56:00:00:02", "ixgbe"),
    Card("ens3", "00:50:56:00:00:03", "mlx5_core"),
)
BOND = BondConfig("bond0", "802.3ad", (Match(driver="ixgbe"),))


def interface(vlan: int | None = None, **values: Any) -> InterfaceConfig:
    """A static one with a gateway; keywords of Match choose it, others replace what it has."""
    chosen = {key: values.pop(key) for key in ("mac", "name", "driver", "bond") if key in values}
    given: dict[str, Any] = {"dhcp": False, "addresses": ("192.0.2.10/24",), "gateways": ("192.0.2.1",), **values}
    return InterfaceConfig(Match(**chosen), vlan=vlan, **given)


def made(*interfaces: InterfaceConfig, **more: Any) -> Mapping[str, str]:
    config = NetworkConfig(interfaces, **more)
    plan = networkd_files(config, CARDS, choose(config, CARDS, lambda names: names[-1]))
    assert not plan.problems
    return plan.files


def of(files: Mapping[str, str], *match: tuple[str, str]) -> Mapping[str, list[tuple[str, str]]]:
    """The sections of the .network file with this match."""
    found = [parsed(content) for name, content in files.items() if name.endswith(".network")]
    (only,) = (sections for sections in found if sections["Match"] == list(match))
    return only


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
    files = made(mtu=1400)
    (content,) = files.values()
    sections = parsed(content)
    assert ("Type", "ether") in sections["Match"]
    assert ("DHCP", "yes") in sections["Network"]
    assert ("MTUBytes", "1400") in sections["Link"]


def test_static_addresses_switch_dhcp_off_everywhere() -> None:
    files = made(
        interface(
            mac="00:50:56:00:00:01", addresses=("192.0.2.10/24", "2001:db8::5/64"), gateways=("192.0.2.1", "fe80::1")
        ),
        dns=("192.0.2.53",),
        search=("a.example", "b.example"),
    )
    sections = of(files, ("Name", "eno1"))
    assert [value for key, value in sections["Network"] if key == "Address"] == ["192.0.2.10/24", "2001:db8::5/64"]
    assert sections["Route"] == [("Gateway", "192.0.2.1"), ("Gateway", "fe80::1")]
    assert ("DNS", "192.0.2.53") in sections["Network"]
    assert ("Domains", "a.example b.example") in sections["Network"]
    assert all("DHCP=yes" not in content for content in files.values())
    assert ("ActivationPolicy", "up") in parsed(files["90-coldmig-rest.network"])["Link"]


def test_a_card_that_is_not_there_yet_is_found_by_its_mac_address_later() -> None:
    config = NetworkConfig((interface(mac="00:50:56:00:00:99"),))
    plan = networkd_files(config, CARDS, choose(config, CARDS, lambda names: names[0]))
    assert ("PermanentMACAddress", "00:50:56:00:00:99") in of(plan.files, ("PermanentMACAddress", "00:50:56:00:00:99"))[
        "Match"
    ]
    assert plan.problems == (
        "no interface fits the setting MAC 00:50:56:00:00:99; this machine has eno1 00:50:56:00:00:01 ixgbe,"
        " eno2 00:50:56:00:00:02 ixgbe, ens3 00:50:56:00:00:03 mlx5_core",
    )


def test_a_driver_means_its_first_card_with_a_link() -> None:
    sections = of(made(interface(driver="ixgbe")), ("Name", "eno2"))
    assert ("Address", "192.0.2.10/24") in sections["Network"]


def test_a_gateway_outside_the_only_host_of_its_network_is_on_the_link() -> None:
    sections = of(made(interface(name="eno1", addresses=("198.51.100.9/32",))), ("Name", "eno1"))
    assert sections["Route"] == [("Gateway", "192.0.2.1"), ("GatewayOnLink", "yes")]


def test_routes_have_their_router_and_metric() -> None:
    routes = (Route("198.51.100.0/24", "192.0.2.2", 50), Route("203.0.113.0/24"))
    sections = of(made(interface(name="eno1", gateways=(), routes=routes)), ("Name", "eno1"))
    assert sections["Route"] == [
        ("Destination", "198.51.100.0/24"),
        ("Gateway", "192.0.2.2"),
        ("Metric", "50"),
        ("Destination", "203.0.113.0/24"),
        ("Scope", "link"),
    ]


def test_own_name_servers_replace_those_of_dhcp() -> None:
    with_own = parsed(next(iter(made(dns=("192.0.2.53",)).values())))
    assert [("UseDNS", "no") in with_own[part] for part in ("DHCPv4", "DHCPv6", "IPv6AcceptRA")] == [True] * 3
    assert "UseDNS" not in next(iter(made().values()))


def test_a_vlan_gets_a_device_and_its_trunk_no_address() -> None:
    files = made(interface(name="eno1", vlan=100, mtu=9000))
    device = parsed(files["10-coldmig-0.netdev"])
    assert ("Id", "100") in device["VLAN"]
    name = dict(device["NetDev"])["Name"]
    assert ("MTUBytes", "9000") in of(files, ("Name", name))["Link"]
    trunk = of(files, ("Name", "eno1"))
    assert ("VLAN", name) in trunk["Network"]
    assert ("MTUBytes", "9000") in trunk["Link"]
    assert not [key for key, _ in trunk["Network"] if key == "Address"]


def test_a_vlan_beside_an_untagged_network_joins_the_same_file() -> None:
    files = made(interface(name="eno1"), interface(mac="00:50:56:00:00:01", vlan=7, gateways=()))
    sections = of(files, ("Name", "eno1"))
    assert ("VLAN", "cmvlan1") in sections["Network"]
    assert ("Address", "192.0.2.10/24") in sections["Network"]


def test_dhcp_on_one_interface_leaves_the_others_alone() -> None:
    files = made(InterfaceConfig(Match(name="eno2")))
    assert ("DHCP", "yes") in of(files, ("Name", "eno2"))["Network"]
    assert ("DHCP", "no") in parsed(files["90-coldmig-rest.network"])["Network"]


@pytest.mark.parametrize(("mode", "lacp"), [("802.3ad", True), ("active-backup", False)])
def test_a_bond_takes_all_cards_of_its_driver_and_the_first_ones_address(mode: str, lacp: bool) -> None:
    files = made(
        interface(bond="bond0"),
        interface(bond="bond0", vlan=7),
        bonds=(BondConfig("bond0", mode, BOND.members),),
        mtu=9000,
    )
    device = parsed(files["05-coldmig-bond-0.netdev"])
    assert device["NetDev"] == [
        ("Name", "bond0"), ("Kind", "bond"), ("MACAddress", "00:50:56:00:00:01"), ("MTUBytes", "9000"),
    ]  # fmt: skip
    assert device["Bond"][0] == ("Mode", mode)
    assert (("LACPTransmitRate", "fast") in device["Bond"]) is lacp
    for name in ("eno1", "eno2"):
        member = of(files, ("Name", name))
        assert ("Bond", "bond0") in member["Network"]
        assert ("MTUBytes", "9000") in member["Link"]
    assert "ens3" not in "".join(files.values())
    assert ("VLAN", "cmvlan1") in of(files, ("Name", "bond0"))["Network"]


def test_the_first_with_a_link_is_no_member_of_a_bond() -> None:
    config = NetworkConfig((InterfaceConfig(Match(first_with_carrier=True)), interface(bond="bond0")), (BOND,))
    assert choose(config, CARDS, lambda names: names[0]) == {Match(first_with_carrier=True): "ens3"}


def test_a_bond_without_cards_is_a_problem_that_says_so() -> None:
    config = NetworkConfig((interface(bond="bond0"),), (BOND,))
    (problem,) = networkd_files(config, CARDS[2:], {}).problems
    assert problem.startswith("bond bond0: no interface fits the setting driver ixgbe; this machine has ens3")
    (problem,) = networkd_files(config, (), {}).problems
    assert "no wired network interface" in problem


def test_old_files_of_ours_go_when_new_ones_are_written(tmp_path: Path) -> None:
    (tmp_path / "50-other.network").touch()
    write(made(interface(name="eno1", vlan=7)), tmp_path)
    write(made(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["50-other.network", "80-coldmig-dhcp.network"]


def test_devices_are_known_by_the_files_that_make_them() -> None:
    files = made(interface(bond="bond0"), interface(bond="bond0", vlan=7), bonds=(BOND,))
    assert sorted(devices(files)) == ["bond0", "cmvlan1"]


def test_the_interface_with_a_link_is_taken() -> None:
    asked: list[str] = []

    def carrier(name: str) -> bool:
        asked.append(name)
        return name == "eno2" and len(asked) > 4

    assert first_with_carrier(["eno1", "eno2"], carrier, wait_seconds=5, sleep=lambda _: None) == "eno2"


def test_without_any_link_the_first_interface_is_configured() -> None:
    assert first_with_carrier(["eno1", "eno2"], lambda _: False, wait_seconds=1, sleep=lambda _: None) == "eno1"


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
    state.write_text("OPER_STATE=routable\nDNS=192.0.2.53 2001:db8::53 evil\\nnameserver\nDOMAINS=a.example b;c\n")
    assert name_servers(state) == ["192.0.2.53", "2001:db8::53"]
    target = tmp_path / "run/resolv.conf"
    write_resolv_conf(target, state)
    assert target.read_text() == "search a.example\nnameserver 192.0.2.53\nnameserver 2001:db8::53\n"
