# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""The network part of an ISO's configuration."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.cda.coldmig.plugins.module_utils._iso_checks import Checker

KEYS = ("mode", "interfaces", "bonds", "dns", "search", "mtu")
MATCHES = ("mac", "name", "driver", "bond", "first_with_carrier")
MODES = ("802.3ad", "active-backup")
_INTERFACE = ("match", "dhcp", "addresses", "gateway", "gateway6", "vlan", "mtu", "routes")
_PATTERNS = {
    "name": (r"[A-Za-z0-9_.-]{1,15}", "an interface name such as eno1"),
    "bond": (r"[A-Za-z0-9_.-]{1,15}", "the name of a bond such as bond0"),
    "driver": (r"[A-Za-z0-9_-]{1,60}", "the name of a kernel driver such as ixgbe"),
}


def check_network(check: Checker, value: Any, name: str = "network") -> dict[str, Any]:
    """Check the network and fill in its defaults.

    Shape::

        {"interfaces": [{"match": {"mac": str} | {"name": str} | {"driver": str} | {"bond": str}
                                  | {"first_with_carrier": True},
                         "dhcp": bool, "addresses": ["10.0.0.5/24"], "gateway": None | str, "gateway6": None | str,
                         "vlan": None | int, "mtu": None | int,
                         "routes": [{"to": "198.51.100.0/24" | "default", "via": None | str, "metric": None | int}]}],
         "bonds": [{"name": str, "mode": "802.3ad" | "active-backup", "members": [match]}],
         "dns": [str], "search": [str], "mtu": None | int}

    ``mode`` ("dhcp" or "static") may be given to have it checked that the interfaces are so.
    """
    network = check.mapping(value, name, KEYS)
    mode = check.optional(network.get("mode"), f"{name}.mode", lambda v, n: check.choice(v, n, ("dhcp", "static")))
    bonds = check.each(network.get("bonds"), f"{name}.bonds", lambda v, n: _bond(check, v, n), 8)
    interfaces = check.each(network.get("interfaces"), f"{name}.interfaces", lambda v, n: _interface(check, v, n, mode))
    if mode == "static" and not interfaces:
        check.problem(f"{name}.interfaces", [], 'needs at least one interface when network.mode is "static"')
    _check_together(check, name, interfaces, bonds)
    return {
        "interfaces": interfaces,
        "bonds": bonds,
        "dns": check.each(network.get("dns"), f"{name}.dns", check.ip, 8),
        "search": check.each(network.get("search"), f"{name}.search", check.domain, 6),
        "mtu": check.optional(network.get("mtu"), f"{name}.mtu", lambda v, n: check.integer(v, n, 576, 9216)),
    }


def _match(check: Checker, value: Any, name: str, allowed: Sequence[str]) -> dict[str, Any]:
    match = check.mapping(value, name, allowed)
    if len(match) != 1:
        check.problem(name, dict(match), f"must have exactly one of {', '.join(allowed)}")
        return {}
    ((kind, wanted),) = match.items()
    field = f"{name}.{kind}"
    if kind == "mac":
        return {kind: check.mac(wanted, field)}
    if kind in _PATTERNS:
        return {kind: check.pattern(wanted, field, *_PATTERNS[kind])}
    if wanted is not True:
        check.problem(field, wanted, "can only be true")
    return {kind: True}


def _bond(check: Checker, value: Any, name: str) -> dict[str, Any]:
    bond = check.mapping(value, name, ("name", "mode", "members"))
    members = check.each(
        bond.get("members"), f"{name}.members", lambda v, n: _match(check, v, n, ("mac", "name", "driver")), 16
    )
    if not members:
        check.problem(f"{name}.members", [], "needs at least one interface")
    return {
        "name": check.pattern(bond.get("name"), f"{name}.name", *_PATTERNS["bond"]),
        "mode": check.choice(bond.get("mode", MODES[0]), f"{name}.mode", MODES),
        "members": members,
    }


def _interface(check: Checker, value: Any, name: str, mode: str | None) -> dict[str, Any]:
    entry = check.mapping(value, name, _INTERFACE)
    addresses = check.each(entry.get("addresses"), f"{name}.addresses", check.cidr, 16)
    dhcp = check.boolean(entry.get("dhcp", not addresses), f"{name}.dhcp")
    if (mode == "static" or not dhcp) and not addresses:
        check.problem(f"{name}.addresses", [], 'needs at least one address such as "10.0.0.5/24" without DHCP')
    if mode == "dhcp" and addresses:
        check.problem(f"{name}.addresses", addresses, 'is only for network.mode "static" (or without a mode)')
    return {
        "match": _match(check, entry.get("match"), f"{name}.match", MATCHES),
        "dhcp": dhcp,
        "addresses": addresses,
        "gateway": _gateway(check, entry.get("gateway"), f"{name}.gateway", addresses, (4, 6)),
        "gateway6": _gateway(check, entry.get("gateway6"), f"{name}.gateway6", addresses, (6,)),
        "vlan": check.optional(entry.get("vlan"), f"{name}.vlan", lambda v, n: check.integer(v, n, 1, 4094)),
        "mtu": check.optional(entry.get("mtu"), f"{name}.mtu", lambda v, n: check.integer(v, n, 576, 9216)),
        "routes": check.each(entry.get("routes"), f"{name}.routes", lambda v, n: _route(check, v, n, addresses)),
    }


