# SPDX-License-Identifier: GPL-3.0-or-later
"""Turns the network settings into systemd-networkd files (systemd.network(5), systemd.netdev(5)).

Without interfaces in the settings every wired one asks DHCP. With them, the others are brought up (their link and speed
are part of what is reported) but get no address, so that there is exactly one default route.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from coldmig_agent import interfaces
from coldmig_agent.netsettings import DEFAULT, BondConfig, InterfaceConfig, Match, NetworkConfig

CARRIER_WAIT_SECONDS = 20.0
VLAN_PREFIX = "cmvlan"
FILE_MARK = "-coldmig-"
_POLL_SECONDS = 0.5
Values = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Card:
    """A wired interface of this machine. ``mac``: burnt in where the driver tells, else the one in use."""

    name: str
    mac: str = ""
    driver: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """``files``: name → content for ``/run/systemd/network``; ``problems``: settings that fit no card here."""

    files: Mapping[str, str]
    problems: tuple[str, ...] = ()


def matching(match: Match, cards: Sequence[Card]) -> list[Card]:
    """The cards that a match without a bond may mean, in the order of their places."""
    if match.mac is not None:
        return [card for card in cards if card.mac == match.mac]
    if match.name is not None:
        return [card for card in cards if card.name == match.name]
    if match.driver is not None:
        return [card for card in cards if card.driver == match.driver]
    return list(cards)


def first_with_carrier(
    names: Sequence[str],
    has_carrier: Callable[[str], bool],
    *,
    wait_seconds: float = CARRIER_WAIT_SECONDS,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Wait until an interface has a link; if none gets one, take the first: a cable may be plugged in later."""
    for _attempt in range(max(1, round(wait_seconds / _POLL_SECONDS))):
        for name in names:
            if has_carrier(name):
                return name
        sleep(_POLL_SECONDS)
    return names[0]


def _section(title: str, values: Iterable[tuple[str, str]]) -> str:
    lines = "".join(f"{key}={value}\n" for key, value in values)
    return f"[{title}]\n{lines}\n" if lines else ""


def _yes(value: bool) -> str:
    return "yes" if value else "no"


_NO_ADDRESSES: Values = [("DHCP", "no"), ("IPv6AcceptRA", "no"), ("LinkLocalAddressing", "no")]


def _router(gateway: str, addresses: Sequence[str]) -> Values:
    """The lines for a gateway; one outside all networks is on the link (hosters give addresses with /32 and /128)."""
    router = ipaddress.ip_address(gateway)
    networks = [ipaddress.ip_interface(item).network for item in addresses]
    if not addresses or router.is_link_local or any(router in network for network in networks):
        return [("Gateway", gateway)]
    return [("Gateway", gateway), ("GatewayOnLink", "yes")]


def _routes(interface: InterfaceConfig) -> str:
    text = "".join(_section("Route", _router(gateway, interface.addresses)) for gateway in interface.gateways)
    for route in interface.routes:
        values: Values = [("Destination", route.to)] if route.to != DEFAULT else []
        values += _router(route.via, interface.addresses) if route.via is not None else [("Scope", "link")]
        if route.metric is not None:
            values.append(("Metric", str(route.metric)))
        text += _section("Route", values)
    return text


def _addresses(interface: InterfaceConfig, config: NetworkConfig, vlans: Sequence[str]) -> str:
    """The sections that give an interface its addresses, routes and name servers."""
    values: Values = [("DHCP", _yes(interface.dhcp)), ("IPv6AcceptRA", _yes(interface.dhcp))]
    values += [("Address", address) for address in interface.addresses]
    values += [("DNS", server) for server in config.dns]
    values += [("Domains", " ".join(config.search))] if config.search else []
    values += [("VLAN", name) for name in vlans]
    text = _section("Network", values) + _routes(interface)
    if interface.dhcp:
        own: Values = [("UseDNS", "no")] if config.dns else []
        # A stable lease: servers know the machine by its MAC address, not by a live system's random machine id.
        text += _section("DHCPv4", [("ClientIdentifier", "mac"), ("UseHostname", "no"), *own])
        text += _section("DHCPv6", own) + _section("IPv6AcceptRA", own)
    return text


