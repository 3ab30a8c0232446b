"""Bitmap kernels over every kind of buffer, against a Python integer."""

import mmap
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import native

BITS = st.binary(min_size=0, max_size=80)


def in_mmap(data: bytes) -> mmap.mmap:
    area = mmap.mmap(-1, max(1, len(data)))
    area[: len(data)] = data
    return area


def unaligned(data: bytes) -> memoryview:
    return memoryview(bytearray(b"x" + data))[1:]


HOLDERS: list[Callable[[bytes], bytes | bytearray | memoryview | mmap.mmap]] = [bytes, memoryview, in_mmap, unaligned]
WRITABLE: list[Callable[[bytes], bytearray | memoryview | mmap.mmap]] = [bytearray, in_mmap, unaligned]


def expected_run(value: int, bit_count: int, start: int, wanted: bool, limit: int) -> tuple[int, int]:
    hits = [i for i in range(start, bit_count) if (value >> i & 1) == wanted]
    if not hits:
        return bit_count, 0
    length = 0
    while hits[0] + length in hits and length < limit:
        length += 1
    return hits[0], length


@pytest.mark.parametrize("hold", HOLDERS)
@given(bits=BITS, data=st.data())
def test_count(hold: Callable[[bytes], bytes], bits: bytes, data: st.DataObject) -> None:
    bit_count = data.draw(st.integers(0, len(bits) * 8))
    value = int.from_bytes(bits, "little") & (1 << bit_count) - 1

    assert native.bitmap_count(hold(bits), bit_count) == value.bit_count()


@pytest.mark.parametrize("hold", HOLDERS)
@given(bits=BITS | st.binary(max_size=40).map(lambda b: b"\xff" * 20 + b + bytes(20)), data=st.data())
def test_next_run(hold: Callable[[bytes], bytes], bits: bytes, data: st.DataObject) -> None:
    bit_count = data.draw(st.integers(0, len(bits) * 8))
    start = data.draw(st.integers(0, bit_count))
    limit = data.draw(st.integers(1, 200) | st.just(2**63 - 1))
    wanted = data.draw(st.booleans())
    value = int.from_bytes(bits, "little")

    assert native.bitmap_next_run(hold(bits), bit_count, start, wanted, limit) == expected_run(
        value, bit_count, start, wanted, limit
    )


@pytest.mark.parametrize("hold", WRITABLE)
@pytest.mark.parametrize("value", [True, False])
@given(bits=BITS, data=st.data())
def test_set_and_clear(hold: Callable[[bytes], bytearray], value: bool, bits: bytes, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(bits) * 8))
    count = data.draw(st.integers(0, len(bits) * 8 - first))
    mask = (1 << count) - 1 << first
    before = int.from_bytes(bits, "little")
    held = hold(bits)
    (native.bitmap_set if value else native.bitmap_clear)(held, first, count)
    after = bytes(held)[: len(bits)]

    assert int.from_bytes(after, "little") == (before | mask if value else before & ~mask)


@pytest.mark.parametrize("bit_count", [-1, 17, 2**63, 2**64, -(2**64)])
def test_bits_beyond_the_buffer_are_refused(bit_count: int) -> None:
    with pytest.raises(ValueError, match="bit_count must be from 0 to 16"):
        native.bitmap_count(b"ab", bit_count)
    with pytest.raises(ValueError, match="bit_count must be from 0 to 16"):
        native.bitmap_next_run(b"ab", bit_count, 0, True, 1)


@pytest.mark.parametrize(("start", "limit"), [(-1, 1), (11, 1), (0, 0), (0, -1), (2**64, 1), (0, 2**64)])
def test_next_run_refuses_impossible_starts_and_limits(start: int, limit: int) -> None:
    with pytest.raises(ValueError, match="must be from"):
        native.bitmap_next_run(b"ab", 10, start, False, limit)


@pytest.mark.parametrize(("first", "count"), [(-1, 1), (0, -1), (0, 17), (16, 1), (17, 0), (2**63 - 1, 2**63 - 1)])
@pytest.mark.parametrize("change", [native.bitmap_set, native.bitmap_clear])
def test_changes_beyond_the_buffer_are_refused(
    change: Callable[[bytearray, int, int], None], first: int, count: int
) -> None:
    bits = bytearray(b"ab")
    with pytest.raises(ValueError, match="must be from"):
        change(bits, first, count)

    assert bits == b"ab"


def test_a_read_only_buffer_is_not_changed() -> None:
    with pytest.raises(BufferError):
        native.bitmap_set(b"ab", 0, 1)


def test_a_large_bitmap() -> None:
    bits = bytearray(1 << 17)
    native.bitmap_set(bits, 0, 1 << 20)
    native.bitmap_clear(bits, 777_777, 3)

    assert native.bitmap_count(bits, 1 << 20) == (1 << 20) - 3
    assert native.bitmap_next_run(bits, 1 << 20, 0, False, 1 << 20) == (777_777, 3)
    assert native.bitmap_next_run(bits, 1 << 20, 777_780, False, 1) == (1 << 20, 0)
