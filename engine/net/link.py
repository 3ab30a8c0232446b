"""One connected byte stream over a non-blocking standard socket, plain or TLS.

``SSLSocket.recv_into`` costs half of ``trio.SSLStream``, so the sockets are used directly and trio only waits for them.
"""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Callable

import trio

from engine.errors import ConnectionLost, EngineClosed


class Link:
    """Owns ``sock`` (connected, non-blocking; TLS already agreed) and closes it. Every failure of the line is raised as
    ConnectionLost, use after :meth:`close` as EngineClosed."""

    def __init__(self, sock: socket.socket, keep_session: Callable[[ssl.SSLSession], None] | None = None) -> None:
        self._sock = sock
        self._tls = isinstance(sock, ssl.SSLSocket)
        self._keep_session = keep_session
        self._broken: ConnectionLost | None = None
        self._wants_write = False
        self._closed = False
        self.receive_calls = 0

    @property
    def resumed(self) -> bool:
        """Whether TLS was agreed by an earlier session, without a certificate sent again."""
        return isinstance(self._sock, ssl.SSLSocket) and bool(self._sock.session_reused)

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    async def send_all(self, data: bytes) -> None:
        """Send everything."""
        await trio.lowlevel.checkpoint_if_cancelled()
        rest = memoryview(data)
        while rest:
            self._refuse_closed()
            try:
                rest = rest[self._sock.send(rest) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._wants_write = True
                await self.wait_ready()
            except ssl.SSLWantReadError:
                self._wants_write = False
                await self.wait_ready()
            except OSError as error:
                raise ConnectionLost(f"the connection broke while sending: {_reason(error)}") from error
        self._wants_write = False

    def receive_nowait(self, view: memoryview) -> int | None:
        """Receive what is there: at least 1 byte, 0 at the end of the stream, None when there is nothing yet. The end
        of a TLS stream without its closing message is ConnectionLost (N17)."""
        self._refuse_closed()
        if self._tls:
            return self._receive_records(view)
        self.receive_calls += 1
        try:
            return self._sock.recv_into(view)
        except (BlockingIOError, ssl.SSLWantReadError):
            self._wants_write = False
        except ssl.SSLWantWriteError:
            self._wants_write = True
        except OSError as error:
            raise ConnectionLost(f"the connection broke while receiving: {_reason(error)}") from error
        return None

    def _receive_records(self, view: memoryview) -> int | None:
        """As many TLS records as are there: each call gives one of at most 16 KiB, so they are asked for in one loop.
        What breaks the line behind some bytes is told by the next call."""
        if self._broken is not None:
            raise self._broken
        receive = self._sock.recv_into
        total, size = 0, len(view)
        try:
            while total < size:
                self.receive_calls += 1
                count = receive(view[total:])
                if count == 0:
                    break  # asked again, it is the end again
                total += count
        except ssl.SSLWantReadError:
            self._wants_write = False
            return total or None
        except ssl.SSLWantWriteError:
            self._wants_write = True
            return total or None
        except OSError as error:
            broken = ConnectionLost(f"the connection broke while receiving: {_reason(error)}")
            broken.__cause__ = error
            if total == 0:
                raise broken from error
            self._broken = broken
        return total

    async def wait_ready(self) -> None:
        """Wait until the last call that could not go on may succeed."""
        self._refuse_closed()
        try:
            if self._wants_write:
                await trio.lowlevel.wait_writable(self._sock)
            else:
                await trio.lowlevel.wait_readable(self._sock)
        except trio.ClosedResourceError:
            raise EngineClosed("the connection was closed by this side") from None

    async def receive_into(self, view: memoryview) -> int:
        """Receive at least 1 byte, or 0 at the end of the stream."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while (count := self.receive_nowait(view)) is None:
            await self.wait_ready()
        if self._keep_session is not None and isinstance(self._sock, ssl.SSLSocket):
            keep, self._keep_session = self._keep_session, None
            if count and self._sock.session is not None:  # its tickets came before the first bytes
                keep(self._sock.session)
        return count

    def set_low_water(self, count: int) -> None:
        """Wake a waiting reader only when ``count`` bytes are there, or the stream ended."""
        self._refuse_closed()
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
        except OSError as error:
            raise ConnectionLost(f"the connection broke: {_reason(error)}") from error

    def readable_now(self) -> bool:
        """Whether there is something to read: bytes, the end of the stream, or an error."""
        if self._closed:
            return True
        if isinstance(self._sock, ssl.SSLSocket) and self._sock.pending():
            return True
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Close at once, without a wait. A task that waits on the link gets EngineClosed."""
        if not self._closed:
            self._closed = True
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()

    def _refuse_closed(self) -> None:
        if self._closed:
            raise EngineClosed("the connection was closed by this side")


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