def _gateway(check: Checker, value: Any, name: str, addresses: Sequence[str], versions: tuple[int, ...]) -> str | None:
    if value is None:
        return None
    gateway = check.ip(value, name)
    if not gateway or not all(addresses):
        return gateway or None
    if ipaddress.ip_address(gateway).version not in versions:
        check.problem(name, gateway, "must be an IPv6 address; the one of IPv4 belongs into gateway")
    elif not _reaches(addresses, gateway):
        given = ", ".join(addresses) or "(there are none: DHCP tells the gateway)"
        check.problem(name, gateway, f"is in none of the networks of {given}")
    return gateway


def _reaches(addresses: Sequence[str], router: str) -> bool:
    """Whether a router is a neighbour of an interface with these addresses."""
    wanted = ipaddress.ip_address(router)
    own = [ipaddress.ip_interface(item) for item in addresses]
    same = [host for host in own if host.version == wanted.version]
    # A single-host prefix has no network that the router could be in; hosters give such addresses.
    return wanted.is_link_local or any(wanted in host.network or host.network.num_addresses == 1 for host in same)


def _route(check: Checker, value: Any, name: str, addresses: Sequence[str]) -> dict[str, Any]:
    route = check.mapping(value, name, ("to", "via", "metric"))
    to = route.get("to")
    if to != "default":
        try:
            to = str(ipaddress.ip_network(to if isinstance(to, str) and "/" in to else ""))
        except ValueError:
            check.problem(f"{name}.to", route.get("to"), 'must be a network such as "198.51.100.0/24", or "default"')
    via = check.optional(route.get("via"), f"{name}.via", check.ip)
    if via is None and to == "default":
        check.problem(f"{name}.via", None, "must be the address of the router")
    if via and addresses and all(addresses) and not _reaches(addresses, via):
        check.problem(f"{name}.via", via, f"is in none of the networks of {', '.join(addresses)}")
    metric = check.optional(route.get("metric"), f"{name}.metric", lambda v, n: check.integer(v, n, 0, (1 << 32) - 1))
    return {"to": to, "via": via, "metric": metric}


def _check_together(
    check: Checker, name: str, interfaces: Sequence[Mapping[str, Any]], bonds: Sequence[Mapping[str, Any]]
) -> None:
    """What no entry shows by itself: names that are used twice or nowhere, two default routes."""
    names = [bond["name"] for bond in bonds]
    for index, bond in enumerate(bonds):
        if names.index(bond["name"]) != index:
            check.problem(f"{name}.bonds[{index}].name", bond["name"], "is the name of another bond already")
    members = [str(match) for bond in bonds for match in bond["members"]]
    places: dict[tuple[str, Any], int] = {}
    addresses: dict[str, int] = {}
    routers: dict[int, int] = {}
    for index, entry in enumerate(interfaces):
        where = f"{name}.interfaces[{index}]"
        bond_name = entry["match"].get("bond")
        if bond_name is not None and bond_name not in names:
            known = ", ".join(names) or "(there are none)"
            check.problem(f"{where}.match.bond", bond_name, f"is not one of network.bonds: {known}")
        if str(entry["match"]) in members:
            check.problem(f"{where}.match", entry["match"], "belongs to a bond; give the bond the addresses")
        first = places.setdefault((str(entry["match"]), entry["vlan"]), index)
        if entry["match"] and first != index:
            check.problem(f"{where}.match", entry["match"], f"is the same interface and VLAN as interfaces[{first}]")
        for address in filter(None, entry["addresses"]):
            host = address.partition("/")[0]
            if addresses.setdefault(host, index) != index:
                check.problem(f"{where}.addresses", address, f"is an address of interfaces[{addresses[host]}] too")
        for key in ("gateway", "gateway6"):
            version = ipaddress.ip_address(entry[key]).version if entry[key] else 0
            if version and routers.setdefault(version, index) != index:
                check.problem(
                    f"{where}.{key}",
                    entry[key],
                    f"would be a second default gateway of IPv{version}; leave it to interfaces[{routers[version]}]"
                    " and give this one routes",
                )
        if entry["gateway6"] and entry["gateway"] and ":" in entry["gateway"]:
            check.problem(f"{where}.gateway6", entry["gateway6"], "is a second IPv6 gateway beside gateway")
