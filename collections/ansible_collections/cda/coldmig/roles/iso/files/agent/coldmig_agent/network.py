# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the machine is on the network yet, in words for the operator, and its name servers."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path

from coldmig_agent.fields import is_address, is_host
from coldmig_agent.interfaces import InterfaceState, read_text

NETWORKD_STATE = Path("/run/systemd/netif/state")
RESOLV_CONF = Path("/run/coldmig/resolv.conf")


def describe_interface(state: InterfaceState) -> str:
    """One line: ``ens3 52:54:00:12:34:56 link up 10.0.2.15``."""
    link = "link up" if state.carrier else "NO LINK"
    return " ".join(part for part in (state.name, state.mac, link, *state.addresses) if part)


def is_ready(states: Sequence[InterfaceState]) -> bool:
    """An interface with a link has an address that is not only link-local."""
    return any(state.carrier and state.addresses for state in states)


def advice(states: Sequence[InterfaceState]) -> str:
    """What the operator should look at while there is no address."""
    if not states:
        return "no wired network interface was found: is a network card in the machine, and is its driver on this ISO?"
    if not any(state.carrier for state in states):
        return "no interface has a link: plug in a network cable or connect the virtual network card"
    return "there is a link but no address: is there a DHCP server? Else make an ISO with static addresses"


def _from_state(key: str, state_file: Path) -> list[str]:
    for line in (read_text(state_file, 1 << 16) or "").splitlines():
        if line.startswith(f"{key}="):
            return line.partition("=")[2].split()
    return []


def name_servers(state_file: Path = NETWORKD_STATE) -> list[str]:
    """Servers that networkd knows, static ones and those of DHCP (``DNS=`` of its state file)."""
    return [str(ipaddress.ip_address(item)) for item in _from_state("DNS", state_file) if is_address(item)]


def search_domains(state_file: Path = NETWORKD_STATE) -> list[str]:
    """Domains that names without a dot are looked up in (``DOMAINS=`` of networkd's state file)."""
    return [item for item in _from_state("DOMAINS", state_file) if is_host(item)][:6]


def write_resolv_conf(path: Path = RESOLV_CONF, state_file: Path = NETWORKD_STATE) -> None:
    """Tell the C library about the servers; there is no resolver service on the ISO. Does nothing without servers."""
    servers = name_servers(state_file)
    if not servers:
        return
    domains = search_domains(state_file)
    content = f"search {' '.join(domains)}\n" if domains else ""
    content += "".join(f"nameserver {server}\n" for server in servers[:3])
    if read_text(path) != content.strip():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="ascii")
