"""Ways through the strict HTTP layer that no other test takes."""

from __future__ import annotations

import hashlib

import h11
import pytest
import trio

from engine.config import Config
from engine.errors import ConnectionLost, CorruptBody, InvalidRequest, ProtocolViolation
from engine.net.body_digest import BodyDigest
from engine.net.client import Client
from engine.net.connection import Connection
from engine.net.head import Framing, Head, HeadReader, scan_head
from engine.net.pacing import Pace, Pacing
from tests.fire.fuzz_http import codec
from tests.net.script_server import End, answer, chunked, serve

CONFIG = Config(idle_timeout_s=1.0, first_byte_timeout_s=1.0)


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (b"HTTP/1.1 103 Hints\r\nContent-Length: 5\r\n\r\n", "an interim answer declares a body"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775807\r\n\r\n", "is not a size"),
        (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "is not accepted"),
    ],
)
def test_s22_s27_s15_heads_that_cannot_be(block: bytes, words: str) -> None:
    with pytest.raises(ProtocolViolation, match=words):
        scan_head(block, CONFIG)


@pytest.mark.parametrize("field", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
def test_s38_a_204_that_declares_a_body_ends_its_connection(field: bytes) -> None:
    head = scan_head(b"HTTP/1.1 204 No\r\n%b\r\n\r\n" % field, CONFIG)

    assert (head.framing, head.keep_alive) == (Framing.EOF, False)


def test_s19_protocols_are_not_switched() -> None:
    with pytest.raises(ProtocolViolation):
        HeadReader(CONFIG, codec()).feed(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n")


class _Two(h11.Connection):
    """A parser that reads another answer than ours."""

    def __init__(self, status: int) -> None:
        super().__init__(h11.CLIENT)
        self._status = status

    def receive_data(self, data: bytes) -> None:
        """It knows already."""

    def next_event(self) -> h11.Event:
        return h11.Response(status_code=self._status, headers=[])


@pytest.mark.parametrize(("ours", "theirs"), [(200, 404), (101, 200)])
def test_s13_a_head_that_two_parsers_read_differently_is_refused(ours: int, theirs: int) -> None:
    with pytest.raises(ProtocolViolation, match=r"in two ways|switched protocols"):
        HeadReader(CONFIG, _Two(theirs)).feed(b"HTTP/1.1 %d X\r\n\r\n" % ours)


@pytest.mark.parametrize("end", [b"0\r\nX: 1\r\n\n", b"0\r\nX: 1\n\r\n", b"0\r\n\n"])
async def test_s16_a_bare_lf_ends_no_body(end: bytes) -> None:
    async with serve(lambda _: [chunked(b"hello") + end, End.CLOSE]) as server:
        client = Client(CONFIG)
        async with client.get(server.url()) as exchange:
            with pytest.raises((ProtocolViolation, ConnectionLost)):
                while await exchange.fill(memoryview(bytearray(64))) == 64:
                    pass
        await client.aclose()


async def test_s23_trailers_are_bounded() -> None:
    long = b"0\r\nX: " + b"a" * 5000 + b"\r\n\r\n"
    async with serve(lambda _: [chunked(b"hello") + long]) as server:
        client = Client(CONFIG)
        async with client.get(server.url()) as exchange:
            with pytest.raises(ProtocolViolation, match="trailers"):
                while await exchange.fill(memoryview(bytearray(64))) == 64:
                    pass
        await client.aclose()


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("view_bytes", [2, 5, 64])
async def test_a_body_is_compared_with_what_its_head_said(right: bool, view_bytes: int) -> None:
    stated = hashlib.sha256(b"hello" if right else b"other").hexdigest()
    async with serve(lambda _: [answer(b"hello")]) as server:
        client = Client(CONFIG)
        async with client.get(server.url()) as exchange:
            exchange.digest = BodyDigest("sha256", stated, "http://a.example/")
            view = memoryview(bytearray(view_bytes))
            body = b""

            async def read() -> None:
                nonlocal body
                while (got := await exchange.fill(view)) or exchange.body_left:
                    body += view[:got]

            if right:
                await read()
                assert body == b"hello"
            else:
                with pytest.raises(CorruptBody):
                    await read()
        await client.aclose()


async def test_what_came_already_is_not_expected_to_be_less() -> None:
    async with serve(lambda _: [answer(b"hello")]) as server:
        client = Client(CONFIG)
        async with client.get(server.url()) as exchange:
            assert await exchange.fill(memoryview(bytearray(5))) == 5
            with pytest.raises(InvalidRequest, match="5 bytes came already"):
                exchange.expect(3)
        await client.aclose()


class _Settling:
    """A receiver whose line is lost when it is made fit again."""

    pace: Pace | None = None

    def settle(self) -> None:
        raise ConnectionLost("the line is gone")


async def test_a_line_that_is_lost_between_two_requests_is_not_kept() -> None:
    async with serve(lambda _: [answer(b"hello")]) as server:
        client = Client(CONFIG)
        async with client.get(server.url()) as exchange:
            assert await exchange.fill(memoryview(bytearray(6))) == 5
            connection: Connection = exchange._connection
            assert connection.tcp_facts() is not None
            receiver, connection._receiver = connection._receiver, None
            assert connection._link_settled()
            connection.set_pace(Pace(Pacing(), None))
            connection.has_spare()
            connection._receiver = _Settling()  # type: ignore[assignment]
            assert not connection._link_settled()
            connection._receiver = receiver
        await client.aclose()
    await trio.lowlevel.checkpoint()


def test_a_head_shows_none_of_its_fields() -> None:
    head = Head(302, (("location", "http://h/?token=secret"),), Framing.LENGTH, 5, keep_alive=True)

    assert repr(head) == "Head(302, length, length=5, keep_alive=True)"
