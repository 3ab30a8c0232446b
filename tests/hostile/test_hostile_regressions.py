"""What the hostile table found, as small as it gets."""

from __future__ import annotations

import pytest
import trio

from engine.config import Config
from engine.errors import ProtocolViolation, Stalled
from engine.net.client import Client
from engine.net.head import Framing, scan_head
from engine.net.receiver import Receiver
from tests.net.script_server import LAST_CHUNK, Step, answer, chunked, serve

CONFIG = Config(idle_timeout_s=30.0)
DRIP_S = 20.0  # shorter than the idle timeout: each piece alone would be in time


class Dripping:
    """A link that is ready again and again, and has ``piece`` or nothing at all: a TLS record that never is whole."""

    buffer_bytes = None

    def __init__(self, piece: bytes = b"") -> None:
        self._piece = piece
        self._ready = False

    def receive_nowait(self, view: memoryview) -> int | None:
        if not self._ready or not self._piece:
            return None
        self._ready = False
        view[: len(self._piece)] = self._piece
        return len(self._piece)

    async def wait_ready(self) -> None:
        await trio.sleep(DRIP_S)
        self._ready = True


async def test_s24_n9_a_line_that_wakes_without_a_byte_is_stalled(autojump_clock: trio.testing.MockClock) -> None:
    """Found: each wake-up began the idle timeout anew, so that pieces of one TLS record held a download for days."""
    receiver = Receiver(Dripping(), CONFIG)  # type: ignore[arg-type]  # as much of a link as it uses
    began = trio.current_time()
    with pytest.raises(Stalled):
        await receiver.fill(memoryview(bytearray(9)), None)
    assert trio.current_time() - began == pytest.approx(CONFIG.idle_timeout_s)


async def test_s24_n9_what_is_no_body_is_no_progress(autojump_clock: trio.testing.MockClock) -> None:
    """Found: a chunk's extension that drips for ever, or its trailers, counted as a line that is alive."""
    receiver = Receiver(Dripping(b"a"), CONFIG)  # type: ignore[arg-type]
    with pytest.raises(Stalled):
        for _ in range(3):
            assert await receiver.receive_some(memoryview(bytearray(9))) == 1
    receiver.progressed(1)
    assert await receiver.receive_some(memoryview(bytearray(9))) == 1


async def test_n10_a_body_that_drips_is_alive(autojump_clock: trio.testing.MockClock) -> None:
    receiver = Receiver(Dripping(b"a"), CONFIG)  # type: ignore[arg-type]
    assert await receiver.fill(memoryview(bytearray(9)), 9) == 9


ENDS: list[tuple[str, bytes, bool]] = [
    ("CRLF", LAST_CHUNK, True),
    ("trailers", b"0\r\nX-A: b\r\n\r\n", True),
    ("bare LF", b"0\r\n\n", False),
    ("bare LF behind a trailer", b"0\r\nX-A: b\n\r\n", False),
    ("two bare LF behind a trailer", b"0\r\nX-A: b\n\n", False),
    ("bare LF, and what would be trailers to others", b"0\r\n\nX-A: b\r\n\r\n", False),
]


@pytest.mark.parametrize("cut", [0, 1, 2, 3])
@pytest.mark.parametrize(("end", "good"), [end[1:] for end in ENDS], ids=[end[0] for end in ENDS])
async def test_s23_a_chunked_body_ends_with_crlf_only(end: bytes, good: bool, cut: int) -> None:
    """Found: h11 ends trailers at a bare LF too, so that where the next answer begins was a matter of opinion."""
    whole = chunked(b"hello") + end
    at = len(whole) - cut
    steps: list[Step] = [whole[:at], 0.02, whole[at:]] if cut else [whole]
    client = Client(Config())
    async with serve(lambda _: steps) as server, client.get(server.url()) as exchange:
        view = memoryview(bytearray(9))
        if good:
            assert bytes(view[: await exchange.fill(view)]) == b"hello"
        else:
            with pytest.raises(ProtocolViolation):
                await exchange.fill(view)
    assert ("idle=1" in repr(client.pool)) is good
    await client.aclose()


@pytest.mark.parametrize("field", ["Content-Length: 5", "Content-Length: 0", "Transfer-Encoding: chunked"])
def test_s22_an_interim_answer_has_no_body(field: str) -> None:
    """Found: RFC 9110 forbids both; who believes them reads the next head as a body."""
    with pytest.raises(ProtocolViolation):
        scan_head(f"HTTP/1.1 103 Hints\r\n{field}\r\n\r\n".encode(), Config())


@pytest.mark.parametrize("field", ["Content-Length: 5", "Transfer-Encoding: chunked"])
def test_s38_s40_a_body_where_none_may_be_ends_the_connection(field: str) -> None:
    """Found: after a 204 the connection was used again although another parser would still wait for that body. (Of a
    304 nobody doubts that it has none, and it may state the length that a 200 would have.)"""
    head = scan_head(f"HTTP/1.1 204 So\r\n{field}\r\n\r\n".encode(), Config())
    assert (head.framing, head.keep_alive) == (Framing.EOF, False)
    for line in ("204 So\r\n", "204 So\r\nContent-Length: 0\r\n", "304 So\r\nContent-Length: 5\r\n"):
        plain = scan_head(f"HTTP/1.1 {line}\r\n".encode(), Config())
        assert (plain.framing, plain.keep_alive) == (Framing.NONE, True)


async def test_s40_of_two_answers_in_one_piece_the_second_is_nobodys() -> None:
    client = Client(Config())
    async with serve(lambda asked: [answer(b"one") + (answer(b"two") if asked.connection == 1 else b"")]) as server:
        for _ in range(2):
            async with client.get(server.url()) as exchange:
                view = memoryview(bytearray(9))
                assert bytes(view[: await exchange.fill(view)]) == b"one"
        assert server.connections == 2
    await client.aclose()
