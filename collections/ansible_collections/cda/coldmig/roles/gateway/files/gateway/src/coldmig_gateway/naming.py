# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of migrations, which become the names of virtual machines.

vCenter and VCD take nearly any character, yet percent-encode some and break in scripts and paths on others, so a name
here is plain: letters, digits, dot, underscore and hyphen, beginning with a letter or digit, at most 80 characters
(vCenter's limit).
"""

from __future__ import annotations

import re
from string import Formatter

MAX_NAME = 80
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
PLACEHOLDERS = ("name", "serial", "id")
_LITERAL = re.compile(r"[A-Za-z0-9._-]*")
_OTHER = re.compile(r"[^A-Za-z0-9._-]+")


def check_pattern(pattern: str) -> None:
    """Raise ValueError, with what is allowed, unless the pattern can only give good names."""
    try:
        parts = list(Formatter().parse(pattern))
    except ValueError:
        raise ValueError("braces must enclose a placeholder: {name}, {serial} or {id}") from None
    for literal, field, spec, conversion in parts:
        if not _LITERAL.fullmatch(literal):
            raise ValueError("beside placeholders only letters, digits, '.', '_' and '-' are allowed")
        if field is not None and (field not in PLACEHOLDERS or spec or conversion):
            raise ValueError("placeholders are {name}, {serial} and {id}")
    if not any(part[1] for part in parts):
        raise ValueError("at least one of the placeholders {name}, {serial} and {id} must be there")


VAPP_PLACEHOLDERS = (*PLACEHOLDERS, "template")


def check_vapp_pattern(pattern: str) -> None:
    """Raise ValueError, with what is allowed, unless braces in the name of a vApp enclose known placeholders only."""
    rest = pattern
    for placeholder in VAPP_PLACEHOLDERS:
        rest = rest.replace(f"{{{placeholder}}}", "")
    if "{" in rest or "}" in rest:
        raise ValueError("braces must enclose a placeholder: {name}, {serial}, {id} or {template}")


def expand(pattern: str, *, name: str, serial: str | None, migration_id: str) -> str:
    """The name of a migration; ``{id}`` gives the first eight digits of its id.

    What a machine says of itself may hold anything, so every run of other characters becomes a hyphen.
    """
    short = migration_id[:8]
    text = pattern.format(name=_plain(name), serial=_plain(serial or ""), id=short)
    text = text.strip("._-")[:MAX_NAME].rstrip("._-")
    return text or f"migration-{short}"


def _plain(text: str) -> str:
    return _OTHER.sub("-", text).strip("-")
