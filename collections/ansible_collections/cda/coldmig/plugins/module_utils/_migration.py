# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""What to do to a migration to get it where it is wanted. No I/O."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.cda.coldmig.plugins.module_utils._diff import Differences
from ansible_collections.cda.coldmig.plugins.module_utils._errors import InputError, StateError
from ansible_collections.cda.coldmig.plugins.module_utils._template import check_destination, normal_destination

VM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
STATES = ("waiting", "confirmed", "copying", "copied", "importing", "finished", "failed", "canceled")
ENDED = frozenset({"finished", "failed", "canceled"})
CHANGEABLE = frozenset({"waiting", "confirmed", "copying", "copied"})
SETTINGS = ("name", "power_on", "destination", "accept_unreadable")


def check_options(options: t.Mapping[str, t.Any]) -> None:
    """Check the settings and the reason. Raises InputError for the first that is wrong."""
    if options.get("name") is not None and not VM_NAME.fullmatch(options["name"]):
        raise InputError(
            "name", options["name"], "1 to 80 letters, digits, '.', '_' and '-', the first a letter or digit"
        )
    if options.get("destination") is not None:
        check_destination(options["destination"])
    if not options["reason"].isprintable() or not 1 <= len(options["reason"].strip()) <= 500:
        raise InputError("reason", options["reason"], "one line of 1 to 500 characters")


def wanted_changes(migration: t.Mapping[str, t.Any], options: t.Mapping[str, t.Any]) -> Differences:
    """Settings that differ. Raises StateError when there are some and it is too late for them."""
    wanted = {name: options[name] for name in SETTINGS if options.get(name) is not None}
    if "destination" in wanted:
        wanted["destination"] = normal_destination(wanted["destination"])
    differences = Differences.between(migration, wanted)
    if differences and migration["state"] not in CHANGEABLE:
        names = ", ".join(differences.after)
        raise StateError(
            f"{_named(migration)} is {migration['state']}: {names} can be changed only before the import"
            f" ({', '.join(state for state in STATES if state in CHANGEABLE)})"
        )
    return differences


def needs_confirmation(migration: t.Mapping[str, t.Any]) -> bool:
    """Whether it waits; False when it was confirmed before. Raises StateError when it has failed or was canceled."""
    state = migration["state"]
    if state in ("failed", "canceled"):
        raise StateError(
            f"{_named(migration)} {'has failed' if state == 'failed' else 'was canceled'}{_why(migration)}"
            " and cannot be confirmed; boot the source from its ISO again for a new migration"
        )
    return bool(state == "waiting")


def needs_cancellation(migration: t.Mapping[str, t.Any]) -> bool:
    """Whether it is under way; False when it was canceled before. Raises StateError when it ended otherwise."""
    state = migration["state"]
    if state in ("finished", "failed"):
        raise StateError(f"{_named(migration)} has {state} already{_why(migration)}; there is nothing to cancel")
    return bool(state != "canceled")


def require_ended(migration: t.Mapping[str, t.Any]) -> None:
    """Raise StateError unless it has ended, as only then it may be removed."""
    if migration["state"] not in ENDED:
        raise StateError(f"{_named(migration)} is {migration['state']}; cancel it before it is removed")


def _named(migration: t.Mapping[str, t.Any]) -> str:
    return f"migration {migration['name']!r} ({migration['id']})"


def _why(migration: t.Mapping[str, t.Any]) -> str:
    reason = migration.get("reason")
    return f" ({reason})" if reason else ""
