# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""What to do to a migration to get it where it is wanted. No I/O."""

from __future__ import annotations

import re
import typing as t
from fnmatch import fnmatchcase

from ansible_collections.cda.coldmig.plugins.module_utils._diff import Differences
from ansible_collections.cda.coldmig.plugins.module_utils._errors import InputError, StateError
from ansible_collections.cda.coldmig.plugins.module_utils._template import (
    check_codes,
    check_destination,
    check_hardware,
    check_system,
    normal_destination,
    normal_hardware,
)

VM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
STATES = ("waiting", "confirmed", "copying", "copied", "importing", "finished", "failed", "canceled", "assessed")
ENDED = frozenset({"finished", "failed", "canceled", "assessed"})
CHANGEABLE = frozenset({"waiting", "confirmed", "copying", "copied"})
SETTINGS = ("name", "power_on", "destination", "system", "hardware", "accept_warnings", "accept_unreadable")
SYSTEM_NOT_FOUND = "system-not-found"


class HeldBackError(StateError):
    """Warnings that nobody has accepted keep a migration from being confirmed."""

    def __init__(self, named: str, warnings: t.Sequence[t.Mapping[str, t.Any]]) -> None:
        self.warnings = [{name: item.get(name) for name in ("code", "message", "action")} for item in warnings]
        self.codes = list(dict.fromkeys(item["code"] for item in warnings))
        lines = [f"- {item['code']}: {_sentences(item['message'], item['action'])}" for item in self.warnings]
        super().__init__(
            "\n".join(
                [
                    f"{named} is held back by warnings:",
                    *lines,
                    "Do what they say and boot the machine again, or accept them with"
                    f" accept_warnings: [{', '.join(self.codes)}]",
                ]
            )
        )

    def details(self) -> dict[str, t.Any]:
        return {"blocked": self.codes, "held_back_by": self.warnings}


def check_options(options: t.Mapping[str, t.Any]) -> None:
    """Check the settings and the reason. Raises InputError for the first that is wrong."""
    if options.get("name") is not None and not VM_NAME.fullmatch(options["name"]):
        raise InputError(
            "name", options["name"], "1 to 80 letters, digits, '.', '_' and '-', the first a letter or digit"
        )
    if options.get("destination") is not None:
        check_destination(options["destination"])
    if options.get("system") is not None:
        check_system(options["system"])
    if options.get("hardware") is not None:
        check_hardware(options["hardware"])
    if options.get("accept_warnings") is not None:
        check_codes(options["accept_warnings"])
    if not options["reason"].isprintable() or not 1 <= len(options["reason"].strip()) <= 500:
        raise InputError("reason", options["reason"], "one line of 1 to 500 characters")


def wanted_changes(migration: t.Mapping[str, t.Any], options: t.Mapping[str, t.Any]) -> Differences:
    """Settings that differ. Raises StateError when there are some and it is too late for them.

    Warnings are accepted beside those that were accepted before. Raises InputError for a system that is not there.
    """
    wanted = {name: options[name] for name in SETTINGS if options.get(name) is not None}
    if "destination" in wanted:
        wanted["destination"] = normal_destination(wanted["destination"])
    if "hardware" in wanted:
        wanted["hardware"] = normal_hardware(wanted["hardware"])
    if "accept_warnings" in wanted:
        wanted["accept_warnings"] = sorted({*migration.get("accept_warnings", ()), *wanted["accept_warnings"]})
    if "system" in wanted and find_guest(migration, wanted["system"]) is None:
        there = ", ".join(guest.get("key") or guest["os_type"] for guest in guests_of(migration))
        raise InputError("system", wanted["system"], f"the key of a system of this machine, which has: {there}")
    differences = Differences.between(migration, wanted)
    if differences and migration["state"] not in CHANGEABLE:
        names = ", ".join(differences.after)
        raise StateError(
            f"{_named(migration)} is {migration['state']}: {names} can be changed only before the import"
            f" ({', '.join(state for state in STATES if state in CHANGEABLE)})"
        )
    return differences


