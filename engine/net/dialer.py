"""From an origin to a connected :class:`Link`: name, TCP, TLS, each with its own timeout and its own error."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from functools import partial

import trio

from engine.config import Config
from engine.errors import (
    ConnectionLost,
    ConnectRefused,
    ConnectTimeout,
    DnsError,
    InvalidRequest,
    NetworkError,
    NoRoute,
    ResolverDown,
    TlsError,
    TooManyFiles,
    TransferError,
)
from engine.net.link import Link
from engine.net.url import Origin

# This side ran out of something (N21, N22): not the host's fault.
_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})
_OWN_LIMITS = frozenset({errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
# No network at all, and a host that nobody on its network has heard of: it may be the host's fault.
_NO_NETWORK = frozenset({errno.ENETUNREACH, errno.ENETDOWN})
_NO_ANSWER = frozenset({errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.EHOSTDOWN})

TLS_SESSIONS_MAX = 256  # origins

# OpenSSL's numbers for what is wrong with a certificate, in words a user can act on.
_CERTIFICATE_FAULTS = {
    9: "is not valid yet",
    10: "has expired",
    18: "is self-signed",
    19: "was signed by an unknown authority (self-signed in its chain)",
    20: "was signed by an unknown authority",
    21: "was signed by an unknown authority",
    26: "is not meant for a server",
    62: "is for another host name",
    64: "is for another address",
}


class Dialer:
    """Connects to origins. ``cafile``: trust these authorities (PEM) in place of the system's.

    ``label`` names the security context; connections of different labels are never shared (S41).
    """

    def __init__(self, config: Config, *, cafile: str | None = None) -> None:
        self._config = config
        self._cafile = cafile
        self._context: ssl.SSLContext | None = None
        self._sessions: dict[Origin, ssl.SSLSession] = {}
        self.label = "system" if cafile is None else f"cafile:{cafile}"

    async def connect(self, origin: Origin) -> Link:
        """A link to ``origin``. Raises DnsError, ConnectRefused, ConnectTimeout, ConnectionLost, TlsError, TooManyFiles
        or NetworkError when this side is out of descriptors or ports, and InvalidRequest for an unusable CA file."""
        context = self._tls_context() if origin.scheme == "https" else None
        sock = await self._connect_tcp(origin)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context is not None:
                sock = await self._start_tls(sock, context, origin)
        except OSError as error:
            sock.close()
            raise ConnectionLost(f"the connection broke at once: {error.strerror}") from error
        except BaseException:
            sock.close()
            raise
        return Link(sock, partial(self._keep_session, origin) if context is not None else None)

    def _keep_session(self, origin: Origin, session: ssl.SSLSession) -> None:
        """The next connections to the origin can do without a certificate and a round trip. In memory only, and only
        as long as a session counts (RFC 8446 section 4.6.1: a week at most; OpenSSL's own limit is two hours)."""
        self._sessions.pop(origin, None)
        self._sessions[origin] = session
        if len(self._sessions) > TLS_SESSIONS_MAX:
            del self._sessions[next(iter(self._sessions))]

    async def _connect_tcp(self, origin: Origin) -> socket.socket:
        with trio.move_on_after(self._config.connect_timeout_s):
            try:
                stream = await trio.open_tcp_stream(origin.host, origin.port)
            except (socket.gaierror, UnicodeError) as error:
                kind = ResolverDown if getattr(error, "errno", None) == socket.EAI_AGAIN else DnsError
                raise kind(f"the host name {origin.host} could not be resolved: {_reason(error)}") from error
            except OSError as error:
                raise _connect_error(error) from error
            sock = socket.socket(fileno=stream.socket.detach())
            sock.setblocking(False)
            return sock
        raise ConnectTimeout(f"no connection within {self._config.connect_timeout_s:g} s")

    async def _start_tls(self, plain: socket.socket, context: ssl.SSLContext, origin: Origin) -> ssl.SSLSocket:
        sock = context.wrap_socket(
            plain,
            do_handshake_on_connect=False,
            suppress_ragged_eofs=False,
            server_hostname=origin.host,
            session=self._sessions.get(origin),
        )
        try:
            with trio.move_on_after(self._config.tls_timeout_s):
                await _handshake(sock)
                return sock
        except ssl.SSLCertVerificationError as error:
            sock.close()
            fault = _CERTIFICATE_FAULTS.get(error.verify_code, f"is not acceptable: {error.verify_message}")
            raise TlsError(f"the server's certificate {fault}") from error
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError) as error:
            sock.close()
            raise ConnectionLost("the connection ended during the TLS handshake") from error
        except ssl.SSLError as error:
            sock.close()
            raise TlsError(f"TLS could not be agreed: {error.reason or error.strerror}") from error
        except BaseException:
            sock.close()
            raise
        sock.close()
        raise ConnectTimeout(f"TLS did not finish within {self._config.tls_timeout_s:g} s")

    def _tls_context(self) -> ssl.SSLContext:
        """Made once. Not by ``ssl.create_default_context``: that one honours SSLKEYLOGFILE (M26)."""
        if self._context is None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies chain and host name
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # Python sets it; it hides truncation (N17)
            context.set_alpn_protocols(["http/1.1"])
            if self._cafile is None:
                context.load_default_certs()
            else:
                try:
                    context.load_verify_locations(self._cafile)
                except (OSError, ValueError) as error:
                    raise InvalidRequest(f"the CA file {self._cafile!r} cannot be used: {error}") from error
            self._context = context
        return self._context


async def _handshake(sock: ssl.SSLSocket) -> None:
    while True:
        try:
            sock.do_handshake()
        except ssl.SSLWantReadError:
            await trio.lowlevel.wait_readable(sock)
        except ssl.SSLWantWriteError:
            await trio.lowlevel.wait_writable(sock)
        else:
            return


def _reason(error: OSError | UnicodeError) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _words(attempt: OSError) -> str:
    """The system's words alone: trio's begin with the address."""
    return os.strerror(attempt.errno) if attempt.errno else str(attempt)


def _connect_error(error: OSError) -> TransferError:
    """What the failed attempts to all addresses of a host amount to; trio groups them as the cause."""
    cause = error.__cause__
    attempts = list(cause.exceptions) if isinstance(cause, BaseExceptionGroup) else [error]
    numbers = {attempt.errno for attempt in attempts if isinstance(attempt, OSError)}
    reasons = "; ".join(sorted({_words(attempt) for attempt in attempts if isinstance(attempt, OSError)}))
    message = f"no connection: {reasons or error}"
    if numbers & _NO_DESCRIPTORS:
        return TooManyFiles(message)
    if numbers & _OWN_LIMITS:
        return NetworkError(message)
    if numbers and numbers <= _NO_NETWORK:
        return NoRoute(message)
    if numbers and numbers <= _NO_ANSWER | _NO_NETWORK:
        return ConnectTimeout(message)
    return ConnectRefused(message)
