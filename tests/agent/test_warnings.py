# SPDX-License-Identifier: GPL-3.0-or-later
"""The catalogue of notices: complete, documented, and safe with whatever values the disks give."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from coldmig_agent.warnings import BLOCK, CATALOGUE, MAX_MESSAGE, SEVERITIES, notice

REPOSITORY = Path(__file__).resolve().parents[2]
AGENT = REPOSITORY / "agent/coldmig_agent"
_ROW = re.compile(r"^\| `([a-z0-9-]+)` \| ([a-z, ]+) \| (.*?) \| (.*?) \|$", re.MULTILINE)


def test_the_documentation_lists_every_code_with_its_severity_sentence_and_action() -> None:
    text = (REPOSITORY / "docs/warnings.md").read_text(encoding="utf-8")
    rows = {code: (severity, sentence, action) for code, severity, sentence, action in _ROW.findall(text)}
    expected = {
        code: (", ".join(entry.severities), entry.sentence, entry.action or "–") for code, entry in CATALOGUE.items()
    }
    assert rows == expected


@pytest.mark.parametrize("code", CATALOGUE)
def test_every_entry_makes_a_notice_that_the_site_takes(code: str) -> None:
    entry = CATALOGUE[code]
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", code)
    assert set(entry.severities) <= set(SEVERITIES)
    made = notice(code, **{name: f"<{name}>" for name in entry.fields})
    assert made.severity == entry.severities[0]
    assert all(f"<{name}>" in made.message for name in entry.fields)
    assert not made.message.endswith(".")
    assert made.severity == "info" or made.action.endswith(".")


def test_every_code_in_the_agent_is_in_the_catalogue_with_its_fields() -> None:
    used = {
        (path.name, code)
        for path in AGENT.rglob("*.py")
        for code in re.findall(r"\bnotice\(\s*\"([^\"]+)\"", path.read_text(encoding="utf-8"))
    }
    assert used
    assert {(name, code) for name, code in used if code not in CATALOGUE} == set()


def test_notices_are_made_only_from_the_catalogue() -> None:
    others = [
        str(path.relative_to(AGENT))
        for path in AGENT.rglob("*.py")
        if path.name != "warnings.py" and re.search(r"\bNotice\(", path.read_text(encoding="utf-8"))
    ]
    assert others == []


def test_a_missing_or_a_foreign_field_is_refused_with_what_is_wanted() -> None:
    with pytest.raises(ValueError, match="wants driver, name"):
        notice("nic-management", name="usb0")
    with pytest.raises(ValueError, match="wants driver, name"):
        notice("nic-management", name="usb0", driver="cdc_ether", colour="red")
    with pytest.raises(KeyError):
        notice("no-such-code")


def test_a_severity_is_one_of_the_codes_own() -> None:
    fields = {"place": "disk 0", "token": "clevis tpm2", "other": "no other key opens it"}
    assert notice("luks-tpm-token", **fields).severity == "warning"
    assert notice("luks-tpm-token", BLOCK, **fields).severity == "block"
    with pytest.raises(ValueError, match="'info' is none of warning, block"):
        notice("luks-tpm-token", "info", **fields)


def test_values_of_the_guest_neither_format_nor_control_nor_flood() -> None:
    made = notice("zfs-pool", place="{host}", pool="a\x1b[2J{place}", host="x" * 100_000)
    assert made.message.startswith("{host} belongs to the ZFS pool a [2J{place}xxx")
    assert len(made.message) <= MAX_MESSAGE
