"""The pool on socket pairs: reuse, limits, order, ages, cancellation."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from engine.config import Config
from engine.errors import ConnectRefused, EngineClosed
from engine.net.connection import Connection, Phase
from engine.net.dialer import Dialer, Route
from engine.net.link import Link
from engine.net.pool import Pool, candidates, expired, surplus_of
from engine.net.tls import Tls
from engine.net.trust import Trust
from engine.net.url import Origin

A, B, C = (Origin("http", name, 80) for name in ("a.example", "b.example", "c.example"))


class PairDialer(Dialer):
    """Connects to the near end of a socket pair; the far ends are kept."""

    def __init__(self) -> None:
        super().__init__(Config())
        self.far: list[socket.socket] = []
        self.dialed: list[Origin] = []
        self.gate: trio.Event | None = None
        self.refuses = False
        self.takes_s = 0.0

    async def connect(self, route: Route) -> Link:
        await trio.sleep(self.takes_s)
        if self.gate is not None:
            await self.gate.wait()
        if self.refuses:
            raise ConnectRefused("no")
        self.dialed.append(route.origin)
        near, far = socket.socketpair()
        near.setblocking(False)
        self.far.append(far)
        return Link(near)


@pytest.fixture
def dialer() -> Iterator[PairDialer]:
    dialer = PairDialer()
    yield dialer
    for far in dialer.far:
        far.close()


def finish(pool: Pool, connection: Connection) -> None:
    connection.phase = Phase.IDLE
    connection.idle_since = trio.current_time()
    pool.release(connection, True)


def discard(pool: Pool, connection: Connection) -> None:
    connection.close()
    pool.release(connection, False)


def counts(pool: Pool) -> str:
    return repr(pool).removeprefix("<Pool ").removesuffix(">")


async def test_an_idle_connection_serves_its_own_origin_only(dialer: PairDialer) -> None:
    pool = Pool(Config(), dialer)
    first = await pool.acquire(A)
    finish(pool, first)
    other = await pool.acquire(B)
    again = await pool.acquire(A)
    assert again is first
    assert other is not first
    discard(pool, other)
    discard(pool, again)
    assert counts(pool) == "active=0 connecting=0 idle=0 opened=2"
    await pool.aclose()


async def test_s41_another_trust_is_another_connection(dialer: PairDialer) -> None:
    pool = Pool(Config(), dialer)
    secure = Origin("https", "a.example", 443)
    first = await pool.acquire(secure)
    finish(pool, first)
    dialer._tls = Tls(Trust(insecure=("https://a.example",)), 1.0)
    second = await pool.acquire(secure)
    assert second is not first
    discard(pool, second)
    await pool.aclose()


async def test_s41_what_the_caller_named_is_not_there_for_a_redirect(dialer: PairDialer) -> None:
    """The address was allowed because the caller wrote it; a server that sends us there gets no use of that."""
    pool = Pool(Config(), dialer)
    own = Origin("http", "127.0.0.1", 80)
    finish(pool, first := await pool.acquire(own, named=True))
    second = await pool.acquire(own)
    assert second is not first
    discard(pool, second)
    assert await pool.acquire(own, named=True) is first
    discard(pool, first)
    await pool.aclose()


async def test_fresh_is_new_even_when_one_is_idle(dialer: PairDialer) -> None:
    pool = Pool(Config(), dialer)
    finish(pool, first := await pool.acquire(A))
    second = await pool.acquire(A, fresh=True)
    assert second is not first
    discard(pool, second)
    await pool.aclose()


async def test_s39_a_connection_that_spoke_while_idle_is_closed(dialer: PairDialer) -> None:
    pool = Pool(Config(), dialer)
    finish(pool, first := await pool.acquire(A))
    dialer.far[0].send(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    second = await pool.acquire(A)
    assert second is not first
    assert first.phase is Phase.CLOSED
    discard(pool, second)
    await pool.aclose()


async def test_n20_old_idle_connections_are_closed(dialer: PairDialer, mock_clock: trio.testing.MockClock) -> None:
    pool = Pool(Config(idle_connection_s=30.0), dialer)
    finish(pool, first := await pool.acquire(A))
    mock_clock.jump(29.0)
    assert await pool.acquire(A) is first
    finish(pool, first)
    mock_clock.jump(31.0)
    other = await pool.acquire(B)
    assert first.phase is Phase.CLOSED
    discard(pool, other)
    await pool.aclose()


async def test_idle_connections_per_host_are_bounded_and_the_newest_stay(dialer: PairDialer) -> None:
    pool = Pool(Config(idle_connections_per_host=2), dialer)
    used = [await pool.acquire(A) for _ in range(4)]
    for connection in used:
        finish(pool, connection)
    assert [connection.phase for connection in used] == [Phase.CLOSED, Phase.CLOSED, Phase.IDLE, Phase.IDLE]
    await pool.aclose()
    assert all(connection.phase is Phase.CLOSED for connection in used)


async def test_the_oldest_idle_connection_makes_room(dialer: PairDialer) -> None:
    pool = Pool(Config(connections_max=2), dialer)
    finish(pool, first := await pool.acquire(A))
    finish(pool, second := await pool.acquire(B))
    third = await pool.acquire(C)
    assert (first.phase, second.phase) == (Phase.CLOSED, Phase.IDLE)
    assert counts(pool) == "active=1 connecting=0 idle=1 opened=3"
    discard(pool, third)
    await pool.aclose()


async def test_waiters_are_served_in_order_and_a_cancelled_one_loses_nothing(dialer: PairDialer) -> None:
    pool = Pool(Config(connections_max=1), dialer)
    served: list[str] = []
    held = await pool.acquire(A)

    async def use(name: str) -> None:
        connection = await pool.acquire(A)
        served.append(name)
        try:
            await trio.testing.wait_all_tasks_blocked()
        finally:
            finish(pool, connection)

    async with trio.open_nursery() as nursery:
        scopes = {}
        for name in ("one", "two", "three"):
            scopes[name] = trio.CancelScope()

            async def scoped(name: str = name) -> None:
                with scopes[name]:
                    await use(name)

            nursery.start_soon(scoped)
            await trio.testing.wait_all_tasks_blocked()
        finish(pool, held)
        scopes["one"].cancel()  # in the very step in which it was woken, or is about to be
    assert served in (["two", "three"], ["one", "two", "three"])
    assert counts(pool) == "active=0 connecting=0 idle=1 opened=1"
    await pool.aclose()


async def test_never_more_than_the_limit_whatever_the_load(
    dialer: PairDialer, autojump_clock: trio.testing.MockClock
) -> None:
    pool = Pool(Config(connections_max=3), dialer)
    dialer.takes_s = 0.5
    worst = served = 0

    async def use(number: int) -> None:
        nonlocal worst, served
        with trio.move_on_after(3.0 * (number % 7)):
            connection = await pool.acquire((A, B, C)[number % 3])
            text = counts(pool)
            worst = max(worst, sum(int(part.split("=")[1]) for part in text.split()[:3]))
            served += 1
            try:
                await trio.sleep(0.3 * (number % 4))
            finally:
                (finish if number % 2 else discard)(pool, connection)

    async with trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(use, number)
    assert worst == 3
    assert 20 < served < 200
    assert counts(pool).startswith("active=0 connecting=0")
    await pool.aclose()


async def test_a_failed_dial_gives_its_slot_back(dialer: PairDialer) -> None:
    pool = Pool(Config(connections_max=1), dialer)
    dialer.refuses = True
    for _ in range(3):
        with pytest.raises(ConnectRefused):
            await pool.acquire(A)
    dialer.refuses = False
    with trio.fail_after(1):
        discard(pool, await pool.acquire(A))
    await pool.aclose()


async def test_closing_ends_waiters_diallers_and_users(dialer: PairDialer) -> None:
    pool = Pool(Config(connections_max=2), dialer)
    held = await pool.acquire(A)
    dialer.gate = trio.Event()
    refused = 0

    async def wants() -> None:
        nonlocal refused
        with pytest.raises(EngineClosed):
            await pool.acquire(A)
        refused += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wants)  # dials
        nursery.start_soon(wants)  # waits for a slot
        await trio.testing.wait_all_tasks_blocked()
        await pool.aclose()
        assert held.phase is Phase.CLOSED
        dialer.gate.set()
        discard(pool, held)
    assert refused == 2
    assert counts(pool) == "active=0 connecting=0 idle=0 opened=1"


def test_decisions() -> None:
    a, b = Route(A), Route(B)
    assert expired([0.0, 5.0, 10.0], 11.0, 5.0) == [0, 1]
    assert candidates([a, b, a], a) == [2, 0]
    assert surplus_of([a, b, a, a], a, 1) == [0, 2]
    assert surplus_of([a, b], a, 8) == []


async def test_a_host_at_its_limit_keeps_nobody_else_waiting(dialer: PairDialer) -> None:
    """The limit is of the host, whatever the port; who waits for it holds no slot that others could use."""
    pool = Pool(Config(connections_max=3, connections_per_host=2), dialer)
    other_port = Origin("http", A.host, 81)
    first, second = await pool.acquire(A), await pool.acquire(other_port)
    late: list[Connection] = []

    async def wait_for(origin: Origin) -> None:
        late.append(await pool.acquire(origin))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait_for, A)
        await trio.testing.wait_all_tasks_blocked()
        assert late == []
        with trio.fail_after(1):
            elsewhere = await pool.acquire(B)
        finish(pool, first)
        await trio.testing.wait_all_tasks_blocked()
        assert late == [first], "one slot of the host became free"
        discard(pool, elsewhere)
        await trio.testing.wait_all_tasks_blocked()
        assert len(late) == 1, "a slot of another host is none of this one's"
        nursery.cancel_scope.cancel()
    discard(pool, late[0])
    discard(pool, second)
    again = [await pool.acquire(A), await pool.acquire(A)]
    for connection in again:
        discard(pool, connection)
    assert counts(pool).startswith("active=0 connecting=0"), "who was cancelled in the line left it"
    await pool.aclose()


async def test_a_connection_that_fails_gives_the_slot_of_its_host_back(dialer: PairDialer) -> None:
    pool = Pool(Config(connections_per_host=1), dialer)
    dialer.refuses = True
    for _ in range(3):
        with pytest.raises(ConnectRefused):
            await pool.acquire(A)
    dialer.refuses = False
    with trio.fail_after(1):
        discard(pool, await pool.acquire(A))
    await pool.aclose()
