"""TLS as the caller trusts it: one context for each security context, and the handshake with its errors."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Hashable
from functools import partial

import trio

from engine.errors import ConnectionLost, ConnectTimeout, InvalidRequest, TlsError
from engine.net.trust import ClientCertificate, Trust, certificate_origins
from engine.net.url import Origin

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

log = logging.getLogger("engine")


class Tls:
    """Contexts, made when they are first needed, and sessions to resume. Each origin has one security context, named by
    its label; nothing is shared between two labels. Raises InvalidRequest for a client certificate that cannot be
    used."""

    def __init__(self, trust: Trust, timeout_s: float) -> None:
        self._cafile = trust.cafile
        self._timeout_s = timeout_s
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._sessions: dict[Hashable, ssl.SSLSession] = {}
        self._insecure = trust.insecure_origins
        self._certificates = {
            origin: certificate for certificate in trust.certificates for origin in certificate_origins(certificate)
        }
        self._default_label = "system" if trust.cafile is None else f"cafile:{trust.cafile}"
        special = self._insecure | self._certificates.keys()
        self._labels = {origin: self._special_label(origin) for origin in special}
        for origin in self._certificates:
            self.context(origin)  # a key that cannot be used is told now, not when some download needs it
        for origin in sorted(self._insecure, key=str):
            log.warning(
                "the certificate of %s is not verified: anyone on the way may read and change what comes", origin
            )

    def label(self, origin: Origin) -> str:
        """The name of an https origin's security context."""
        return self._labels.get(origin, self._default_label) if self._labels else self._default_label

    def context(self, origin: Origin) -> ssl.SSLContext:
        """The context for the origin. Raises InvalidRequest for a CA file or client certificate that cannot be used."""
        label = self.label(origin)
        if label not in self._contexts:
            self._contexts[label] = self._make(origin)
        return self._contexts[label]

    async def start(self, plain: socket.socket, origin: Origin, key: Hashable) -> ssl.SSLSocket:
        """TLS over a connected socket, with the session kept under ``key`` if there is one. Raises TlsError,
        ConnectionLost, ConnectTimeout, or OSError when the connection broke before TLS began."""
        sock = self.context(origin).wrap_socket(
            plain,
            do_handshake_on_connect=False,
            suppress_ragged_eofs=False,
            server_hostname=origin.host,
            session=self._sessions.get(key),
        )
        try:
            with trio.move_on_after(self._timeout_s):
                await _handshake(sock)
                return sock
        except ssl.SSLCertVerificationError as error:
            fault = _CERTIFICATE_FAULTS.get(error.verify_code, f"is not acceptable: {error.verify_message}")
            sock.close()
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
        raise ConnectTimeout(f"TLS did not finish within {self._timeout_s:g} s")

    def keep_session(self, key: Hashable, session: ssl.SSLSession) -> None:
        """The next connections under the key can do without a certificate and a round trip. In memory only, and only
        as long as a session counts (RFC 8446 section 4.6.1: a week at most; OpenSSL's own limit is two hours)."""
        self._sessions.pop(key, None)
        self._sessions[key] = session
        if len(self._sessions) > TLS_SESSIONS_MAX:
            del self._sessions[next(iter(self._sessions))]

    def _special_label(self, origin: Origin) -> str:
        """The default, or that nothing is verified, and the certificate shown."""
        label = f"insecure:{origin}" if origin in self._insecure else self._default_label
        certificate = self._certificates.get(origin)
        return label if certificate is None else f"{label} shows:{certificate.certfile}:{certificate.keyfile}"

    def _make(self, origin: Origin) -> ssl.SSLContext:
        """Not by ``ssl.create_default_context``: that one honours SSLKEYLOGFILE (M26)."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies chain and host name
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # Python sets it; it hides truncation (N17)
        context.set_alpn_protocols(["http/1.1"])
        if origin in self._insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif self._cafile is None:
            context.load_default_certs()
        else:
            try:
                context.load_verify_locations(self._cafile)
            except (OSError, ValueError) as error:
                raise InvalidRequest(f"the CA file {self._cafile!r} cannot be used: {error}") from error
        if certificate := self._certificates.get(origin):
            _load(context, certificate)
        return context


def _load(context: ssl.SSLContext, certificate: ClientCertificate) -> None:
    """Without a password of the caller's an encrypted key is refused: OpenSSL would ask for one on the terminal."""
    try:
        context.load_cert_chain(certificate.certfile, certificate.keyfile, partial(_password, certificate))
    except (OSError, ValueError, TypeError) as error:
        raise InvalidRequest(f"the client certificate {certificate.certfile!r} cannot be used: {error}") from error


def _password(certificate: ClientCertificate) -> str:
    if certificate.password is None:
        raise InvalidRequest(
            f"the key of the client certificate {certificate.certfile!r} is encrypted: give its password"
        )
    try:
        return certificate.password()
    except InvalidRequest:
        raise
    except Exception as error:  # the host's own code; what it says may hold the password
        kind = type(error).__name__
        raise InvalidRequest(f"the password for {certificate.certfile!r} could not be had: {kind}") from error


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
