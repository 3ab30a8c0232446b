"""Bits that are cleared again: chunks that turned out wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.model.bitmap import Bitmap


@given(st.integers(1, 200), st.data())
def test_what_is_removed_is_not_held(count: int, data: st.DataObject) -> None:
    held = data.draw(st.sets(st.integers(0, count - 1)))
    first = data.draw(st.integers(0, count - 1))
    length = data.draw(st.integers(0, count - first))
    bitmap = Bitmap(count)
    for index in held:
        bitmap.add(index)
    bitmap.remove(first, length)
    left = held - set(range(first, first + length))
    assert {index for index in range(count) if index in bitmap} == left
    assert bitmap.held == len(left)


@pytest.mark.parametrize(("first", "count"), [(-1, 1), (0, 11), (10, 1), (0, -1)])
def test_bits_that_are_not_there(first: int, count: int) -> None:
    with pytest.raises(IndexError):
        Bitmap(10).remove(first, count)
