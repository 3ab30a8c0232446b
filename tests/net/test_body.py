"""Bodies over real sockets: exact ends, early ends, surplus, chunked variants, stalls, slowed lines, cancellation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio

from engine.config import Config
from engine.errors import ConnectionLost, InvalidRequest, ProtocolViolation, Stalled
from engine.net.client import Client
from engine.net.connection import Exchange
from engine.net.head import Framing
from tests.net.script_server import LAST_CHUNK, End, Step, answer, chunked, serve

PATIENT = Config()  # on a busy machine a pause of a few tenths is nobody's stall
QUICK = Config(idle_timeout_s=0.6)
KIB = 1024
MIB = 1024 * KIB


def pattern(size: int) -> bytes:
    return bytes(range(251)) * (size // 251) + bytes(range(size % 251))


@asynccontextmanager
async def fetched(*steps: Step, config: Config = PATIENT) -> AsyncIterator[tuple[Exchange, Client]]:
    client = Client(config)
    async with serve(lambda _: steps) as server, client.get(server.url()) as exchange:
        yield exchange, client
    await client.aclose()


async def read_all(exchange: Exchange, view_bytes: int = 64 * KIB) -> bytes:
    view = memoryview(bytearray(view_bytes))
    body = bytearray()
    while (got := await exchange.fill(view)) == view_bytes:
        body += view
    return bytes(body + view[:got])


@pytest.mark.parametrize("view_bytes", [1, 7, 100, 101, 4096])
@pytest.mark.parametrize("cut", [0, 1, 50, 99])
async def test_fill_is_full_until_the_body_ends(view_bytes: int, cut: int) -> None:
    body = pattern(100)
    whole = answer(body)
    at = len(whole) - 100 + cut
    async with fetched(whole[:at], 0.01, whole[at:]) as (exchange, client):
        assert exchange.body_left == 100
        assert await read_all(exchange, view_bytes) == body
        assert (exchange.received, exchange.body_left) == (100, 0)
        exchange.release()
        assert repr(client.pool) == "<Pool active=0 connecting=0 idle=1 opened=1>"


async def test_a_large_body_is_received_exactly() -> None:
    body = pattern(9 * MIB + 17)
    async with fetched(answer(body), config=Config()) as (exchange, _):
        assert await read_all(exchange, MIB) == body


@pytest.mark.parametrize("end", [End.CLOSE, End.RESET])
@pytest.mark.parametrize("sent", [0, 1, 99])
async def test_n6_n7_s11_an_early_end_is_connection_lost(end: End, sent: int) -> None:
    async with fetched(answer(pattern(sent), length=100), 0.02, end) as (exchange, client):
        with pytest.raises(ConnectionLost):
            await exchange.fill(memoryview(bytearray(100)))
        exchange.release()
        assert repr(client.pool) == "<Pool active=0 connecting=0 idle=0 opened=1>"


@pytest.mark.parametrize("surplus", [[b"junk"], [0.05, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]])
async def test_s12_s40_surplus_kills_the_connection_and_is_never_body(surplus: Sequence[Step]) -> None:
    async with fetched(answer(b"hello"), *surplus) as (exchange, client):
        assert await read_all(exchange) == b"hello"
        await trio.sleep(0.1)
        exchange.release()
        assert "idle=0" in repr(client.pool)


async def test_n8_an_eof_body_says_so_and_is_not_reused() -> None:
    async with fetched(b"HTTP/1.1 200 OK\r\n\r\nhel", 0.01, b"lo", End.CLOSE) as (exchange, client):
        assert (exchange.framing, exchange.body_left) == (Framing.EOF, None)
        assert await read_all(exchange, 3) == b"hello"
        assert await exchange.fill(memoryview(bytearray(3))) == 0
        exchange.release()
        assert "idle=0" in repr(client.pool)


async def test_an_eof_body_of_expected_length_is_held_to_it() -> None:
    async with fetched(b"HTTP/1.1 200 OK\r\n\r\nhello", End.CLOSE) as (exchange, _):
        exchange.expect(6)
        with pytest.raises(ConnectionLost):
            await exchange.fill(memoryview(bytearray(10)))


@pytest.mark.parametrize("view_bytes", [1, 3, 10, 4096])
@pytest.mark.parametrize("size", [1, 3, 7, 1000])
async def test_chunked_comes_out_exactly_and_is_reused(size: int, view_bytes: int) -> None:
    body = pattern(1000)
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    async with fetched(chunked(*pieces) + LAST_CHUNK) as (exchange, client):
        assert await read_all(exchange, view_bytes) == body
        assert exchange.received == 1000
        exchange.release()
        assert "idle=1" in repr(client.pool)


async def test_chunked_may_come_byte_by_byte() -> None:
    whole = chunked(b"hello", b"world") + b"0;ext=1\r\nTrailer: x\r\n\r\n"
    steps: list[Step] = [step for at in range(len(whole)) for step in (whole[at : at + 1], 0.0005)]
    async with fetched(*steps) as (exchange, _):
        assert await read_all(exchange) == b"helloworld"


CHUNKED_ENDS: dict[str, tuple[list[Step], type[Exception]]] = {
    "N7 no last chunk": ([chunked(b"hello"), End.CLOSE], ConnectionLost),
    "N7 cut in a chunk": ([chunked(b"hello")[:-4], End.CLOSE], ConnectionLost),
    "no end of trailers": ([chunked(b"hello") + b"0\r\n", End.CLOSE], ConnectionLost),
    "not a size": ([chunked() + b"x\r\n"], ProtocolViolation),
    "negative size": ([chunked() + b"-5\r\nhello\r\n"], ProtocolViolation),
    "S25 endless size": ([chunked() + b"F" * 21 + b"\r\n"], ProtocolViolation),
    "bad end of chunk": ([chunked() + b"5\r\nhelloXX5\r\nhello\r\n0\r\n\r\n"], ProtocolViolation),
    "S24 endless extension": ([chunked() + b"5;" + b"x" * 70000], ProtocolViolation),
    "S23 endless trailers": ([chunked(b"hello") + b"0\r\n" + b"A: b\r\n" * 12000], ProtocolViolation),
    "S23 5 KiB of trailers": ([chunked(b"hello") + b"0\r\n" + b"A: b\r\n" * 800 + b"\r\n"], ProtocolViolation),
    "S24 mostly overhead": ([chunked(*[b"x"] * 200_000) + LAST_CHUNK], ProtocolViolation),
    "S24 long extensions": ([chunked() + (b"1;" + b"x" * 16000 + b"\r\nx\r\n") * 100], ProtocolViolation),
    "stall": ([chunked(b"hello"), End.HANG], Stalled),
}


@pytest.mark.parametrize("name", CHUNKED_ENDS)
async def test_chunked_must_end_properly(name: str) -> None:
    steps, error = CHUNKED_ENDS[name]
    async with fetched(*steps, config=QUICK if error is Stalled else PATIENT) as (exchange, client):
        with pytest.raises(error):
            await read_all(exchange)
        exchange.release()
        assert "active=0 connecting=0 idle=0" in repr(client.pool)


async def test_s40_bytes_behind_the_last_chunk_kill_the_connection() -> None:
    async with fetched(chunked(b"hello") + LAST_CHUNK + answer(b"evil")) as (exchange, client):
        assert await read_all(exchange) == b"hello"
        exchange.release()
        assert "idle=0" in repr(client.pool)


@pytest.mark.parametrize(
    ("expected", "error"), [(5, None), (4, ProtocolViolation), (6, ConnectionLost), (0, ProtocolViolation)]
)
async def test_a_chunked_body_is_held_to_the_expected_length(expected: int, error: type[Exception] | None) -> None:
    async with fetched(chunked(b"hello") + LAST_CHUNK) as (exchange, client):
        exchange.expect(expected)
        assert exchange.body_left == expected
        view = memoryview(bytearray(max(expected, 1)))
        if error is None:
            assert await exchange.fill(view) == 5
            exchange.release()
            assert "idle=1" in repr(client.pool)
        else:
            with pytest.raises(error):
                await exchange.fill(view)


async def test_expecting_less_than_came_is_refused() -> None:
    async with fetched(answer(b"hello")) as (exchange, _):
        await read_all(exchange)
        with pytest.raises(InvalidRequest):
            exchange.expect(3)


async def test_n9_silence_is_a_stall_but_a_drip_is_not() -> None:
    drip: list[Step] = [step for byte in b"hello" for step in (0.15, bytes([byte]))]
    async with fetched(answer(length=10), *drip, End.HANG, config=QUICK) as (exchange, _):
        view = memoryview(bytearray(5))
        assert await exchange.fill(view) == 5  # 0.75 s in all, more than the idle timeout
        began = trio.current_time()
        with pytest.raises(Stalled):
            await exchange.fill(view)
        assert 0.5 < trio.current_time() - began < 10.0
        assert exchange.received == 5


async def test_low_water_on_a_line_that_slows_down_is_neither_stall_nor_deadlock() -> None:
    config = Config(idle_timeout_s=0.6, receive_low_water_bytes=256 * KIB)
    body = pattern(8 * MIB)
    whole = answer(body)
    fast, rest = whole[: 4 * MIB], whole[4 * MIB :]
    slow: list[Step] = [s for at in range(0, 20 * KIB, KIB) for s in (0.05, rest[at : at + KIB])]
    async with fetched(fast, *slow, rest[20 * KIB :], config=config) as (exchange, client):
        assert await read_all(exchange, MIB) == body
        exchange.release()
        assert "idle=1" in repr(client.pool)


async def test_low_water_does_not_hide_a_stall() -> None:
    config = Config(idle_timeout_s=0.4)
    async with fetched(answer(pattern(4 * MIB), length=64 * MIB), End.HANG, config=config) as (exchange, _):
        with pytest.raises(Stalled):
            await read_all(exchange, MIB)
        assert exchange.received == 4 * MIB


async def test_a_fast_body_needs_few_receives() -> None:
    body = pattern(32 * MIB)
    async with fetched(answer(body), config=Config()) as (exchange, _):
        assert len(await read_all(exchange, MIB)) == 32 * MIB
        assert exchange.receive_calls < 32 * 16


async def test_c18_a_cancelled_fill_leaves_nothing_behind() -> None:
    async with fetched(answer(b"hel", length=5), End.HANG, config=Config()) as (exchange, client):
        with trio.move_on_after(0.05) as scope:
            await exchange.fill(memoryview(bytearray(5)))
        assert scope.cancelled_caught
        assert exchange.received == 3
        exchange.release()
        exchange.release()
        assert repr(client.pool) == "<Pool active=0 connecting=0 idle=0 opened=1>"


async def test_a_body_that_never_waits_still_lets_others_run_and_can_be_cancelled() -> None:
    config = Config(receive_turn_bytes=64 * KIB)
    async with fetched(answer(pattern(MIB)), config=config) as (exchange, _):
        await trio.sleep(0.2)  # all of it is in the socket's buffer, as far as it fits
        with trio.CancelScope() as scope:
            scope.cancel()
            await exchange.fill(memoryview(bytearray(KIB)))
        assert scope.cancelled_caught


async def test_aclose_is_a_release() -> None:
    async with fetched(answer(b"hello")) as (exchange, client):
        await read_all(exchange)
        await exchange.aclose()
        assert "idle=1" in repr(client.pool)
