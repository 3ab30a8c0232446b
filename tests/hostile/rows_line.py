"""N1-N23: the line, the names and the machine itself."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from engine.net.addresses import AddressPolicy
from engine.net.trust import Trust
from tests.hostile.answers import PAYLOAD, End, Play, Step, Truth, told
from tests.hostile.resolver import FOREIGN, LOCAL, named
from tests.hostile.row import FROM_THE_START, KIB, Row
from tests.hostile.rows_answers import moved
from tests.hostile.rows_framing import CL


@contextmanager
def refused(base: str) -> Iterator[str]:
    """A port at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{probe.getsockname()[1]}"


@contextmanager
def black_hole(base: str) -> Iterator[str]:
    """A port whose queue of connections is full: the kernel drops what comes."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for taker in (first, second):
            taker.setblocking(False)
            taker.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


class Exhausted(trio.abc.SocketFactory):
    """The first sockets cannot be had."""

    def __init__(self, number: int, times: int) -> None:
        self._number = number
        self._left = times

    def socket(self, family=socket.AF_INET, type=socket.SOCK_STREAM, proto=0):  # type: ignore[no-untyped-def]  # noqa: A002
        if self._left:
            self._left -= 1
            raise OSError(self._number, os.strerror(self._number))
        return trio.socket.from_stdlib_socket(socket.socket(family, type, proto))


def short_of(number: int, times: int):  # type: ignore[no-untyped-def]
    """This side is out of something at first."""

    @contextmanager
    def line(base: str) -> Iterator[str]:
        before = trio.socket.set_custom_socket_factory(Exhausted(number, times))
        try:
            yield base
        finally:
            trio.socket.set_custom_socket_factory(before)

    return line


def ended(how: End, sent: int = 1500) -> Play:
    """Every range breaks off behind one chunk and a half; the next carries on."""
    return lambda t: [told(t, body=t.body[:sent], length=len(t.body)), *((how,) if len(t.body) > sent else ())]


def always_ended(how: End) -> Play:
    """Every answer breaks off before its first chunk is whole."""
    return lambda t: [told(t, body=t.body[: min(500, len(t.body) - 1)], length=len(t.body)), how]


def coded_end(truth: Truth) -> list[Step]:
    return [told(truth, "Transfer-Encoding: chunked", drop=CL, body=b"1f4\r\n" + truth.body[:500] + b"\r\n"), End.CLOSE]


def until_the_end(truth: Truth) -> list[Step]:
    return [told(truth, whole=True, drop=CL), End.CLOSE]


def dripped(truth: Truth) -> Iterator[Step]:
    """As slow as a line can be without being silent."""
    yield told(truth, body=b"", length=len(truth.body))
    for byte in truth.body:
        yield bytes((byte,))
        yield 5.0


def stop_and_go(truth: Truth) -> Iterator[Step]:
    """What loss, reordering and doubles leave above TCP: nothing for a while, then much at once."""
    whole = told(truth)
    rng = random.Random(truth.start)
    while whole:
        size = rng.choice((1, 7, 536, 1460, 40 * 1460, 40 * 1460))
        yield whole[:size]
        yield rng.choice((0.0, 0.2, 1.0, 3.0, 13.0))
        whole = whole[size:]


def swallowed(truth: Truth) -> list[Step]:
    """What an MTU black hole looks like from above TCP."""
    return [told(truth, body=b"", length=len(truth.body)), End.HANG]


def second_dies(truth: Truth) -> list[Step]:
    """A connection serves one request, and closes when the next has come."""
    return [told(truth)] if truth.asked.number == 1 else [End.CLOSE]


def first_dies(truth: Truth) -> list[Step]:
    return [End.CLOSE]


def bit_flip(truth: Truth) -> list[Step]:
    body = bytearray(truth.body)
    body[len(body) // 2] ^= 0x10
    return [told(truth, body=bytes(body))]


PORTAL_ANSWERS = 3
PAGE = b"<html>Please accept our terms</html>"


def page(code: int) -> bytes:
    head = f"HTTP/1.1 {code} So\r\nContent-Type: text/html\r\nContent-Length: {len(PAGE)}\r\n\r\n"
    return head.encode() + PAGE


def portal(code: int) -> Play:
    """Somebody's terms in place of the first answers."""
    return lambda t: [page(code) if t.serial <= PORTAL_ANSWERS else told(t)]


def away_to_portal(truth: Truth) -> list[Step]:
    if truth.asked.target.startswith("/login"):
        return [page(200)]
    if truth.serial > 2 * PORTAL_ANSWERS:
        return [told(truth)]
    port = (truth.asked.get("host") or "").rpartition(":")[2]
    return [*moved(f"http://127.0.0.1:{port}/login")(truth)]


