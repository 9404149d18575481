# SPDX-License-Identifier: GPL-3.0-or-later
"""What comes back from a process that read a guest's files."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from coldmig_agent.machine import Guest, Readiness
from coldmig_agent.records import MAX_ITEMS, MAX_TEXT, RecordError, decode, from_json, to_json


@dataclass(frozen=True, slots=True)
class Sample:
    number: int
    share: float = 0.0
    text: str | None = None
    pair: tuple[str, int] = ("", 0)
    many: tuple[str, ...] = ()


def test_a_record_comes_back_as_it_went() -> None:
    guest = Guest("linux", "debian", readiness=(Readiness("pvscsi", "storage", "ready", ("in the initramfs",)),))
    assert from_json(Guest, to_json(guest)) == guest
    sample = Sample(3, 0.5, None, ("a", 1), ("x", "y"))
    assert from_json(Sample, to_json(sample)) == sample


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ([], "not an object"),
        ({"number": "3"}, "document.number is str, not int"),
        ({"number": True}, "is bool, not int"),
        ({}, "number"),
        ({"number": 1, "more": 2}, "unknown field 'more'"),
        ({"number": 1, "text": "x" * (MAX_TEXT + 1)}, "longer than"),
        ({"number": 1, "many": ["x"] * (MAX_ITEMS + 1)}, "more than"),
        ({"number": 1, "many": "text"}, "not a list"),
        ({"number": 1, "pair": ["a"]}, "has 1 items, not 2"),
        ({"number": 1, "many": [None]}, r"many\[0\] is NoneType"),
    ],
)
def test_anything_else_is_refused(document: object, complaint: str) -> None:
    with pytest.raises(RecordError, match=complaint):
        decode(Sample, document)


def test_what_is_no_json_is_refused() -> None:
    for text in ("", "{", "[" * 100_000):
        with pytest.raises(RecordError):
            from_json(Sample, text)
