"""One connected byte stream over a non-blocking standard socket, plain or TLS.

``SSLSocket.recv_into`` costs half of ``trio.SSLStream``, so the sockets are used directly and trio only waits for them.
"""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from engine.errors import ConnectionLost, EngineClosed, TlsError
from engine.net.tcp import TcpFacts, bound_receive_buffer, tcp_facts

if TYPE_CHECKING:  # that one opens its tunnels over links
    from engine.net.proxy import Proxy

# Twice what fills a chunk buffer in whole records of 16 KiB. A record may hold a single byte and costs as much.
RECORDS_AT_ONCE = 128

# OpenSSL's words for what a server says that wants a certificate of this side; in TLS 1.3 behind the handshake.
_CERTIFICATE_ALERTS = frozenset(
    {
        "TLSV13_ALERT_CERTIFICATE_REQUIRED",
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "SSLV3_ALERT_CERTIFICATE_REVOKED",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        "TLSV1_ALERT_UNKNOWN_CA",
    }
)


class Link:
    """Owns ``sock`` (connected, non-blocking; TLS already agreed) and closes it. Every failure of the line is raised as
    ConnectionLost, use after :meth:`close` as EngineClosed; a server that wants another certificate of this side, or
    any, as TlsError. ``proxy``: the one that passes each request on, and has to be told the whole URL."""

    def __init__(
        self,
        sock: socket.socket,
        keep_session: Callable[[ssl.SSLSession], None] | None = None,
        *,
        proxy: Proxy | None = None,
    ) -> None:
        self.proxy = proxy
        self._sock = sock
        self._tls = isinstance(sock, ssl.SSLSocket)
        self._keep_session = keep_session
        self._broken: ConnectionLost | TlsError | None = None
        self._wants_write = False
        self._closed = False
        self.receive_calls = 0
        self.buffer_bytes: int | None = None

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
                raise _broken("sending", error) from error
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
            raise _broken("receiving", error) from error
        return None

    def _receive_records(self, view: memoryview) -> int | None:
        """As many TLS records as are there, but RECORDS_AT_ONCE at most: each call gives one of at most 16 KiB, so they
        are asked for in one loop. OpenSSL may hold more then, which no wait would tell of: only None says to wait. What
        breaks the line behind some bytes is told by the next call."""
        if self._broken is not None:
            raise self._broken
        receive = self._sock.recv_into
        total, size, rest = 0, len(view), view[:0]
        last = self.receive_calls + RECORDS_AT_ONCE
        try:
            while total < size and self.receive_calls < last:
                self.receive_calls += 1
                rest = view[total:]
                count = receive(rest)
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
            rest.release()  # the traceback holds it, and with it the caller's buffer
            broken = _broken("receiving", error)
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

    def tcp_facts(self) -> TcpFacts | None:
        """What the kernel tells of the line; None when nothing."""
        return None if self._closed else tcp_facts(self._sock)

    def bound_buffer(self, size: int | None) -> None:
        """Have the kernel buffer about ``size`` bytes, or as many as it likes. Half or twice of what it was told is the
        same: no system call."""
        told = self.buffer_bytes
        if size == told or (size is not None and told is not None and told < 2 * size < 4 * told):
            return
        self._refuse_closed()
        self.buffer_bytes = size
        bound_receive_buffer(self._sock, size)

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


def _broken(while_: str, error: OSError) -> ConnectionLost | TlsError:
    if isinstance(error, ssl.SSLError) and error.reason in _CERTIFICATE_ALERTS:
        words = error.reason.partition("ALERT_")[2].lower().replace("_", " ")
        return TlsError(f"the server does not accept this side's client certificate, or the lack of one: {words}")
    return ConnectionLost(f"the connection broke while {while_}: {_reason(error)}")


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
