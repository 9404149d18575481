# SPDX-License-Identifier: GPL-3.0-or-later
"""Turns the ISO's network settings into systemd-networkd files, before networkd starts.

Without static settings every wired interface asks DHCP. With them, the other interfaces are brought up (their link
and speed are part of what is reported) but get no address, so that there is exactly one default route.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from coldmig_agent import interfaces
from coldmig_agent.config import InterfaceConfig, NetworkConfig

CARRIER_WAIT_SECONDS = 20.0


class NetworkSetupError(RuntimeError):
    """The settings cannot be applied to the interfaces that this machine has."""


def first_with_carrier(
    names: Sequence[str],
    has_carrier: Callable[[str], bool],
    *,
    wait_seconds: float = CARRIER_WAIT_SECONDS,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Wait until an interface has a link; if none gets one, take the first: a cable may be plugged in later."""
    if not names:
        raise NetworkSetupError("this machine has no wired network interface that the live system has a driver for")
    for _attempt in range(max(1, round(wait_seconds / 0.5))):
        for name in names:
            if has_carrier(name):
                return name
        sleep(0.5)
    return names[0]


def _section(title: str, values: Sequence[tuple[str, str]]) -> str:
    return f"[{title}]\n" + "".join(f"{key}={value}\n" for key, value in values) + "\n"


def _match(interface: InterfaceConfig, carrier_name: str | None) -> tuple[str, str]:
    if interface.mac is not None:
        return ("PermanentMACAddress", interface.mac)
    name = interface.name if interface.name is not None else carrier_name
    if name is None:
        raise NetworkSetupError("no interface was found for match.first_with_carrier")
    return ("Name", name)


def _link(mtu: int | None, *, required: bool = True) -> str:
    values = [("MTUBytes", str(mtu))] if mtu is not None else []
    if not required:
        values += [("ActivationPolicy", "up"), ("RequiredForOnline", "no")]
    return _section("Link", values) if values else ""


def _addresses(interface: InterfaceConfig | None, dns: Sequence[str]) -> str:
    values: list[tuple[str, str]] = []
    if interface is None or not interface.addresses:
        values += [("DHCP", "yes")]
    else:
        values += [("DHCP", "no"), ("IPv6AcceptRA", "no")]
        values += [("Address", address) for address in interface.addresses]
        if interface.gateway is not None:
            values.append(("Gateway", interface.gateway))
    values += [("DNS", server) for server in dns]
    text = _section("Network", values)
    if interface is None or not interface.addresses:
        # A stable lease: servers know the machine by its MAC address, not by a live system's random machine id.
        text += _section("DHCPv4", [("ClientIdentifier", "mac"), ("UseHostname", "no")])
    return text


def networkd_files(config: NetworkConfig, carrier_name: str | None = None) -> Mapping[str, str]:
    """File name → content for ``/run/systemd/network``.

    ``carrier_name`` is the interface that stands for ``first_with_carrier``. Raises :class:`NetworkSetupError`.
    """
    if not config.interfaces:
        match = _section("Match", [("Type", "ether"), ("Kind", "!*")])
        return {"80-coldmig-dhcp.network": match + _link(config.mtu) + _addresses(None, config.dns)}
    files: dict[str, str] = {}
    trunks: dict[tuple[str, str], list[str]] = {}
    for number, interface in enumerate(config.interfaces):
        chosen = _match(interface, carrier_name)
        if interface.vlan is None:
            content = _section("Match", [chosen]) + _link(config.mtu) + _addresses(interface, config.dns)
            files[f"10-coldmig-{number}.network"] = content
            continue
        vlan_name = f"cmvlan{number}"
        trunks.setdefault(chosen, []).append(vlan_name)
        files[f"10-coldmig-{number}.netdev"] = _section("NetDev", [("Name", vlan_name), ("Kind", "vlan")]) + _section(
            "VLAN", [("Id", str(interface.vlan))]
        )
        content = _section("Match", [("Name", vlan_name)]) + _link(config.mtu) + _addresses(interface, config.dns)
        files[f"10-coldmig-{number}.network"] = content
    untagged = {_match(item, carrier_name): n for n, item in enumerate(config.interfaces) if item.vlan is None}
    for number, (parent, vlans) in enumerate(trunks.items()):
        lines = [("VLAN", name) for name in vlans]
        if parent in untagged:
            # networkd applies one file to an interface: the VLANs join the file that holds its untagged addresses.
            name = f"10-coldmig-{untagged[parent]}.network"
            files[name] += _section("Network", lines)
            continue
        plain = [("DHCP", "no"), ("IPv6AcceptRA", "no"), ("LinkLocalAddressing", "no"), *lines]
        content = _section("Match", [parent]) + _link(config.mtu, required=False) + _section("Network", plain)
        files[f"20-coldmig-trunk-{number}.network"] = content
    rest = [("DHCP", "no"), ("IPv6AcceptRA", "no"), ("LinkLocalAddressing", "no")]
    files["90-coldmig-rest.network"] = (
        _section("Match", [("Type", "ether"), ("Kind", "!*")]) + _link(None, required=False) + _section("Network", rest)
    )
    return files


def write_networkd_files(config: NetworkConfig, output: Path) -> list[Path]:
    """Write the files for this machine; looks for a link only where the settings ask for one."""
    carrier_name = None
    if any(interface.first_with_carrier for interface in config.interfaces):
        names = interfaces.ethernet_names()
        for name in names:
            interfaces.bring_up(name)
        carrier_name = first_with_carrier(names, interfaces.has_carrier)
    output.mkdir(parents=True, exist_ok=True)
    written = []
    for name, content in networkd_files(config, carrier_name).items():
        path = output / name
        path.write_text(content, encoding="ascii")
        path.chmod(0o644)
        written.append(path)
    return written
