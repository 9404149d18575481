# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""The configuration that an ISO carries to the source machine: its shape, its checks, its errors."""

from __future__ import annotations

import base64
import binascii
import contextlib
import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

FORMAT = 1
"""Version of the configuration and of the base image's layout."""
DEFAULT_SERIAL = "ttyS0,115200"


class IsoImageError(Exception):
    """Anything that keeps an ISO from being read or made; the text is meant for a person."""


@dataclass(frozen=True)
class FieldProblem:
    """One wrong field of a configuration: ``field`` is a path such as ``network.interfaces[0].gateway``."""

    field: str
    value: Any
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.value!r} {self.message}"


class ConfigError(IsoImageError):
    """The configuration is not valid; ``problems`` lists every wrong field."""

    def __init__(self, problems: Sequence[FieldProblem]) -> None:
        self.problems = list(problems)
        super().__init__("; ".join(str(problem) for problem in self.problems))


def validate_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Check a configuration and return it with all defaults filled in.

    Shape::

        {"format": 1,
         "site": {"url": "https://host:port", "ca_pem": "...", "proxy": None | "http://host:port"},
         "credential": "cm1_iso_...",
         "template": {"id": str, "name": str, "organization": str},
         "network": {"mode": "dhcp" | "static",
                     "interfaces": [{"match": {"mac": str} | {"name": str} | {"first_with_carrier": True},
                                     "addresses": ["10.0.0.5/24"], "gateway": None | str, "vlan": None | int}],
                     "dns": [str], "mtu": None | int},
         "console": {"serial": None | "ttyS0,115200", "shell": False},
         "poweroff_when_done": False}

    ``console.serial`` is a Linux serial console with its speed (None: no serial console); ``console.shell`` opens a
    root shell without a password on the second virtual terminal of the source.

    :raises ConfigError: naming every wrong field, its value and what is allowed; secrets are never in it.
    """
    check = _Checker()
    root = check.mapping(
        config, "config", {"format", "site", "credential", "template", "network", "console", "poweroff_when_done"}
    )
    if (version := root.get("format", FORMAT)) != FORMAT or isinstance(version, bool):
        check.problem("format", version, f"is not supported; this version writes {FORMAT}")
    site = check.mapping(root.get("site"), "site", {"url", "ca_pem", "proxy"})
    template = check.mapping(root.get("template"), "template", {"id", "name", "organization"})
    console = check.mapping(root.get("console", {}), "console", {"serial", "shell"})
    result = {
        "format": FORMAT,
        "site": {
            "url": check.url(site.get("url"), "site.url", ("https",)),
            "ca_pem": check.certificates(site.get("ca_pem"), "site.ca_pem"),
            "proxy": check.optional(site.get("proxy"), "site.proxy", lambda v, n: check.url(v, n, ("http",))),
        },
        "credential": check.credential(root.get("credential"), "credential"),
        "template": {key: check.text(template.get(key), f"template.{key}") for key in ("id", "name", "organization")},
        "network": _check_network(check, root.get("network", {})),
        "console": {
            "serial": check.optional(console.get("serial", DEFAULT_SERIAL), "console.serial", check.serial),
            "shell": check.boolean(console.get("shell", False), "console.shell"),
        },
        "poweroff_when_done": check.boolean(root.get("poweroff_when_done", False), "poweroff_when_done"),
    }
    check.raise_problems()
    return result


def _check_network(check: _Checker, value: Any) -> dict[str, Any]:
    network = check.mapping(value, "network", {"mode", "interfaces", "dns", "mtu"})
    mode = network.get("mode", "dhcp")
    if mode not in ("dhcp", "static"):
        check.problem("network.mode", mode, 'is not one of "dhcp", "static"')
    interfaces = [
        _check_interface(check, entry, f"network.interfaces[{index}]", static=mode == "static")
        for index, entry in enumerate(check.sequence(network.get("interfaces", []), "network.interfaces"))
    ]
    if mode == "static" and not interfaces:
        check.problem("network.interfaces", [], 'needs at least one interface when network.mode is "static"')
    dns = [
        check.ip(entry, f"network.dns[{index}]")
        for index, entry in enumerate(check.sequence(network.get("dns", []), "network.dns"))
    ]
    mtu = check.optional(network.get("mtu"), "network.mtu", lambda v, n: check.integer(v, n, 576, 9216))
    return {"mode": mode, "interfaces": interfaces, "dns": dns, "mtu": mtu}


def _check_interface(check: _Checker, value: Any, name: str, *, static: bool) -> dict[str, Any]:
    entry = check.mapping(value, name, {"match", "addresses", "gateway", "vlan"})
    match = check.mapping(entry.get("match"), f"{name}.match", {"mac", "name", "first_with_carrier"})
    clean_match: dict[str, Any] = {}
    if len(match) != 1:
        check.problem(f"{name}.match", dict(match), 'must have exactly one of "mac", "name", "first_with_carrier"')
    elif "mac" in match:
        clean_match = {"mac": check.mac(match["mac"], f"{name}.match.mac")}
    elif "name" in match:
        clean_match = {
            "name": check.pattern(
                match["name"], f"{name}.match.name", r"[A-Za-z0-9_.-]{1,15}", "an interface name such as eno1"
            )
        }
    elif match.get("first_with_carrier") is not True:
        check.problem(f"{name}.match.first_with_carrier", match.get("first_with_carrier"), "can only be true")
    else:
        clean_match = {"first_with_carrier": True}
    raw_addresses = check.sequence(entry.get("addresses", []), f"{name}.addresses")
    addresses = [check.cidr(item, f"{name}.addresses[{i}]") for i, item in enumerate(raw_addresses)]
    if static and not addresses:
        check.problem(f"{name}.addresses", [], 'needs at least one address such as "10.0.0.5/24" in static mode')
    if not static and addresses:
        check.problem(f"{name}.addresses", addresses, 'is only for network.mode "static"')
    gateway = check.optional(entry.get("gateway"), f"{name}.gateway", check.ip)
    if static and gateway and all(addresses):
        hosts = [ipaddress.ip_interface(item) for item in addresses if item]
        if not any(ipaddress.ip_address(gateway) in host.network for host in hosts):
            check.problem(f"{name}.gateway", gateway, f"is in none of the networks of {', '.join(map(str, addresses))}")
    vlan = check.optional(entry.get("vlan"), f"{name}.vlan", lambda v, n: check.integer(v, n, 1, 4094))
    return {"match": clean_match, "addresses": addresses, "gateway": gateway, "vlan": vlan}


# What would point the boot at something else than the read-only live system.
_ARG_PATTERN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,:/@+=-]{0,199}")
_ARG_FORBIDDEN = re.compile(
    r"(?!coldmig\.inspect=(?:no|[0-9]{1,5})$)"  # how long the disks are looked into: changes nothing of these
    r"(coldmig|systemd|rd|luks|init|rdinit|root|rootflags|rootfstype|resume|noresume|swap|fstab|raid|md|dm|dm_mod"
    r"|md_mod|mount|netroot|BOOT_IMAGE)([.=_].*)?"
)


def validate_kernel_args(args: Sequence[str]) -> list[str]:
    """Check extra kernel arguments (they end up in a GRUB script, and must not lift the read-only fence).

    :raises ConfigError: naming each argument that is not allowed.
    """
    problems: list[FieldProblem] = []
    if isinstance(args, str) or not isinstance(args, Sequence):
        raise ConfigError([FieldProblem("kernel_args", args, "must be a list of strings")])
    for index, arg in enumerate(args):
        name = f"kernel_args[{index}]"
        if not isinstance(arg, str) or not _ARG_PATTERN.fullmatch(arg):
            problems.append(FieldProblem(name, arg, "must be one word of letters, digits and _ . , : / @ + = -"))
        elif _ARG_FORBIDDEN.fullmatch(arg):
            problems.append(
                FieldProblem(name, arg, "is reserved: it would change what the live system boots or writes")
            )
    if problems:
        raise ConfigError(problems)
    return list(args)


class _Checker:
    """Collects the problems of one configuration; every method returns the clean value, or a placeholder."""

    def __init__(self) -> None:
        self.problems: list[FieldProblem] = []

    def problem(self, name: str, value: Any, message: str) -> None:
        self.problems.append(FieldProblem(name, value, message))

    def raise_problems(self) -> None:
        if self.problems:
            raise ConfigError(self.problems)

    def mapping(self, value: Any, name: str, allowed: set[str]) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            self.problem(name, value, f"must be a mapping with {', '.join(sorted(allowed))}")
            return {}
        for key in value:
            if key not in allowed:
                self.problem(f"{name}.{key}", "...", f"is not known; allowed are {', '.join(sorted(allowed))}")
        return value

    def sequence(self, value: Any, name: str) -> Sequence[Any]:
        if isinstance(value, (list, tuple)):
            return value
        self.problem(name, value, "must be a list")
        return []

    def optional(self, value: Any, name: str, check: Any) -> Any:
        return None if value is None else check(value, name)

    def boolean(self, value: Any, name: str) -> bool:
        if not isinstance(value, bool):
            self.problem(name, value, "must be true or false")
            return False
        return value

    def integer(self, value: Any, name: str, low: int, high: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.problem(name, value, f"must be a whole number from {low} to {high}")
            return low
        return value

    def text(self, value: Any, name: str) -> str:
        if not isinstance(value, str) or not value.strip() or len(value) > 255 or not value.isprintable():
            self.problem(name, value, "must be printable text of 1 to 255 characters")
            return ""
        return value

    def pattern(self, value: Any, name: str, pattern: str, meaning: str) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            self.problem(name, value, f"must be {meaning}")
            return ""
        return value

    def credential(self, value: Any, name: str) -> str:
        # The value itself must not get into an error text.
        if not isinstance(value, str) or not re.fullmatch(r"cm1_iso_[A-Za-z0-9_-]{43}", value):
            self.problem(name, "(hidden)", 'must be an ISO credential of the gateway, "cm1_iso_" and 43 characters')
            return ""
        return value

    def mac(self, value: Any, name: str) -> str:
        meaning = "a MAC address like 52:54:00:12:34:56"
        if re.fullmatch(r"[0-9]+", str(value)):
            meaning += " (in quotes: YAML takes one that has only digits for a number of base 60)"
        text = self.pattern(value, name, r"[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}", meaning)
        return text.lower().replace("-", ":")

    def ip(self, value: Any, name: str) -> str:
        try:
            if isinstance(value, str):
                return str(ipaddress.ip_address(value))
        except ValueError:
            pass
        self.problem(name, value, "must be an IPv4 or IPv6 address")
        return ""

    def cidr(self, value: Any, name: str) -> str:
        try:
            if isinstance(value, str) and "/" in value:
                return str(ipaddress.ip_interface(value))
        except ValueError:
            pass
        self.problem(name, value, 'must be an address with its prefix length, such as "10.0.0.5/24"')
        return ""

    def serial(self, value: Any, name: str) -> str:
        return self.pattern(value, name, r"ttyS[0-3],(9600|19200|38400|57600|115200)", 'like "ttyS0,115200"')

    def url(self, value: Any, name: str, schemes: tuple[str, ...]) -> str:
        example = f"{schemes[0]}://host:port"
        try:
            parts = urlsplit(value if isinstance(value, str) else "")
            bad_port = parts.port is not None and not 0 < parts.port < 65536
        except ValueError:
            parts, bad_port = urlsplit(""), True
        if parts.username or parts.password:
            self.problem(name, "(hidden)", "must not hold a user name or password")
            return ""
        host_ok = re.fullmatch(r"[A-Za-z0-9.:-]{1,253}", parts.hostname or "") is not None
        if parts.scheme not in schemes or not host_ok or bad_port or parts.path not in ("", "/") or parts.query:
            self.problem(name, value, f"must be {example}, without a path")
            return ""
        return f"{parts.scheme}://{parts.netloc}"

    def certificates(self, value: Any, name: str) -> str:
        found = 0
        if isinstance(value, str):
            for body in re.findall(r"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", value, re.DOTALL):
                with contextlib.suppress(binascii.Error):
                    found += base64.b64decode("".join(body.split()), validate=True)[:1] == b"\x30"
        if not found or "PRIVATE KEY" in value:
            self.problem(name, "(PEM)", "must be one or more PEM certificates, and no key")
            return ""
        return str(value)
