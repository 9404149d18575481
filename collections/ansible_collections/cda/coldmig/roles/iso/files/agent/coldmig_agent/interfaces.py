# SPDX-License-Identifier: GPL-3.0-or-later
"""Network interfaces as the kernel shows them: sysfs, plus the few ioctls that sysfs has no file for."""

from __future__ import annotations

import array
import fcntl
import ipaddress
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from coldmig_agent.text import bus_key, natural_key

SYS = Path("/sys")
PROC = Path("/proc")

_ARPHRD_ETHER = 1
# linux/sockios.h, linux/if.h, linux/ethtool.h
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_SIOCGIFADDR = 0x8915
_SIOCETHTOOL = 0x8946
_IFF_UP = 0x1
_ETHTOOL_GPERMADDR = 0x20


def read_text(path: Path, limit: int = 4096) -> str | None:
    """First ``limit`` bytes of a sysfs or proc file, stripped; None where it is absent or cannot be read.

    Reading ``speed`` or ``carrier`` of an interface that is down fails with EINVAL: that is "unknown" too.
    """
    try:
        with path.open("rb") as file:
            return file.read(limit).decode("utf-8", "replace").strip()
    except OSError:
        return None


def ethernet_names(sys: Path = SYS) -> list[str]:
    """Names of wired hardware interfaces, in the order of their place on the buses (stable across boots)."""
    found: list[tuple[str, str]] = []
    net = sys / "class/net"
    for entry in sorted(net.iterdir()) if net.is_dir() else []:
        device = entry / "device"
        if not device.exists() or read_text(entry / "type") != str(_ARPHRD_ETHER):
            continue
        if (entry / "wireless").exists() or (entry / "phy80211").exists():
            continue
        found.append((str(device.resolve()), entry.name))
    return [name for _path, name in sorted(found, key=lambda item: (bus_key(item[0]), natural_key(item[1])))]


def has_carrier(name: str, sys: Path = SYS) -> bool:
    """Whether the link is up. False while the interface itself is down."""
    return read_text(sys / "class/net" / name / "carrier") == "1"


def mac_address(name: str, sys: Path = SYS) -> str:
    """The address in use now, lower case; empty when the kernel names none."""
    return (read_text(sys / "class/net" / name / "address") or "").lower()


def driver(name: str, sys: Path = SYS) -> str:
    """Name of the kernel driver, such as ``ixgbe``; empty for one without a device."""
    link = sys / "class/net" / name / "device/driver"
    return link.resolve().name if link.exists() else ""


def _ifreq(name: str, payload: bytes) -> bytes:
    return struct.pack("16s", name.encode()[:15]) + payload.ljust(24, b"\0")


def bring_up(name: str) -> None:
    """Set the interface up, so that it can negotiate a link. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        answer = fcntl.ioctl(sock, _SIOCGIFFLAGS, _ifreq(name, b""))
        flags = struct.unpack_from("=H", answer, 16)[0]
        if not flags & _IFF_UP:
            fcntl.ioctl(sock, _SIOCSIFFLAGS, _ifreq(name, struct.pack("=H", flags | _IFF_UP)))


def permanent_mac(name: str) -> str | None:
    """The address burnt into the card (``ethtool -P``), or None where the driver does not tell."""
    size = 32
    request = array.array("B", struct.pack("=II", _ETHTOOL_GPERMADDR, size) + bytes(size))
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            fcntl.ioctl(sock, _SIOCETHTOOL, _ifreq(name, struct.pack("P", request.buffer_info()[0])))
    except OSError:
        return None
    _command, length = struct.unpack_from("=II", request)
    address = request.tobytes()[8 : 8 + length]
    if length != 6 or not any(address):
        return None
    return address.hex(":")


@dataclass(frozen=True, slots=True)
class InterfaceState:
    """What the operator needs to see of one interface."""

    name: str
    mac: str
    carrier: bool
    addresses: tuple[str, ...]


def _ipv4(name: str) -> list[str]:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            answer = fcntl.ioctl(sock, _SIOCGIFADDR, _ifreq(name, b""))
    except OSError:
        return []
    return [socket.inet_ntoa(answer[20:24])]


def _global_ipv6(name: str, proc: Path = PROC) -> list[str]:
    """Addresses of global scope from ``/proc/net/if_inet6`` (address, index, prefix, scope, flags, name)."""
    found = []
    for line in (read_text(proc / "net/if_inet6", 1 << 16) or "").splitlines():
        fields = line.split()
        if len(fields) == 6 and fields[5] == name and fields[3] == "00":
            found.append(str(ipaddress.IPv6Address(bytes.fromhex(fields[0]))))
    return found


def all_states(sys: Path = SYS, proc: Path = PROC) -> list[InterfaceState]:
    """Every wired interface, and whatever else (a VLAN, a bond) carries a global address."""
    names = ethernet_names(sys)
    net = sys / "class/net"
    others = sorted({entry.name for entry in net.iterdir()} - {*names, "lo"}) if net.is_dir() else []
    states = []
    for name in [*names, *others]:
        addresses = [
            address
            for address in [*_ipv4(name), *_global_ipv6(name, proc)]
            if not ipaddress.ip_address(address).is_link_local
        ]
        if name in names or addresses:
            states.append(InterfaceState(name, mac_address(name, sys), has_carrier(name, sys), tuple(addresses)))
    return states