def _link(mtu: int | None, *, required: bool = True) -> str:
    values: Values = [("MTUBytes", str(mtu))] if mtu is not None else []
    if not required:
        values += [("ActivationPolicy", "up"), ("RequiredForOnline", "no")]
    return _section("Link", values)


@dataclass(slots=True)
class _Parent:
    """A card or bond that is used: at most one untagged interface, and the VLANs on it."""

    match: tuple[str, str]
    untagged: InterfaceConfig | None = None
    vlans: list[tuple[str, InterfaceConfig]] = field(default_factory=list)

    def mtu(self, default: int | None) -> int | None:
        """A VLAN's packets have to fit through what it is on."""
        own = self.untagged.mtu if self.untagged is not None else None
        sizes = [size for size in (own or default, *(item.mtu or default for _name, item in self.vlans)) if size]
        return max(sizes) if sizes else None


def _key(match: Match, chosen: Mapping[Match, str]) -> tuple[str, str] | None:
    """The line of ``[Match]``; None where the machine has no such card."""
    if match.bond is not None:
        return ("Name", match.bond)
    if match in chosen:
        return ("Name", chosen[match])
    return ("PermanentMACAddress", match.mac) if match.mac is not None else None


def _bond_files(number: int, bond: BondConfig, cards: Sequence[Card], mtu: int | None) -> tuple[dict[str, str], bool]:
    """The bond's device and its members' files; and whether the machine has any member."""
    members = list(dict.fromkeys(card for member in bond.members for card in matching(member, cards)))
    device: Values = [("Name", bond.name), ("Kind", "bond")]
    if members and members[0].mac:
        # Else networkd makes one up from the random machine id, and DHCP gives another address at every boot.
        device.append(("MACAddress", members[0].mac))
    if mtu is not None:
        device.append(("MTUBytes", str(mtu)))
    options: Values = [("Mode", bond.mode), ("MIIMonitorSec", "100ms")]
    if bond.mode == "802.3ad":
        options += [("TransmitHashPolicy", "layer3+4"), ("LACPTransmitRate", "fast")]
    files = {f"05{FILE_MARK}bond-{number}.netdev": _section("NetDev", device) + _section("Bond", options)}
    for place, card in enumerate(members):
        lines = [*_NO_ADDRESSES, ("Bond", bond.name)]
        content = _section("Match", [("Name", card.name)]) + _link(mtu) + _section("Network", lines)
        files[f"05{FILE_MARK}bond-{number}-{place}.network"] = content
    return files, bool(members)


