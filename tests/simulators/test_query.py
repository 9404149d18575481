# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter language on its own."""

from __future__ import annotations

from typing import Any

import pytest

from simulators.vcd.errors import ApiError
from simulators.vcd.query import compile_filter, paginate

RECORD: dict[str, Any] = {
    "name": "web (1), blue",
    "isEnabled": True,
    "numberOfVMs": 3,
    "vdc": "https://cloud.example.test/api/vdc/1-2-3",
    "metadata:coldmig.id": "a;b",
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name==web*", True),
        ("name==web", False),
        ("name!=web", True),
        (r"name==web \(1\)\, blue", True),
        ("isEnabled==true;numberOfVMs=gt=2", True),
        ("isEnabled==false,numberOfVMs=le=3", True),
        ("(isEnabled==false,numberOfVMs==3);name==db*", False),
        ("vdc==https://cloud.example.test/api/admin/vdc/1-2-3", True),
        ("vdc==1-2-4", False),
        (r"metadata:coldmig.id==STRING:a\;b", True),
        ("metadata:other==STRING:x", False),
    ],
)
def test_filter_selects(text: str, expected: bool) -> None:
    assert compile_filter(text, set(RECORD))(RECORD) is expected


@pytest.mark.parametrize("text", ["", "name", "name=x", "(name==x", "name==x)", "nosuch==1", "metadata:k==x"])
def test_malformed_filter_is_refused(text: str) -> None:
    with pytest.raises(ApiError):
        compile_filter(text, set(RECORD))


def test_pages_cover_everything_once() -> None:
    items = list(range(7))
    pages = [paginate(items, {"page": str(number), "pageSize": "3"}) for number in (1, 2, 3)]
    assert [item for page in pages for item in page.items] == items
    assert pages[0].last == 3


@pytest.mark.parametrize("parameters", [{"page": "0"}, {"pageSize": "x"}, {"pageSize": "129"}])
def test_page_out_of_bounds_is_refused(parameters: dict[str, str]) -> None:
    with pytest.raises(ApiError):
        paginate([], parameters)
