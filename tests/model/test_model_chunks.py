"""The chunk grid and the bitmap: a partition of the file, and a set of numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import MIB, TIB, Config
from engine.model.bitmap import Bitmap
from engine.model.chunks import LEAF_BYTES, ChunkGrid, chunk_bytes_for

CHUNK_SIZES = st.integers(10, 21).map(lambda power: 1 << power)
LENGTHS = st.one_of(st.integers(0, 5_000_000), st.integers(0, 16 * TIB))


@st.composite
def grids(draw: st.DrawFn, longest: int = 3000) -> ChunkGrid:
    chunk = draw(CHUNK_SIZES)
    near = draw(st.integers(0, longest)) * chunk + draw(st.sampled_from([-1, 0, 1, 513]))
    return ChunkGrid(max(0, near), chunk)


@given(grids())
def test_chunks_partition_the_file(grid: ChunkGrid) -> None:
    at = 0
    for index in range(grid.count):
        assert grid.offset(index) == at
        assert grid.leaf_counter(index) * LEAF_BYTES == at
        assert 0 < grid.size(index) <= grid.chunk_bytes
        assert grid.byte_range(index, 1) == (at, at + grid.size(index))
        at += grid.size(index)
    assert at == grid.length
    assert grid.sole == (0 < grid.length <= grid.chunk_bytes)


@given(LENGTHS, CHUNK_SIZES)
def test_the_last_chunk_ends_the_file(length: int, chunk: int) -> None:
    grid = ChunkGrid(length, chunk)
    assert grid.count == length // chunk + (length % chunk > 0)
    if grid.count:
        assert grid.byte_range(grid.count - 1, 1)[1] == length
        assert grid.byte_range(0, grid.count) == (0, length)


@given(grids(), st.data())
def test_chunks_within_are_those_wholly_inside(grid: ChunkGrid, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, grid.length))
    end = data.draw(st.integers(start, grid.length + 10))
    first, last = grid.chunks_within(start, end)
    inside = [i for i in range(grid.count) if start <= grid.byte_range(i, 1)[0] and grid.byte_range(i, 1)[1] <= end]
    assert list(range(first, last)) == inside


@given(grids(), st.data())
def test_bytes_of_counts_what_is_held(grid: ChunkGrid, data: st.DataObject) -> None:
    held = data.draw(st.sets(st.integers(0, max(0, grid.count - 1)), max_size=grid.count)) if grid.count else set()
    assert grid.bytes_of(len(held), grid.count - 1 in held) == sum(grid.size(index) for index in held)


@pytest.mark.parametrize("index", [-1, 3, 10**9])
def test_no_chunk_beyond_the_file(index: int) -> None:
    grid = ChunkGrid(2 * 1024 + 1, 1024)
    for call in (grid.offset, grid.size, grid.leaf_counter):
        with pytest.raises(IndexError):
            call(index)


@pytest.mark.parametrize(("length", "chunk"), [(-1, 1024), (10, 1023), (10, 0), (10, 512), (10, 3072), (10, -1024)])
def test_no_grid_of_a_wrong_kind(length: int, chunk: int) -> None:
    with pytest.raises(ValueError, match="must"):
        ChunkGrid(length, chunk)


def test_small_files_have_small_chunks() -> None:
    config = Config()
    assert chunk_bytes_for(0, config) == config.small_chunk_bytes
    assert chunk_bytes_for(256 * MIB - 1, config) == config.small_chunk_bytes
    assert chunk_bytes_for(256 * MIB, config) == config.chunk_bytes
    assert chunk_bytes_for(None, config) == config.chunk_bytes


@st.composite
def bit_sets(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    count = draw(st.integers(0, 700))
    run = st.integers(0, count).flatmap(lambda first: st.tuples(st.just(first), st.integers(0, count - first)))
    return count, draw(st.lists(run, max_size=20))


@given(bit_sets())
def test_a_bitmap_is_a_set(drawn: tuple[int, list[tuple[int, int]]]) -> None:
    count, runs = drawn
    bitmap, model = Bitmap(count), set[int]()
    for first, length in runs:
        bitmap.add(first, length)
        model.update(range(first, first + length))
    assert {index for index in range(-1, count + 9) if index in bitmap} == model
    assert bitmap.held == len(model)
    assert bitmap.complete == (len(model) == count)
    for value in (True, False):
        wanted = [index for index in range(count) if (index in model) == value]
        assert [index for first, length in bitmap.runs(value) for index in range(first, first + length)] == wanted
        assert all(length > 0 for _, length in bitmap.runs(value))
    copy = Bitmap(count, bytes(bitmap))
    assert (copy.held, bytes(copy)) == (bitmap.held, bytes(bitmap))


@given(st.integers(1, 300), st.integers(-5, 310), st.integers(-5, 310))
def test_bits_outside_are_refused(count: int, first: int, length: int) -> None:
    bitmap = Bitmap(count)
    if first < 0 or length < 0 or first + length > count:
        with pytest.raises(IndexError):
            bitmap.add(first, length)
        assert bitmap.held == 0
    else:
        bitmap.add(first, length)
        assert bitmap.held == length


def test_too_few_bytes_are_refused_and_stray_bits_ignored() -> None:
    with pytest.raises(ValueError, match="need 2 bytes"):
        Bitmap(9, b"\xff")
    assert Bitmap(3, b"\xff\xff").held == 3
