# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes values out of the ISO's settings one by one; an error names the field, the value and what would be right."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from typing import cast

_HOST = re.compile(r"^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$")
_SIZE = re.compile(r"^([0-9]{1,16})(?:\.([0-9]{1,3}))?\s*([KMGTP]i?B?|B)?$", re.IGNORECASE)
_POWERS = {"": 0, "B": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}
SIZES = "a size such as 4TB, 100GiB or a number of bytes"


class ConfigError(ValueError):
    """The settings are wrong: which field, what it holds, what is allowed."""

    def __init__(self, field: str, value: object, allowed: str, *, secret: bool = False) -> None:
        shown = "(not shown)" if secret else json.dumps(value, default=str)[:120]
        super().__init__(f"{field}: {shown} is not valid; it must be {allowed}")
        self.field = field
        self.allowed = allowed


class Fields:
    """One JSON object: takes values by name, and :meth:`done` refuses what nobody took."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise ConfigError(where or "config", value, "an object")
        self._data = cast(Mapping[str, object], value)
        self._where = where
        self._taken: set[str] = set()

    def name(self, key: str) -> str:
        """The whole path of a field, as errors name it."""
        return f"{self._where}.{key}" if self._where else key

    def take(self, key: str, default: object = None) -> object:
        """The value as it is."""
        self._taken.add(key)
        return self._data.get(key, default)

    def inner(self, key: str) -> Fields:
        """An object inside; an absent one is empty."""
        value = self.take(key)
        return Fields({} if value is None else value, self.name(key))

    def text(self, key: str, *, secret: bool = False) -> str:
        """Text that is not empty."""
        value = self.take(key)
        if not isinstance(value, str) or not value:
            raise ConfigError(self.name(key), value, "text that is not empty", secret=secret)
        return value

    def optional_text(self, key: str, *, secret: bool = False) -> str | None:
        """Text, or None where there is none."""
        return None if self.take(key) is None else self.text(key, secret=secret)

    def choice(self, key: str, allowed: tuple[str, ...], default: str) -> str:
        """One of a few words."""
        value = self.take(key, default)
        if not isinstance(value, str) or value not in allowed:
            raise ConfigError(self.name(key), value, f"one of {', '.join(allowed)}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.take(key, default)
        if not isinstance(value, bool):
            raise ConfigError(self.name(key), value, "true or false")
        return value

    def optional_flag(self, key: str) -> bool | None:
        """True, false, or None where nothing is said."""
        return None if self.take(key) is None else self.flag(key, False)

    def whole(self, key: str, low: int, high: int) -> int | None:
        """A whole number within bounds, or None."""
        value = self.take(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ConfigError(self.name(key), value, f"a whole number from {low} to {high}, or null")
        return value

    def items(self, key: str, most: int) -> list[object]:
        """A list; an absent one is empty."""
        value = self.take(key)
        if value is None:
            return []
        if not isinstance(value, list) or len(value) > most:
            raise ConfigError(self.name(key), value, f"a list of at most {most} entries")
        return value

    def texts(self, key: str, most: int) -> list[tuple[str, str]]:
        """A list of texts, each with the path of its field."""
        found = []
        for number, item in enumerate(self.items(key, most)):
            name = f"{self.name(key)}[{number}]"
            if not isinstance(item, str) or not item:
                raise ConfigError(name, item, "text that is not empty")
            found.append((name, item))
        return found

    def done(self) -> None:
        """Refuse unknown fields."""
        unknown = sorted(set(self._data) - self._taken)
        if unknown:
            known = ", ".join(sorted(self._taken))
            raise ConfigError(self.name(unknown[0]), "...", f"one of the known fields {known}")


def is_address(value: str) -> bool:
    """Whether this is an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def is_host(value: str) -> bool:
    """Whether this may be a host name."""
    return _HOST.match(value) is not None


def parse_bytes(value: object, field: str) -> tuple[int, bool]:
    """Bytes of ``4TB``, ``100GiB``, ``500107862016``; and whether they are exact (no unit). Raises ConfigError."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63:
        return value, True
    found = _SIZE.match(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ConfigError(field, value, SIZES)
    whole, fraction, unit = found[1], found[2] or "", (found[3] or "").upper()
    factor = (1024 if "I" in unit else 1000) ** _POWERS[unit[:1]]
    return int(whole + fraction) * factor // 10 ** len(fraction), not _POWERS[unit[:1]]