def guests_of(migration: t.Mapping[str, t.Any]) -> t.Sequence[dict[str, t.Any]]:
    """Every system of the machine, the one that boots by itself first; never empty."""
    return migration.get("guests") or migration["machine"].get("guests") or [migration["machine"].get("guest") or {}]


def guest_of(migration: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The system that the VM is made for."""
    return migration.get("guest") or guests_of(migration)[0]


def mac_of(nic: t.Mapping[str, t.Any]) -> str:
    """The address that a card of the source has by itself; a bond may have given it another one."""
    return str(nic["permanent_mac"] or nic["mac"])


def hardware_of(migration: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The virtual hardware that was asked for: every name, None where it is chosen by itself."""
    return normal_hardware(migration.get("hardware") or {})


def find_guest(migration: t.Mapping[str, t.Any], system: str) -> dict[str, t.Any] | None:
    """The system with this key, else the first one that the pattern fits; case does not count. The gateway does so."""
    wanted = system.casefold()
    found = guests_of(migration)
    for guest in found:
        if (guest.get("key") or "").casefold() == wanted:
            return guest
    names = ("key", "os_type", "id", "hostname", "computer_name", "place", "pretty_name")
    for guest in found:
        if any(fnmatchcase(str(guest.get(name) or "").casefold(), wanted) for name in names):
            return guest
    return None


def predicted(migration: t.Mapping[str, t.Any], changes: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The migration as the gateway would give it once *changes* were made."""
    result = {**migration, **changes}
    if "system" in changes:
        result["guest"] = find_guest(migration, changes["system"])
        result["warnings"] = [item for item in result.get("warnings", ()) if item["code"] != SYSTEM_NOT_FOUND]
    if "system" in changes or "accept_warnings" in changes:
        accepted = result.get("accept_warnings", ())
        result["warnings"] = [{**item, "accepted": item["code"] in accepted} for item in result.get("warnings", ())]
        result["blocked"] = list(dict.fromkeys(item["code"] for item in _holding(result)))
    return result


def require_free(migration: t.Mapping[str, t.Any]) -> None:
    """Raise HeldBackError if warnings hold it back."""
    if holding := _holding(migration):
        raise HeldBackError(_named(migration), holding)


def _holding(migration: t.Mapping[str, t.Any]) -> list[t.Mapping[str, t.Any]]:
    return [item for item in migration.get("warnings", ()) if item["severity"] == "block" and not item["accepted"]]


def needs_confirmation(migration: t.Mapping[str, t.Any]) -> bool:
    """Whether it waits; False when it was confirmed before. Raises StateError when it has ended in another way."""
    state = migration["state"]
    if state == "assessed":
        raise StateError(
            f"{_named(migration)} was an assessment and cannot be confirmed; boot the source from an ISO of a template"
            " with mode migrate"
        )
    if state in ("failed", "canceled"):
        raise StateError(
            f"{_named(migration)} {'has failed' if state == 'failed' else 'was canceled'}{_why(migration)}"
            " and cannot be confirmed; boot the source from its ISO again for a new migration"
        )
    return bool(state == "waiting")


def needs_cancellation(migration: t.Mapping[str, t.Any]) -> bool:
    """Whether it is under way; False when it was canceled before. Raises StateError when it ended otherwise."""
    state = migration["state"]
    if state == "assessed":
        raise StateError(f"{_named(migration)} was an assessment; there is nothing to cancel")
    if state in ("finished", "failed"):
        raise StateError(f"{_named(migration)} has {state} already{_why(migration)}; there is nothing to cancel")
    return bool(state != "canceled")


def require_ended(migration: t.Mapping[str, t.Any]) -> None:
    """Raise StateError unless it has ended, as only then it may be removed."""
    if migration["state"] not in ENDED:
        raise StateError(f"{_named(migration)} is {migration['state']}; cancel it before it is removed")


def _sentences(*parts: str | None) -> str:
    return ". ".join(part.rstrip(".") for part in parts if part)


def _named(migration: t.Mapping[str, t.Any]) -> str:
    return f"migration {migration['name']!r} ({migration['id']})"


def _why(migration: t.Mapping[str, t.Any]) -> str:
    reason = migration.get("reason")
    return f" ({reason})" if reason else ""
