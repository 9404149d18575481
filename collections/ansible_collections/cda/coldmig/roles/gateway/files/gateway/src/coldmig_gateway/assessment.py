# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be known before a machine is copied: which of its systems is meant, what warns, what holds it back.

Works on the description of the machine as its agent sent it (schema ``Machine``; older agents said less). No storage.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

BLOCK = "block"
SYSTEM_NOT_FOUND = "system-not-found"
_MATCHED = ("key", "os_type", "id", "hostname", "computer_name", "place", "pretty_name")


@dataclass(frozen=True, slots=True)
class Warning:  # noqa: A001 - the name of the thing
    """One warning. With ``severity`` ``block`` nothing is copied until somebody has accepted its code."""

    code: str
    severity: str
    message: str
    action: str | None
    accepted: bool

    def __str__(self) -> str:
        """Code, what it is and what to do, as one text."""
        return ". ".join(part.rstrip(".") for part in (f"{self.code}: {self.message}", self.action) if part)

    @property
    def blocks(self) -> bool:
        """Whether it holds the migration back now."""
        return self.severity == BLOCK and not self.accepted


def guests(machine: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
    """Every system of the machine, the one that boots by itself first; never empty."""
    return machine.get("guests") or [machine["guest"]]


def find(machine: Mapping[str, Any], system: str) -> dict[str, Any] | None:
    """The system that is meant by its key, else the first one that a pattern (``windows*``) fits; case does not count.

    The pattern is held against key, os_type, id, host name, computer name, place and pretty name.
    """
    found = guests(machine)
    wanted = system.casefold()
    for guest in found:
        if guest.get("key") and guest["key"].casefold() == wanted:
            return guest
    for guest in found:
        if any(fnmatchcase(str(guest.get(name) or "").casefold(), wanted) for name in _MATCHED):
            return guest
    return None


def guest(machine: Mapping[str, Any], system: str | None) -> dict[str, Any]:
    """The system for which the virtual machine is made: the one that is meant, else the one that boots by itself."""
    return (find(machine, system) if system else None) or guests(machine)[0]


def warnings(machine: Mapping[str, Any], system: str | None, accepted: Collection[str]) -> list[Warning]:
    """What warns of this machine, in the order in which its agent told it."""
    told = [
        Warning(
            code=item["code"],
            severity=item.get("severity") or "warning",
            message=item["message"],
            action=item.get("action") or None,
            accepted=item["code"] in accepted,
        )
        for item in machine.get("warnings", ())
    ]
    if system and find(machine, system) is None:
        told.insert(0, _not_found(machine, system, accepted))
    return told


def blocking(found: Sequence[Warning]) -> list[str]:
    """The codes that hold a migration back, each once."""
    return list(dict.fromkeys(warning.code for warning in found if warning.blocks))


def blocking_accepted(found: Sequence[Warning]) -> list[str]:
    """The codes that would hold it back if they had not been accepted, each once."""
    return list(dict.fromkeys(warning.code for warning in found if warning.severity == BLOCK and warning.accepted))


def name_of(guest: Mapping[str, Any]) -> str:
    """A system for people: its name, and its key where it has one."""
    name = guest.get("pretty_name") or guest["os_type"]
    return f"{name} ({guest['key']})" if guest.get("key") else name


def _not_found(machine: Mapping[str, Any], system: str, accepted: Collection[str]) -> Warning:
    there = guests(machine)
    return Warning(
        code=SYSTEM_NOT_FOUND,
        severity=BLOCK,
        message=f"no system of this machine is {system!r}; it has: {', '.join(map(name_of, there))}",
        action=f"Set system to one of these keys, or accept this code to go on with {name_of(there[0])}.",
        accepted=SYSTEM_NOT_FOUND in accepted,
    )
