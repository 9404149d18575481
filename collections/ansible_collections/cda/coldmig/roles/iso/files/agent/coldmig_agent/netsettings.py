# SPDX-License-Identifier: GPL-3.0-or-later
"""The network part of the ISO's settings."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from coldmig_agent.fields import ConfigError, Fields, is_address, is_host

MAX_INTERFACES = 64
MODES = ("802.3ad", "active-backup")
_MAC = re.compile(r"^[0-9a-f]{2}(?::[0-9a-f]{2}){5}$")
_IFNAME = re.compile(r"^[A-Za-z0-9_.-]{1,15}$")
_DRIVER = re.compile(r"^[A-Za-z0-9_-]{1,60}$")
_MATCHES = "exactly one of mac, name, driver, bond, first_with_carrier: true"
DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Match:
    """Which interface is meant: exactly one of these is set.

    ``driver`` and ``first_with_carrier`` mean the first interface that has a link (of this driver). ``bond``: the bond
    of this name among the settings.
    """

    mac: str | None = None
    name: str | None = None
    driver: str | None = None
    bond: str | None = None
    first_with_carrier: bool = False

    def __str__(self) -> str:
        if self.mac is not None:
            return f"MAC {self.mac}"
        if self.driver is not None:
            return f"driver {self.driver}"
        if self.bond is not None:
            return f"bond {self.bond}"
        return f"name {self.name}" if self.name is not None else "the first with a link"


@dataclass(frozen=True, slots=True)
class Route:
    """A route: ``to`` a network (or ``default``) by way of ``via``; without ``via`` it is on the link."""

    to: str
    via: str | None = None
    metric: int | None = None


@dataclass(frozen=True, slots=True)
class InterfaceConfig:
    """One interface, or with ``vlan`` a VLAN on it. ``gateways``: at most one of each family."""

    match: Match
    dhcp: bool = True
    addresses: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    vlan: int | None = None
    mtu: int | None = None
    routes: tuple[Route, ...] = ()


@dataclass(frozen=True, slots=True)
class BondConfig:
    """Several interfaces as one. A member with ``driver`` means all of that driver."""

    name: str
    mode: str
    members: tuple[Match, ...]


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """Without interfaces every wired one asks DHCP; else only these (and bonds) are used.

    ``mtu`` counts where an interface has none of its own.
    """

    interfaces: tuple[InterfaceConfig, ...] = ()
    bonds: tuple[BondConfig, ...] = ()
    dns: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    mtu: int | None = None


def parse_mac(value: str, field: str) -> str:
    """A MAC address in its usual form. Raises ConfigError."""
    mac = value.lower().replace("-", ":")
    if not _MAC.match(mac):
        raise ConfigError(field, value, "a MAC address such as 00:50:56:01:02:03")
    return mac


def _match(value: object, where: str) -> Match:
    fields = Fields(value, where)
    mac, name, driver = fields.optional_text("mac"), fields.optional_text("name"), fields.optional_text("driver")
    bond, first = fields.optional_text("bond"), fields.flag("first_with_carrier", False)
    fields.done()
    if sum(item is not None for item in (mac, name, driver, bond)) + first != 1:
        raise ConfigError(where, value, _MATCHES)
    if mac is not None:
        mac = parse_mac(mac, f"{where}.mac")
    for key, text in (("name", name), ("bond", bond)):
        if text is not None and not _IFNAME.match(text):
            raise ConfigError(f"{where}.{key}", text, "an interface name of at most 15 characters")
    if driver is not None and not _DRIVER.match(driver):
        raise ConfigError(f"{where}.driver", driver, "the name of a kernel driver such as ixgbe")
    return Match(mac, name, driver, bond, first)


def _addresses(fields: Fields) -> tuple[str, ...]:
    found = []
    for name, text in fields.texts("addresses", 16):
        try:
            if "/" not in text:
                raise ValueError
            found.append(ipaddress.ip_interface(text).with_prefixlen)
        except ValueError:
            raise ConfigError(name, text, "an address with prefix length such as 192.0.2.10/24") from None
    return tuple(found)


def _gateways(fields: Fields) -> tuple[str, ...]:
    found: dict[int, str] = {}
    for key in ("gateway", "gateway6"):
        text = fields.optional_text(key)
        if text is None:
            continue
        if not is_address(text):
            raise ConfigError(fields.name(key), text, "an IP address or null")
        version = ipaddress.ip_address(text).version
        if version in found or (key == "gateway6" and version == 4):
            raise ConfigError(fields.name(key), text, "an IPv6 address, and the only one")
        found[version] = text
    return tuple(found.values())


def _route(value: object, where: str) -> Route:
    fields = Fields(value, where)
    to, via = fields.text("to"), fields.optional_text("via")
    metric = fields.whole("metric", 0, (1 << 32) - 1)
    fields.done()
    if to != DEFAULT:
        try:
            to = str(ipaddress.ip_network(to))
        except ValueError:
            raise ConfigError(f"{where}.to", to, "a network such as 198.51.100.0/24, or default") from None
    if via is not None and not is_address(via):
        raise ConfigError(f"{where}.via", via, "an IP address or null")
    if via is None and to == DEFAULT:
        raise ConfigError(f"{where}.via", via, "the address of the router")
    return Route(to, via, metric)


def _interface(value: object, where: str) -> InterfaceConfig:
    fields = Fields(value, where)
    match = _match(fields.take("match"), f"{where}.match")
    addresses = _addresses(fields)
    dhcp = fields.optional_flag("dhcp")
    interface = InterfaceConfig(
        match=match,
        dhcp=not addresses if dhcp is None else dhcp,
        addresses=addresses,
        gateways=_gateways(fields),
        vlan=fields.whole("vlan", 1, 4094),
        mtu=fields.whole("mtu", 576, 9216),
        routes=tuple(
            _route(item, f"{where}.routes[{number}]") for number, item in enumerate(fields.items("routes", 64))
        ),
    )
    fields.done()
    if not interface.dhcp and not addresses:
        raise ConfigError(f"{where}.addresses", [], "at least one address, because dhcp is false")
    return interface


def _bond(value: object, where: str) -> BondConfig:
    fields = Fields(value, where)
    name = fields.text("name")
    if not _IFNAME.match(name):
        raise ConfigError(f"{where}.name", name, "a name of at most 15 characters such as bond0")
    mode = fields.choice("mode", MODES, MODES[0])
    members = tuple(
        _match(item, f"{where}.members[{number}]") for number, item in enumerate(fields.items("members", 16))
    )
    fields.done()
    if not members:
        raise ConfigError(f"{where}.members", [], "at least one interface")
    for number, member in enumerate(members):
        if member.bond is not None or member.first_with_carrier:
            raise ConfigError(f"{where}.members[{number}]", str(member), "one of mac, name, driver")
    return BondConfig(name, mode, members)


def parse_network(value: object, where: str = "network") -> NetworkConfig:
    """Check the network's object. Raises ConfigError."""
    fields = Fields({} if value is None else value, where)
    interfaces = tuple(
        _interface(item, f"{where}.interfaces[{number}]")
        for number, item in enumerate(fields.items("interfaces", MAX_INTERFACES))
    )
    bonds = tuple(_bond(item, f"{where}.bonds[{number}]") for number, item in enumerate(fields.items("bonds", 8)))
    dns = fields.texts("dns", 8)
    for name, text in dns:
        if not is_address(text):
            raise ConfigError(name, text, "an IP address")
    search = fields.texts("search", 6)
    for name, text in search:
        if not is_host(text):
            raise ConfigError(name, text, "a domain such as example.com")
    mtu = fields.whole("mtu", 576, 9216)
    fields.done()
    names = [bond.name for bond in bonds]
    for number, interface in enumerate(interfaces):
        if interface.match.bond is not None and interface.match.bond not in names:
            known = ", ".join(names) or "(there are none)"
            raise ConfigError(
                f"{where}.interfaces[{number}].match.bond", interface.match.bond, f"one of the bonds {known}"
            )
    return NetworkConfig(interfaces, bonds, tuple(text for _at, text in dns), tuple(text for _at, text in search), mtu)
