# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""Checks single values of an ISO's configuration and collects every problem, so that one run reports them all."""

from __future__ import annotations

import base64
import binascii
import contextlib
import ipaddress
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

HOST = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?"
_SIZE = r"[0-9]{1,16}(\.[0-9]{1,3})? ?([KMGTPkmgtp][Ii]?[Bb]?|[Bb])?"
_KEY_TYPES = r"ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(?:256|384|521)|sk-(?:ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com"


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


class Checker:
    """Collects the problems of one configuration; every method returns the clean value, or a placeholder."""

    def __init__(self) -> None:
        self.problems: list[FieldProblem] = []

    def problem(self, name: str, value: Any, message: str) -> None:
        """Remember a wrong field."""
        self.problems.append(FieldProblem(name, value, message))

    def raise_problems(self) -> None:
        """Raise ConfigError with everything that was found."""
        if self.problems:
            raise ConfigError(self.problems)

    def mapping(self, value: Any, name: str, allowed: Sequence[str]) -> dict[str, Any]:
        """A mapping without unknown keys; what is None counts as left out."""
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self.problem(name, value, f"must be a mapping with {', '.join(sorted(allowed))}")
            return {}
        for key in value:
            if key not in allowed:
                self.problem(f"{name}.{key}", "...", f"is not known; allowed are {', '.join(sorted(allowed))}")
        return {key: item for key, item in value.items() if item is not None}

    def sequence(self, value: Any, name: str, most: int = 64) -> Sequence[Any]:
        """A list; None is an empty one."""
        if value is None:
            return []
        if not isinstance(value, (list, tuple)):
            self.problem(name, value, "must be a list")
            return []
        if len(value) > most:
            self.problem(name, f"{len(value)} entries", f"must have at most {most}")
        return value

    def each(self, value: Any, name: str, check: Callable[[Any, str], Any], most: int = 64) -> list[Any]:
        """Every entry of a list, checked."""
        return [check(item, f"{name}[{index}]") for index, item in enumerate(self.sequence(value, name, most))]

    def optional(self, value: Any, name: str, check: Callable[[Any, str], Any]) -> Any:
        """None, or a value that is checked."""
        return None if value is None else check(value, name)

    def boolean(self, value: Any, name: str) -> bool:
        """True or false."""
        if not isinstance(value, bool):
            self.problem(name, value, "must be true or false")
            return False
        return value

    def integer(self, value: Any, name: str, low: int, high: int) -> int:
        """A whole number within bounds."""
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.problem(name, value, f"must be a whole number from {low} to {high}")
            return low
        return value

    def choice(self, value: Any, name: str, allowed: Sequence[str]) -> str:
        """One of a few words."""
        if value not in allowed:
            self.problem(name, value, f"is not one of {', '.join(allowed)}")
            return allowed[0]
        return str(value)

    def text(self, value: Any, name: str) -> str:
        """One line of text."""
        if not isinstance(value, str) or not value.strip() or len(value) > 255 or not value.isprintable():
            self.problem(name, value, "must be printable text of 1 to 255 characters")
            return ""
        return value

    def lines(self, value: Any, name: str, most: int) -> str:
        """Text of several lines."""
        if not isinstance(value, str) or len(value) > most or not value.replace("\n", "").isprintable():
            shown = f"{value[:40]}..." if isinstance(value, str) and len(value) > 40 else value
            self.problem(name, shown, f"must be printable text of at most {most} characters")
            return ""
        return value.strip("\n")

    def pattern(self, value: Any, name: str, pattern: str, meaning: str) -> str:
        """Text that fits a pattern as a whole."""
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            self.problem(name, value, f"must be {meaning}")
            return ""
        return value

    def secret(self, value: Any, name: str, pattern: str, meaning: str) -> str:
        """Like :meth:`pattern`, but the value never gets into an error text."""
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            self.problem(name, "(hidden)", f"must be {meaning}")
            return ""
        return value

    def mac(self, value: Any, name: str) -> str:
        """A MAC address, lower case with colons."""
        meaning = "a MAC address like 52:54:00:12:34:56"
        if re.fullmatch(r"[0-9]+", str(value)):
            meaning += " (in quotes: YAML takes one that has only digits for a number of base 60)"
        text = self.pattern(value, name, r"[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}", meaning)
        return text.lower().replace("-", ":")

    def ip(self, value: Any, name: str) -> str:
        """An IPv4 or IPv6 address."""
        try:
            if isinstance(value, str):
                return str(ipaddress.ip_address(value))
        except ValueError:
            pass
        self.problem(name, value, "must be an IPv4 or IPv6 address")
        return ""

    def cidr(self, value: Any, name: str) -> str:
        """An address with its prefix length."""
        try:
            if isinstance(value, str) and "/" in value:
                return str(ipaddress.ip_interface(value))
        except ValueError:
            pass
        self.problem(name, value, 'must be an address with its prefix length, such as "10.0.0.5/24"')
        return ""

    def host(self, value: Any, name: str) -> str:
        """A host name or an address."""
        try:
            return str(ipaddress.ip_address(value)) if isinstance(value, str) else self.pattern(value, name, HOST, "")
        except ValueError:
            return self.pattern(value, name, HOST, "a host name or an IP address")

    def domain(self, value: Any, name: str) -> str:
        """A DNS domain."""
        return self.pattern(value, name, HOST, "a domain such as example.com")

    def serial(self, value: Any, name: str) -> str:
        """A Linux serial console with its speed."""
        return self.pattern(value, name, r"ttyS[0-3],(9600|19200|38400|57600|115200)", 'like "ttyS0,115200"')

    def size(self, value: Any, name: str) -> int | str:
        """A size as it was given: bytes, or a number with a unit."""
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63:
            return value
        if isinstance(value, str) and re.fullmatch(_SIZE, value):
            return value
        self.problem(name, value, "must be a size such as 4TB, 100GiB or a number of bytes")
        return 0

    def ssh_key(self, value: Any, name: str) -> str:
        """A line of a public key file."""
        found = re.fullmatch(
            rf"({_KEY_TYPES}) ([A-Za-z0-9+/=]+)( [ -~]*)?", value.strip() if isinstance(value, str) else ""
        )
        with contextlib.suppress(binascii.Error):
            # RFC 4253, 6.6: the key begins with its type, as text with a length before it.
            if found and base64.b64decode(found[2], validate=True)[4 : 4 + len(found[1])] == found[1].encode():
                return found[0]
        shown = "(a private key)" if "PRIVATE" in str(value) else value
        self.problem(
            name, shown, "must be a public SSH key such as ssh-ed25519 AAAA... name, without options before it"
        )
        return ""

    def url(self, value: Any, name: str, schemes: tuple[str, ...], instead: str = "") -> str:
        """``scheme://host:port``. ``instead``: where a user name and password belong."""
        example = f"{schemes[0]}://host:port"
        try:
            parts = urlsplit(value if isinstance(value, str) else "")
            bad_port = parts.port is not None and not 0 < parts.port < 65536
        except ValueError:
            parts, bad_port = urlsplit(""), True
        if parts.username or parts.password:
            self.problem(name, "(hidden)", f"must not hold a user name or password{instead}")
            return ""
        host_ok = re.fullmatch(r"[A-Za-z0-9.:_-]{1,253}", parts.hostname or "") is not None
        if parts.scheme not in schemes or not host_ok or bad_port or parts.path not in ("", "/") or parts.query:
            self.problem(name, "(hidden)" if "@" in str(value) else value, f"must be {example}, without a path")
            return ""
        return f"{parts.scheme}://{parts.netloc}"

    def certificates(self, value: Any, name: str) -> str:
        """PEM certificates."""
        found = 0
        if isinstance(value, str):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            with contextlib.suppress(ssl.SSLError, ValueError):
                context.load_verify_locations(cadata=value)
                found = context.cert_store_stats()["x509"]
        if not found or "PRIVATE KEY" in value:
            self.problem(name, "(PEM)", "must be one or more PEM certificates, and no key")
            return ""
        return str(value)
