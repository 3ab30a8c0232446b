"""The three ways a body ends, behind one face."""

from __future__ import annotations

from typing import Protocol

import h11
import trio

from engine.config import Config
from engine.errors import ConnectionLost, ProtocolViolation
from engine.net.receiver import Receiver

_SCRATCH_BYTES = 64 * 1024
# Chunk headers may cost a tenth of what they carry; below this much it does not matter (S24).
OVERHEAD_FREE_BYTES = 1024 * 1024
OVERHEAD_SHARE = 10
# Tiny chunks cost far more time than bytes, so chunks are counted too before others get their turn.
_EVENTS_PER_TURN = 256


class Body(Protocol):
    """Body bytes into the caller's buffer."""

    @property
    def received(self) -> int:
        """Body bytes so far."""

    @property
    def left(self) -> int | None:
        """Bytes still to come, None when nobody knows."""

    @property
    def clean(self) -> bool:
        """Whether the body ended exactly and nothing came behind it."""

    async def fill(self, view: memoryview) -> int:
        """Fill ``view``; fewer bytes only where the body properly ended."""


class LengthBody:
    """``length`` bytes, of which ``leftover`` came with the head. Goes past h11, straight into the caller's buffer."""

    def __init__(self, receiver: Receiver, length: int, leftover: bytes) -> None:
        self._receiver = receiver
        self._leftover = memoryview(leftover)[:length]
        self._surplus = len(leftover) > length
        self._length = length
        self._copied = 0

    @property
    def received(self) -> int:
        return self._copied + self._receiver.received

    @property
    def left(self) -> int:
        return self._length - self.received

    @property
    def clean(self) -> bool:
        return self.left == 0 and not self._surplus

    async def fill(self, view: memoryview) -> int:
        wanted = min(len(view), self.left)
        got = min(wanted, len(self._leftover))
        if got:
            view[:got] = self._leftover[:got]
            self._leftover = self._leftover[got:]
            self._copied += got
        if got < wanted:
            with view[got:wanted] as rest:  # released at once: an error's traceback must not keep the caller's buffer
                got += await self._receiver.fill(rest, self.left)
            if got < wanted:
                raise ConnectionLost(f"the body ended after {self.received} of {self._length} bytes")
        return got


class EofBody:
    """Everything until the connection ends; whether that is all, only somebody else can tell (N8)."""

    left = None
    clean = False

    def __init__(self, receiver: Receiver, leftover: bytes) -> None:
        self._receiver = receiver
        self._leftover = memoryview(leftover)
        self._copied = 0
        self._ended = False

    @property
    def received(self) -> int:
        return self._copied + self._receiver.received

    async def fill(self, view: memoryview) -> int:
        got = min(len(view), len(self._leftover))
        if got:
            view[:got] = self._leftover[:got]
            self._leftover = self._leftover[got:]
            self._copied += got
        if got < len(view) and not self._ended:
            wanted = len(view)
            with view[got:] as rest:
                got += await self._receiver.fill(rest, None)
            self._ended = got < wanted
        return got


class ChunkedBody:
    """The chunked coding, read by h11, bounded in its overhead and trailers (S23, S24)."""

    left = None

    def __init__(self, receiver: Receiver, codec: h11.Connection, leftover: bytes, config: Config) -> None:
        self._receiver = receiver
        self._codec = codec
        self._config = config
        self._scratch: bytearray | None = None
        self._data = memoryview(b"")
        self._fed = 0
        self._decoded = 0
        self._ended = False
        self._handed = 0
        self._events = 0
        self._piece = self._before = b""
        if leftover:
            self._feed(leftover)

    @property
    def received(self) -> int:
        return self._handed

    @property
    def clean(self) -> bool:
        return self._ended and not self._data and not self._codec.trailing_data[0]

    async def fill(self, view: memoryview) -> int:
        got = 0
        while got < len(view):
            if not self._data and (self._ended or not await self._next_data()):
                break
            count = min(len(view) - got, len(self._data))
            view[got : got + count] = self._data[:count]
            self._data = self._data[count:]
            self._handed += count
            got += count
        return got

    async def _next_data(self) -> bool:
        """Decode until there is data (True) or the body ended (False)."""
        while True:
            self._events += 1
            if self._events % _EVENTS_PER_TURN == 0:
                await trio.lowlevel.checkpoint()
            try:
                event = self._codec.next_event()
            except h11.RemoteProtocolError as error:
                raise ProtocolViolation(f"the chunked body is malformed: {str(error)[:60]}") from error
            if isinstance(event, h11.Data):
                self._data = memoryview(event.data)
                self._decoded += len(event.data)
                self._receiver.progressed(len(event.data))
                self._check_overhead()
                return True
            if isinstance(event, h11.EndOfMessage):
                self._check_trailers(event)
                self._ended = True
                return False
            await self._receive()

    async def _receive(self) -> None:
        if self._scratch is None:
            self._scratch = bytearray(_SCRATCH_BYTES)
        view = memoryview(self._scratch)
        count = await self._receiver.receive_some(view)
        if count == 0:
            raise ConnectionLost(f"the body ended after {self._decoded} bytes without its last chunk")
        self._feed(view[:count])
        self._check_overhead()

    def _feed(self, data: bytes | memoryview) -> None:
        self._fed += len(data)
        self._before = (self._before + self._piece[-4:])[-4:]
        self._piece = bytes(data)
        self._codec.receive_data(self._piece)

    def _check_overhead(self) -> None:
        """Counts what is fed and not yet decoded as overhead too, but for one buffer's worth that may still be data."""
        overhead = self._fed - self._decoded - _SCRATCH_BYTES
        if self._fed > OVERHEAD_FREE_BYTES and overhead * OVERHEAD_SHARE > self._decoded:
            raise ProtocolViolation("the chunked body is mostly overhead")

    def _check_trailers(self, end: h11.EndOfMessage) -> None:
        """h11 takes a bare LF for the end of a line here too: where the body ends would be a matter of opinion."""
        used = len(self._piece) - len(self._codec.trailing_data[0])
        if not (self._before + self._piece[max(0, used - 4) : used]).endswith(b"\r\n\r\n"):
            raise ProtocolViolation("the chunked body ends with a bare LF")
        size = sum(len(name) + len(value) + 4 for name, value in end.headers)
        if size > self._config.trailer_bytes_max:
            raise ProtocolViolation(f"the trailers are larger than {self._config.trailer_bytes_max} bytes")
