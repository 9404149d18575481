# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coldmig_gateway.staging.bitmap import Bitmap

SIZE = 77
ranges = st.tuples(st.integers(0, SIZE - 1), st.integers(1, SIZE)).map(lambda r: (r[0], min(SIZE, r[0] + r[1])))
steps = st.lists(st.tuples(st.sampled_from(["set", "clear"]), ranges), max_size=20)


@given(steps, steps, ranges)
def test_a_bitmap_behaves_like_a_set_of_numbers(
    first: list[tuple[str, tuple[int, int]]], second: list[tuple[str, tuple[int, int]]], window: tuple[int, int]
) -> None:
    def build(changes: list[tuple[str, tuple[int, int]]]) -> tuple[Bitmap, set[int]]:
        bitmap, model = Bitmap(SIZE), set[int]()
        for what, (start, end) in changes:
            if what == "set":
                bitmap.set_range(start, end)
                model |= set(range(start, end))
            else:
                bitmap.clear_range(start, end)
                model -= set(range(start, end))
        return bitmap, model

    bitmap, model = build(first)
    other, other_model = build(second)
    assert list(bitmap.indices()) == sorted(model)
    assert bitmap.count == len(model)
    assert [bitmap[bit] for bit in range(SIZE)] == [bit in model for bit in range(SIZE)]
    assert bitmap.all_set(*window) == set(range(*window)).issubset(model)
    bitmap.keep_where(other, *window)
    model -= set(range(*window)) - other_model
    assert list(Bitmap(SIZE, bytes(bitmap)).indices()) == sorted(model)
    assert bitmap.count == len(model)


def test_bits_are_counted_from_the_least_significant_of_each_byte() -> None:
    bitmap = Bitmap(20)
    bitmap.set_range(0, 1)
    bitmap.set_range(9, 10)
    assert bytes(bitmap) == b"\x01\x02\x00"


@pytest.mark.parametrize(("start", "end"), [(-1, 1), (3, 3), (0, 21)])
def test_a_range_outside_is_refused(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="range"):
        Bitmap(20).set_range(start, end)


def test_content_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="must be 3"):
        Bitmap(20, b"\0\0")