LINES = [
    Row(
        id="N1",
        name="no such name",
        line=named(FOREIGN, error=socket.EAI_NONAME),
        code="dns",
        attempts_max=4,
        seconds=60,
    ),
    *(
        Row(
            id="N2",
            name=f"a name for {address}",
            line=named(FOREIGN, address),
            code="address_refused",
            attempts_max=1,
            seconds=60,
        )
        for address in (
            "127.0.0.1",
            "10.0.0.1",
            "169.254.169.254",
            "::1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
        )
    ),
    Row(id="N3", name="refused", line=refused, code="refused", attempts_max=4, seconds=60),
    Row(id="N4", name="no answer to SYN", line=black_hole, code="timeout", seconds=600, passes=FROM_THE_START),
    Row(id="N5", name="IPv6 is broken", line=named(LOCAL, "::1", "127.0.0.1"), killed=False),
    Row(id="N6", name="reset in the middle", killed=False, play=ended(End.RESET), seconds=900, attempts_max=25),
    Row(id="N6", name="always reset before a chunk", play=always_ended(End.RESET), code="connection_lost", seconds=400),
    Row(id="N7", name="closed in the middle", killed=False, play=ended(End.CLOSE), seconds=900, attempts_max=25),
    Row(
        id="N7", name="always closed before a chunk", play=always_ended(End.CLOSE), code="connection_lost", seconds=400
    ),
    Row(id="N7", name="closed between chunks of the coding", play=coded_end, code="connection_lost", seconds=400),
    Row(id="N7", name="closed before an answer", play=lambda _: [End.CLOSE], code="connection_lost", seconds=400),
    Row(
        id="N7",
        name="closed in the head",
        play=lambda t: [told(t)[:50], End.CLOSE],
        code="connection_lost",
        seconds=400,
    ),
    Row(
        id="N8",
        name="the end of the body is the connection's",
        play=until_the_end,
        code="unverifiable_length",
        attempts_max=1,
        passes=FROM_THE_START,
    ),
    Row(id="N9", name="silence", play=always_ended(End.HANG), code="stalled", seconds=900),
    Row(id="N9", name="silence before an answer", play=lambda _: [End.HANG], code="stalled", seconds=900),
    Row(id="N9", name="silence in the head", play=lambda t: [told(t)[:50], End.HANG], code="stalled", seconds=900),
    Row(
        id="N10",
        name="a byte every five seconds",
        play=dripped,
        code="stalled",
        seconds=4000,
        passes=FROM_THE_START,
        config={"chunk_bytes": 16 * KIB, "small_chunk_bytes": 16 * KIB, "growth_look_interval_s": 5.0},
    ),
    Row(id="N13", name="stop and go", play=stop_and_go, killed=False, seconds=900, attempts_max=1),
    Row(id="N14", name="the head passes, full packets never do", play=swallowed, code="stalled", seconds=900),
    Row(
        id="N15",
        name="a page in place of every answer",
        play=lambda _: [page(200)],
        code="wrong_type",
        killed=False,
        attempts_max=1,
    ),
    Row(id="N15", name="511 at first", play=portal(511), seconds=400, killed=False, attempts_max=10),
    Row(
        id="N15",
        name="away to a portal at first",
        play=away_to_portal,
        seconds=400,
        killed=False,
        attempts_max=10,
        line=named(FOREIGN, "127.0.0.1"),
        trust=Trust(addresses=AddressPolicy(("127.0.0.0/8",))),
    ),
    Row(
        id="N15",
        name="away to a portal in the private network",
        play=moved("http://10.255.255.1/login"),
        code="address_refused",
        attempts_max=1,
        killed=False,
    ),
    Row(
        id="N17",
        name="TLS cut, length known",
        play=always_ended(End.CLOSE),
        code="connection_lost",
        tls=True,
        seconds=400,
    ),
    Row(
        id="N17",
        name="TLS cut, length expected",
        play=lambda t: [told(t, whole=True, drop=CL, body=t.payload[:9000]), End.CLOSE],
        code="connection_lost",
        tls=True,
        seconds=400,
        passes=FROM_THE_START,
        request={"expected_length": 20 * 1024 + 7},
    ),
    Row(id="N17", name="TLS cut between chunks", play=coded_end, code="connection_lost", tls=True, seconds=400),
    Row(
        id="N17",
        name="TLS ends politely in the middle",
        play=always_ended(End.GOODBYE),
        code="connection_lost",
        tls=True,
        seconds=400,
    ),
    Row(id="N19", name="a connection dies when used again", play=second_dies, killed=False, attempts_max=1),
    Row(id="N19", name="a new connection dies unanswered", play=first_dies, code="connection_lost", seconds=400),
    Row(id="N21", name="no descriptor for a while", line=short_of(errno.EMFILE, 3), killed=False, seconds=200),
    Row(id="N21", name="none in the system", line=short_of(errno.ENFILE, 3), killed=False, seconds=200),
    Row(id="N22", name="no port for a while", line=short_of(errno.EADDRNOTAVAIL, 3), killed=False, seconds=200),
    Row(id="N22", name="no buffer for a while", line=short_of(errno.ENOBUFS, 3), killed=False, seconds=200),
    Row(
        id="N23",
        name="a flipped bit, a digest to tell",
        play=bit_flip,
        code="integrity",
        request={"expect": {"sha256": hashlib.sha256(PAYLOAD).hexdigest()}},
        killed=False,
        passes=FROM_THE_START,
        one_version=False,
        attempts_max=4,
    ),
]
