"""The plan: leases partition what is missing, whatever is given back and in whatever order."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import KIB, MIB, TIB, Config
from engine.model.bitmap import Bitmap
from engine.model.chunks import ChunkGrid
from engine.transfer.plan import Lease, Plan

CONFIG = Config(chunk_bytes=4 * KIB, small_chunk_bytes=4 * KIB, span_bytes_min=16 * KIB, span_bytes_max=256 * KIB)
CHUNK = CONFIG.chunk_bytes


def bitmap_of(count: int, held: set[int]) -> Bitmap:
    bitmap = Bitmap(count)
    for index in held:
        bitmap.add(index)
    return bitmap


@st.composite
def holes(draw: st.DrawFn) -> tuple[int, set[int]]:
    count = draw(st.integers(0, 400))
    held = draw(st.sets(st.integers(0, count - 1), max_size=count)) if count else set()
    return count, held


@given(holes(), st.integers(1, 16), st.randoms(use_true_random=False))
def test_leases_partition_what_is_missing(drawn: tuple[int, set[int]], connections: int, rng: random.Random) -> None:
    """Every missing chunk is leased until somebody has fetched it, none twice at a time, none that is held."""
    count, held = drawn
    plan = Plan(ChunkGrid(count * CHUNK, CHUNK), bitmap_of(count, held), connections, CONFIG)
    missing = set(range(count)) - held
    fetched: set[int] = set()
    leased: list[Lease] = []
    while True:
        assert plan.unclaimed == len(missing) - len(fetched) - sum(lease.count for lease in leased)
        lease = plan.lease() if len(leased) < connections else None
        if lease is not None:
            chunks = set(range(lease.first, lease.end))
            assert 0 < lease.count <= CONFIG.span_bytes_max // CHUNK
            assert chunks <= missing - fetched
            assert not any(chunks & set(range(other.first, other.end)) for other in leased)
            leased.append(lease)
            if rng.random() < 0.5:
                continue
        if not leased:
            break
        lease = leased.pop(rng.randrange(len(leased)))
        got = rng.choice([lease.count, rng.randint(0, lease.count), lease.count])
        fetched.update(range(lease.first, lease.first + got))
        plan.give_back(lease.first + got, lease.count - got)
    assert fetched == missing
    assert plan.lease() is None


@given(holes(), st.integers(1, 50))
def test_a_limited_lease(drawn: tuple[int, set[int]], limit: int) -> None:
    count, held = drawn
    plan = Plan(ChunkGrid(count * CHUNK, CHUNK), bitmap_of(count, held), 4, CONFIG)
    lease = plan.lease(limit)
    first_missing = min(set(range(count)) - held, default=None)
    if first_missing is None:
        assert lease is None
    else:
        assert lease is not None
        assert lease.first == first_missing
        assert 1 <= lease.count <= limit


@pytest.mark.parametrize("connections", [1, 4, 16])
def test_spans_are_a_share_of_what_is_left(connections: int) -> None:
    """Long at first, short at the end, never beyond their bounds: so that all connections end together."""
    count = 5000
    plan = Plan(ChunkGrid(count * CHUNK, CHUNK), Bitmap(count), connections, CONFIG)
    sizes = []
    while (lease := plan.lease()) is not None:
        sizes.append(lease.count)
    assert sum(sizes) == count
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 64
    assert sizes[-2] == 4
    assert sizes[-1] <= 4


def test_what_is_given_back_is_next() -> None:
    """In file order, so that playback can follow."""
    plan = Plan(ChunkGrid(100 * CHUNK, CHUNK), Bitmap(100), 2, CONFIG)
    first, second = plan.lease(), plan.lease()
    assert first is not None
    assert second is not None
    plan.give_back(first.first + 2, first.count - 2)
    again = plan.lease()
    assert again == Lease(first.first + 2, min(first.count - 2, again.count if again else 0))


def test_a_million_chunks_with_random_holes_are_planned_at_once() -> None:
    """1 TiB in 1 MiB chunks: ready in 50 ms (the issue's bound; three times that here, for a busy machine)."""
    grid = ChunkGrid(1 * TIB, 1 * MIB)
    bits = random.Random(5).randbytes(grid.count // 8)
    held = Bitmap(grid.count, bits)
    expected = next(index for index in range(grid.count) if not bits[index >> 3] >> (index & 7) & 1)
    best = 1.0
    for _ in range(5):
        began = time.perf_counter()
        plan = Plan(grid, Bitmap(grid.count, bits), 16, Config())
        lease = plan.lease()
        best = min(best, time.perf_counter() - began)
        assert lease is not None
        assert lease.first == expected
        assert plan.unclaimed == grid.count - held.held - lease.count
    assert best < 0.15


def test_all_million_leases_can_be_taken_and_given_back() -> None:
    """Not quadratic: the worst bitmap, every other chunk missing, walked whole."""
    count = 200_000
    plan = Plan(ChunkGrid(count * CHUNK, CHUNK), Bitmap(count, b"\x55" * (count // 8)), 16, CONFIG)
    leases = []
    while (lease := plan.lease()) is not None:
        leases.append(lease)
    assert leases == [Lease(index, 1) for index in range(1, count, 2)]
    for lease in reversed(leases[-1000:]):
        plan.give_back(lease.first, lease.count)
    assert plan.unclaimed == 1000
    assert plan.lease() == leases[-1000]


def active(plan: Plan, now: float, limit: int | None = None) -> Lease:
    """A lease that a fetcher began now."""
    lease = plan.lease(limit)
    assert lease is not None
    lease.began = lease.since = now
    return lease


def test_an_idle_fetcher_takes_the_upper_half_of_the_slowest_lease() -> None:
    plan = Plan(ChunkGrid(40 * CHUNK, CHUNK), Bitmap(40), 1, CONFIG)
    fast, slow = active(plan, 0.0, 20), active(plan, 0.0, 20)
    for _ in range(18):
        plan.advance(fast, 9.0)
    plan.advance(slow, 5.0)
    stolen = plan.steal(10.0)
    assert stolen == Lease(31, 9)
    assert (slow.first, slow.end, slow.at) == (20, 31, 21)
    assert plan.unclaimed == 0


def test_what_is_nearly_done_is_not_stolen() -> None:
    """A new connection costs more than a second of work; and the chunk on its way stays where it is."""
    plan = Plan(ChunkGrid(4 * CHUNK, CHUNK), Bitmap(4), 1, CONFIG)
    lease = active(plan, 0.0, 4)
    assert plan.steal(0.1) is None
    for _ in range(3):
        plan.advance(lease, 10.0)
    assert plan.steal(100.0) is None
    assert (lease.at, lease.end) == (3, 4)


def test_the_first_of_two_that_have_a_chunk_seals_it() -> None:
    plan = Plan(ChunkGrid(2 * CHUNK, CHUNK), Bitmap(2), 1, CONFIG)
    late, other = active(plan, 0.0, 1), active(plan, 0.0, 1)
    plan.advance(other, 0.5)
    plan.done(other)
    cut: list[bool] = []
    late.cut = lambda: cut.append(True)
    assert plan.duplicate(0.9) is None
    again = plan.duplicate(5.0)
    assert again == Lease(0, 1)
    assert plan.duplicate(50.0) is None, "twice is enough"
    assert plan.win(again)
    assert cut == [True]
    assert not plan.win(late)
    plan.advance(again, 6.0)
    for lease in (late, again):
        plan.done(lease)
    assert plan.finished


@pytest.mark.parametrize("first_to_fail", ["late", "again"])
def test_of_two_that_fetch_a_chunk_one_may_fail(first_to_fail: str) -> None:
    """The other goes on alone; only when both failed is the chunk missing again, and then once."""
    plan = Plan(ChunkGrid(CHUNK, CHUNK), Bitmap(1), 1, CONFIG)
    late = active(plan, 0.0)
    again = plan.duplicate(5.0)
    assert again is not None
    failing, left = (late, again) if first_to_fail == "late" else (again, late)
    plan.done(failing)
    assert plan.unclaimed == 0
    assert plan.win(left)
    plan.done(left)
    assert plan.unclaimed == 1
    assert plan.lease() == Lease(0, 1)


@given(st.integers(1, 60), st.integers(1, 5), st.randoms(use_true_random=False))
def test_every_chunk_is_sealed_once(count: int, fetchers: int, rng: random.Random) -> None:
    """Whatever is stolen, fetched twice, cut off and given back, in whatever order."""
    plan = Plan(ChunkGrid(count * CHUNK, CHUNK), Bitmap(count), fetchers, CONFIG)
    sealed: list[int] = []
    busy: list[Lease] = []
    now = 0.0
    while not plan.finished:
        now += rng.choice([0.01, 1.0, 30.0])
        if len(busy) < fetchers:
            lease = plan.lease() or plan.steal(now) or plan.duplicate(now)
            if lease is not None:
                lease.began = lease.since = now
                busy.append(lease)
        lease = rng.choice(busy)
        if not lease.lost and lease.at < lease.end and rng.random() < 0.9 and plan.win(lease):
            sealed.append(lease.at)
            plan.advance(lease, now)
        if lease.lost or lease.at >= lease.end or rng.random() < 0.05:
            busy = [other for other in busy if other is not lease]
            plan.done(lease)
    assert sorted(sealed) == list(range(count))
