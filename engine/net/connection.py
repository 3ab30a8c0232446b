"""One HTTP/1.1 connection: one exchange at a time, reused only when the last one ended without a doubt."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from enum import IntEnum

import h11
import trio

from engine.config import Config
from engine.errors import ConnectionLost, InvalidRequest, ProtocolViolation, Stalled
from engine.net.body import Body, ChunkedBody, EofBody, LengthBody
from engine.net.body_digest import BodyDigest
from engine.net.head import Framing, Head, HeadReader
from engine.net.link import Link
from engine.net.pacing import Pace
from engine.net.proxy import Proxy
from engine.net.receiver import Receiver
from engine.net.tcp import TcpFacts
from engine.net.url import Url


class Phase(IntEnum):
    """Where a connection is in its life."""

    NEW = 0
    ACTIVE = 1
    IDLE = 2
    CLOSED = 3


class Connection:
    """Owns ``link``. ``exchanges`` counts the requests it carried."""

    def __init__(self, link: Link, config: Config) -> None:
        self.phase = Phase.NEW
        self.exchanges = 0
        self.idle_since = 0.0
        self.answered = False
        self._link = link
        self._config = config
        self._receiver: Receiver | None = None
        self._unasked = 0

    @property
    def reused(self) -> bool:
        """Whether it carried an exchange before the present one."""
        return self.exchanges > 1

    @property
    def receive_calls(self) -> int:
        """Receive system calls so far, for measurements."""
        return self._link.receive_calls

    @property
    def proxy(self) -> Proxy | None:
        """The proxy that passes the requests on, and whose own answers may come back."""
        return self._link.proxy

    async def get(self, url: Url, fields: Sequence[tuple[str, str]]) -> tuple[Head, Body]:
        """Send ``GET url`` with ``fields`` (Host is added) and read the head of the answer.

        Raises Stalled when the head is not complete within the first-byte timeout, ConnectionLost, ProtocolViolation.
        ``answered`` then tells whether any byte of an answer came."""
        codec = h11.Connection(h11.CLIENT, max_incomplete_event_size=self._config.head_bytes_max)
        request = _request_bytes(codec, url, fields, self._link.proxy)
        self.phase = Phase.ACTIVE
        self.answered = False
        self.exchanges += 1
        with trio.move_on_after(self._config.first_byte_timeout_s):
            with contextlib.suppress(ConnectionLost):  # a server may answer and close before it read all (S43)
                await self._link.send_all(request)
            head, leftover = await self._read_head(HeadReader(self._config, codec))
            return head, self._body(head, codec, leftover)
        raise Stalled(f"no answer within {self._config.first_byte_timeout_s:g} s")

    def settle(self, head: Head, body: Body) -> bool:
        """After the exchange: go IDLE when another may follow (True), else close (False)."""
        fit = (
            self.phase is Phase.ACTIVE
            and head.keep_alive
            and body.clean
            and self._link_settled()
            and not self._link.readable_now()
        )
        if not fit:
            self.close()
            return False
        self.phase = Phase.IDLE
        self.idle_since = trio.current_time()
        return True

    def usable(self) -> bool:
        """Whether an idle connection is still silent; anything to read now is its end or a stray answer (S39)."""
        return self.phase is Phase.IDLE and not self._link.readable_now()

    def close(self) -> None:
        """Close at once."""
        self.phase = Phase.CLOSED
        self._link.close()

    async def _read_head(self, reader: HeadReader) -> tuple[Head, bytes]:
        view = memoryview(bytearray(self._config.head_feed_bytes))
        while True:
            count = await self._link.receive_into(view)
            if count == 0:
                raise ConnectionLost("the server closed the connection before its answer was complete")
            self.answered = True
            head = reader.feed(view[:count])
            if head is not None:
                return head, reader.leftover
            await trio.lowlevel.checkpoint()  # records of a byte each are there without a wait

    def tcp_facts(self) -> TcpFacts | None:
        """What the kernel tells of its line."""
        return self._link.tcp_facts()

    def set_pace(self, pace: Pace) -> None:
        """Receive the present body under these caps; what came with its head counts too."""
        if self._receiver is not None:
            self._receiver.pace = pace
        pace.owe(self._unasked)

    def has_spare(self) -> None:
        """The present body could be had from elsewhere."""
        if self._receiver is not None:
            self._receiver.drip.has_spare()

    def _body(self, head: Head, codec: h11.Connection, leftover: bytes) -> Body:
        self._unasked = len(leftover)
        self._receiver = receiver = Receiver(self._link, self._config)
        if head.framing is Framing.CHUNKED:
            return ChunkedBody(receiver, codec, leftover, self._config)
        if head.framing is Framing.EOF:
            return EofBody(receiver, leftover)
        return LengthBody(receiver, head.length or 0, leftover)

    def _link_settled(self) -> bool:
        try:
            if self._receiver is not None:
                self._receiver.settle()
        except ConnectionLost:
            return False
        return True


class Exchange:
    """One answer: its head, then its body through :meth:`fill`. ``url`` is where it came from in the end;
    ``permanent_url`` the last URL reached by permanent redirects only, or None; ``sent_fields`` are the caller's that
    were still sent there, ``named`` as for :meth:`Client.open`. ``digest`` checks the body as it is
    filled; ``broken``: it was lost on its way, or makes no sense. Release it, or close it, exactly when done; both may
    be called again, and at any time."""

    def __init__(
        self,
        connection: Connection,
        head: Head,
        body: Body,
        url: Url,
        done: Callable[[Connection, bool], None],
    ) -> None:
        self.head = head
        self.url = url
        self.permanent_url: Url | None = None
        self.redirected = False
        self.sent_fields: tuple[tuple[str, str], ...] = ()
        self.named = True
        self.digest: BodyDigest | None = None
        self.broken = False
        self._connection = connection
        self._body = body
        self._done: Callable[[Connection, bool], None] | None = done
        self._expected: int | None = None

    @property
    def framing(self) -> Framing:
        """How the body's end is known; with EOF a short fill proves nothing."""
        return self.head.framing

    @property
    def received(self) -> int:
        """Body bytes so far."""
        return self._body.received

    @property
    def body_left(self) -> int | None:
        """Body bytes still to come, None when unknown."""
        if self._expected is not None:
            return self._expected - self.received
        return self._body.left

    @property
    def receive_calls(self) -> int:
        """Receive system calls of the connection so far, for measurements."""
        return self._connection.receive_calls

    def tcp_facts(self) -> TcpFacts | None:
        """What the kernel tells of the line; None when nothing, or when it was given back."""
        return None if self._done is None else self._connection.tcp_facts()

    def set_pace(self, pace: Pace) -> None:
        """Receive the body under these caps."""
        self._connection.set_pace(pace)

    def has_spare(self) -> None:
        """Another source could take over: the body need not be waited for as patiently."""
        self._connection.has_spare()

    def expect(self, length: int) -> None:
        """Hold a body of unstated length to ``length`` bytes: fewer is ConnectionLost, more a ProtocolViolation."""
        if length < self.received:
            raise InvalidRequest(f"{self.received} bytes came already, {length} were to be expected")
        self._expected = length

    async def fill(self, view: memoryview) -> int:
        """Fill ``view`` with body bytes and return how many; fewer than asked only when the body properly ended.

        Raises ConnectionLost (ended early), Stalled, ProtocolViolation, CorruptBody. After an error or a cancellation
        what is in the buffer is lost, and the exchange can only be released."""
        await trio.lowlevel.checkpoint_if_cancelled()  # bytes that need no waiting must not hide a cancellation
        try:
            if self.digest is not None:
                return await self._fill_checked(view, self.digest)
            return await self._fill_plain(view)
        except (ConnectionLost, ProtocolViolation):
            self.broken = True
            raise

    async def _fill_plain(self, view: memoryview) -> int:
        if self._expected is None:
            return await self._body.fill(view)
        left = self._expected - self.received
        wanted = min(len(view), left)
        with view[:wanted] as part:
            got = await self._body.fill(part)
        if got < wanted:
            raise ConnectionLost(f"the body ended after {self.received} of {self._expected} bytes")
        if got == left and self.framing is Framing.CHUNKED and await self._body.fill(memoryview(bytearray(1))):
            raise ProtocolViolation(f"the body goes on after the {self._expected} bytes it should have")
        return got

    async def _fill_checked(self, view: memoryview, digest: BodyDigest) -> int:
        self.digest = None
        got = await self._fill_plain(view)
        self.digest = digest
        with view[:got] as part:
            await digest.update(part)
        if got < len(view) or self.body_left == 0:
            self.digest = None
            digest.finish()
        return got

    def release(self) -> None:
        """Give the connection back for reuse when the body ended exactly, else close it. Never waits."""
        done, self._done = self._done, None
        if done is not None:
            done(self._connection, self._connection.settle(self.head, self._body))

    async def aclose(self) -> None:
        """:meth:`release`, as a checkpoint."""
        self.release()
        await trio.lowlevel.checkpoint()


def _request_bytes(
    codec: h11.Connection, url: Url, fields: Sequence[tuple[str, str]], proxy: Proxy | None = None
) -> bytes:
    """The request in bytes, made and checked by h11; anything it refuses could never be sent (M17). A ``proxy`` gets
    the whole URL and its own fields with it."""
    target, own = (url.target, ()) if proxy is None else (str(url), proxy.fields)
    try:
        request = h11.Request(method="GET", target=target, headers=[("Host", url.host_header), *fields, *own])
        return (codec.send(request) or b"") + (codec.send(h11.EndOfMessage()) or b"")
    except (h11.LocalProtocolError, UnicodeError) as error:
        raise InvalidRequest(f"the request cannot be sent: {str(error)[:80]}") from error