def networkd_files(
    config: NetworkConfig, cards: Sequence[Card] = (), chosen: Mapping[Match, str] | None = None
) -> Plan:
    """The files for these settings on a machine with these cards.

    ``chosen``: the interface that stands for each match (see :func:`choose`).
    """
    chosen = chosen or {}
    if not config.interfaces:
        match = _section("Match", [("Type", "ether"), ("Kind", "!*")])
        every = _addresses(InterfaceConfig(Match(first_with_carrier=True)), config, ())
        return Plan({f"80{FILE_MARK}dhcp.network": match + _link(config.mtu) + every})
    files: dict[str, str] = {}
    problems: list[str] = []
    parents: dict[tuple[str, str], _Parent] = {}
    for number, interface in enumerate(config.interfaces):
        key = _key(interface.match, chosen)
        if interface.match.bond is None and not matching(interface.match, cards):
            problems.append(missing(interface.match, cards))
        if key is None:
            continue
        parent = parents.setdefault(key, _Parent(key))
        if interface.vlan is None:
            parent.untagged = interface
            continue
        name = f"{VLAN_PREFIX}{number}"
        parent.vlans.append((name, interface))
        device = _section("NetDev", [("Name", name), ("Kind", "vlan")]) + _section(
            "VLAN", [("Id", str(interface.vlan))]
        )
        files[f"10{FILE_MARK}{number}.netdev"] = device
        files[f"10{FILE_MARK}{number}.network"] = (
            _section("Match", [("Name", name)]) + _link(interface.mtu or config.mtu) + _addresses(interface, config, ())
        )
    for number, parent in enumerate(parents.values()):
        names = [name for name, _interface in parent.vlans]
        mtu = parent.mtu(config.mtu)
        head = _section("Match", [parent.match])
        if parent.untagged is not None:
            body = _link(mtu) + _addresses(parent.untagged, config, names)
        else:
            lines = [*_NO_ADDRESSES, *(("VLAN", name) for name in names)]
            body = _link(mtu, required=False) + _section("Network", lines)
        files[f"20{FILE_MARK}{number}.network"] = head + body
    for number, bond in enumerate(config.bonds):
        user = parents.get(("Name", bond.name))
        made, found = _bond_files(number, bond, cards, user.mtu(config.mtu) if user is not None else config.mtu)
        files |= made
        if not found:
            problems.append(f"bond {bond.name}: {'; '.join(missing(member, cards) for member in bond.members)}")
    rest = _section("Match", [("Type", "ether"), ("Kind", "!*")]) + _link(None, required=False)
    files[f"90{FILE_MARK}rest.network"] = rest + _section("Network", _NO_ADDRESSES)
    return Plan(files, tuple(problems))


def missing(match: Match, cards: Sequence[Card]) -> str:
    """The sentence for settings that no card fits."""
    if not cards:
        return "this machine has no wired network interface that the live system has a driver for"
    known = ", ".join(" ".join(filter(None, (card.name, card.mac, card.driver))) for card in cards[:8])
    return f"no interface fits the setting {match}; this machine has {known}"


def choose(config: NetworkConfig, cards: Sequence[Card], wait: Callable[[Sequence[str]], str]) -> Mapping[Match, str]:
    """The interface that stands for each match; ``wait`` picks the one with a link where several may be meant."""
    members = {card.name for bond in config.bonds for member in bond.members for card in matching(member, cards)}
    chosen: dict[Match, str] = {}
    for match in dict.fromkeys(interface.match for interface in config.interfaces):
        if match.bond is not None:
            continue
        names = [card.name for card in matching(match, cards) if card.name not in members]
        if len(names) > 1:
            chosen[match] = wait(names)
        elif names:
            chosen[match] = names[0]
        elif match.name is not None:
            chosen[match] = match.name  # it may appear later
    return chosen


def machine_cards() -> list[Card]:
    """The wired interfaces of this machine."""
    return [
        Card(name, interfaces.permanent_mac(name) or interfaces.mac_address(name), interfaces.driver(name))
        for name in interfaces.ethernet_names()
    ]


def _wait_for_link(names: Sequence[str]) -> str:
    for name in names:
        interfaces.bring_up(name)
    return first_with_carrier(names, interfaces.has_carrier)


def plan(config: NetworkConfig) -> Plan:
    """The files for this machine; waits for a link only where the settings ask for one."""
    cards = machine_cards()
    return networkd_files(config, cards, choose(config, cards, _wait_for_link))


def write(files: Mapping[str, str], output: Path) -> list[Path]:
    """Put the files in place of our earlier ones; the devices (VLANs, bonds) of the earlier ones are not removed."""
    output.mkdir(parents=True, exist_ok=True)
    for old in output.glob(f"*{FILE_MARK}*.net*"):
        if old.name not in files:
            old.unlink()
    written = []
    for name, content in files.items():
        path = output / name
        path.write_text(content, encoding="ascii")
        path.chmod(0o644)
        written.append(path)
    return written
