"""Any call of the compiled core with any arguments: refused, or what the twin does (also under the sanitizers)."""

from __future__ import annotations

import os
import random

import pytest

from engine import native
from tests.twin import twin_root_hash, twin_subtree_cv

LEAF = native.LEAF_BYTES
EDGES = [
    -(2**63) - 1,
    -(2**63),
    -1,
    0,
    1,
    7,
    8,
    9,
    63,
    64,
    65,
    LEAF,
    2**31 - 1,
    2**32,
    2**53,
    2**54,
    2**63 - 1,
    2**63,
    2**64,
]
CALLS = 300 * max(1, int(os.environ.get("OFFLINE_ENGINE_TEST_EXAMPLES", "100")) // 25)


def a_number(rng: random.Random, near: int) -> int:
    return rng.choice([rng.choice(EDGES), rng.randrange(near + 2), near + rng.randrange(-2, 3)])


@pytest.mark.parametrize("seed", range(4))
def test_m28_any_call_is_refused_or_does_what_the_twin_does(seed: int) -> None:
    rng = random.Random(seed)
    done = 0
    for _ in range(CALLS):
        bits = bytearray(rng.randbytes(rng.choice([0, 1, 7, 8, 9, 31, 64, 65])))
        size = 8 * len(bits)
        count, start, limit = a_number(rng, size), a_number(rng, size), a_number(rng, size)
        before = int.from_bytes(bits, "little")
        try:
            first, length = native.bitmap_next_run(bits, count, start, rng.random() < 0.5, limit)
            assert start <= first <= count <= size
            assert first + length <= count
            native.bitmap_set(bits, start, count - start)
            wanted = before | ((1 << (count - start)) - 1) << start
            assert int.from_bytes(bits, "little") == wanted
            assert native.bitmap_count(bits, count) == (wanted & (1 << count) - 1).bit_count()
            native.bitmap_clear(bits, start, count - start)
            assert int.from_bytes(bits, "little") == wanted & ~(((1 << (count - start)) - 1) << start)
            done += 1
        except ValueError:
            continue
    assert done > CALLS // 50


@pytest.mark.parametrize("seed", range(4))
def test_m28_any_subtree_is_refused_or_hashed_as_the_twin_does(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(CALLS // 10):
        data = rng.randbytes(rng.choice([0, 1, LEAF - 1, LEAF, LEAF + 1, 2 * LEAF, 3 * LEAF + 5]))
        counter = rng.choice([0, 1, 2, 4, 6, 8, 2**20, 2**53, a_number(rng, 9)])
        try:
            found = native.subtree_cv(data, counter)
        except ValueError:
            continue
        assert found == twin_subtree_cv(data, counter)
        assert native.root_hash(data) == twin_root_hash(data)


@pytest.mark.parametrize("seed", range(2))
def test_m28_any_seal_is_refused_or_lands_at_its_place(seed: int) -> None:
    rng = random.Random(seed)
    pool = native.BufferPool(2, 4 * LEAF)
    file = os.memfd_create("seals")
    with native.Sealer(2, 4) as sealer:
        for _ in range(CALLS // 4):
            buffer = pool.acquire()
            assert buffer is not None
            data = rng.randbytes(8) * (len(buffer) // 8)
            with memoryview(buffer) as view:
                view[:] = data
            length, offset = a_number(rng, len(data)), rng.choice([0, LEAF, rng.randrange(10**6), -1, 2**63 - 1, 2**63])
            ticket = rng.choice([0, 1, 2**64 - 1])
            try:
                sealer.submit(ticket, file, buffer, length, offset, 0, False)
            except ValueError:
                buffer.release()
                continue
            results: list[tuple[int, int, bytes, int]] = []
            while not results:
                results = sealer.drain()
            ((given, error, digest, _),) = results
            assert given == ticket
            assert digest == twin_subtree_cv(data[:length], 0)
            assert error or os.pread(file, length, offset) == data[:length]
            buffer.release()
    os.close(file)
    assert pool.free == pool.count
