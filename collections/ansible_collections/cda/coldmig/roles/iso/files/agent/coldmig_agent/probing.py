# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be seen of the network from here: the eyes of :mod:`coldmig_agent.checks`. Needs no privileges."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from coldmig_agent import network
from coldmig_agent.interfaces import PROC, SYS, InterfaceState, all_states, read_text

_DISCARD = 9
_MAX_TABLE = 1 << 18
_RTF_UP = 0x1
#: include/uapi/linux/if_arp.h
_ATF_COM = 0x2
_ARP_SECONDS = 2.0


class Probe(Protocol):
    """What the checks look at."""

    def states(self) -> Sequence[InterfaceState]:
        """The interfaces."""

    def name_servers(self) -> Sequence[str]:
        """Addresses of the name servers in use."""

    def source_address(self, target: str) -> str:
        """The address that packets to ``target`` would carry. Raises OSError where no route leads there."""

    def next_hop(self, target: str) -> str | None:
        """The first machine on the way to ``target``: a gateway or itself; None where that is not known."""

    def answers(self, neighbour: str) -> bool | None:
        """Whether a machine on the same link answers to its address; None where that is not known."""

    def resolve(self, host: str) -> list[str]:
        """Addresses of a name. Raises socket.gaierror."""

    def connect(self, addresses: Sequence[str], port: int, seconds: float) -> socket.socket:
        """A connection to the first address that takes one. Raises OSError."""


@dataclass(frozen=True, slots=True)
class Route:
    """A line of the IPv4 routing table."""

    network: ipaddress.IPv4Network
    gateway: str | None
    metric: int


def parse_routes(table: str) -> list[Route]:
    """``/proc/net/route``: addresses are hexadecimal in the machine's byte order."""
    routes = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        try:
            destination, gateway, mask = (struct.pack("=I", int(fields[index], 16)) for index in (1, 2, 7))
            flags, metric = int(fields[3], 16), int(fields[6])
            prefix = ipaddress.IPv4Network((destination, str(ipaddress.IPv4Address(mask))))
        except (IndexError, ValueError, struct.error):
            continue
        if flags & _RTF_UP:
            routes.append(Route(prefix, str(ipaddress.IPv4Address(gateway)) if any(gateway) else None, metric))
    return routes


def parse_neighbours(table: str) -> dict[str, bool]:
    """``/proc/net/arp``: address → whether it has answered."""
    found = {}
    for line in table.splitlines()[1:]:
        fields = line.split()
        with contextlib.suppress(IndexError, ValueError):
            found[fields[0]] = bool(int(fields[2], 16) & _ATF_COM)
    return found


class LiveProbe:
    """This machine as it is now."""

    def __init__(self, sys: Path = SYS, proc: Path = PROC) -> None:
        self._sys = sys
        self._proc = proc

    def states(self) -> Sequence[InterfaceState]:
        return all_states(self._sys, self._proc)

    def name_servers(self) -> Sequence[str]:
        return network.name_servers()

    def source_address(self, target: str) -> str:
        family = socket.AF_INET6 if ":" in target else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((target, _DISCARD))  # sends nothing
            return str(sock.getsockname()[0])

    def next_hop(self, target: str) -> str | None:
        try:
            address = ipaddress.IPv4Address(target)
        except ValueError:
            return None
        if address.is_loopback:
            return None
        routes = parse_routes(read_text(self._proc / "net/route", _MAX_TABLE) or "")
        fitting = [route for route in routes if address in route.network]
        if not fitting:
            return None
        best = min(fitting, key=lambda route: (-route.network.prefixlen, route.metric))
        return best.gateway or target

    def answers(self, neighbour: str) -> bool | None:
        deadline = time.monotonic() + _ARP_SECONDS
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", (neighbour, _DISCARD))  # makes the kernel ask who has this address
        while True:
            known = parse_neighbours(read_text(self._proc / "net/arp", _MAX_TABLE) or "").get(neighbour)
            if known or time.monotonic() > deadline:
                return known
            time.sleep(0.2)

    def resolve(self, host: str) -> list[str]:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(item[4][0]) for item in found))

    def connect(self, addresses: Sequence[str], port: int, seconds: float) -> socket.socket:
        problem: OSError = OSError("no address")
        for address in addresses[:4]:
            try:
                return socket.create_connection((address, port), seconds)
            except OSError as error:
                problem = error
        raise problem
