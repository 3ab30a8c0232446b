"""What ends or interrupts one attempt, but for the files: the line, the server, the bytes themselves."""

from __future__ import annotations

from engine.errors.base import EngineError, Fault

RETRYABLE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})

_STATUS_CODES: dict[int, str] = {
    401: "auth",
    403: "auth",
    404: "not_found",
    407: "proxy",
    410: "gone",
    429: "rate_limited",
}

_STATUS_ADVICE: dict[str, str] = {
    "auth": "Give the credentials that the server asks for as headers, or a URL that is not expired.",
    "not_found": "Check the URL.",
    "proxy": "Give the proxy what it asks for.",
    "gone": "The server took the file away for good; find another source.",
    "rate_limited": "The server wants fewer or later requests: use fewer connections, or ask again later.",
    "http_5xx": "The server is in trouble; ask again later. The bytes so far are kept.",
}


def status_code_name(status: int) -> str:
    """The stable error code of an HTTP status: a name of its own, or that of its class (``http_4xx``)."""
    return _STATUS_CODES.get(status, f"http_{status // 100}xx")


class TransferError(EngineError):
    """One attempt ended or was interrupted. ``status`` is the HTTP status when there was one, ``retry_after_s`` what
    the server asked for."""

    def __init__(self, message: str, *, status: int | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


class NetworkError(TransferError):
    """The line failed, not the server's answer."""

    code = "network"
    fault = Fault.NETWORK
    retryable = True
    advice = "Check the connection; the bytes so far are kept."


class DnsError(NetworkError):
    """The host name could not be resolved."""

    code = "dns"
    advice = "Check the host name and the resolver."


class ResolverDown(DnsError):
    """No name could be resolved just now: no resolver answered, or it has trouble of its own."""

    code = "resolver"
    advice = "Check the connection and the resolver; the bytes so far are kept."


class NoRoute(NetworkError):
    """This machine has no way to the host: no network, or no route in it."""

    code = "no_route"
    advice = "Connect to the network; it goes on by itself then. The bytes so far are kept."


class ConnectRefused(NetworkError):
    """No address of the host accepted the connection."""

    code = "refused"
    advice = "Check host and port, and that the server runs."


class ConnectTimeout(NetworkError):
    """No address of the host answered in time, or TLS did not finish in time."""

    code = "timeout"


class ConnectionLost(NetworkError):
    """The connection ended in the middle of an answer (reset, or the body was cut short)."""

    code = "connection_lost"


class Stalled(NetworkError):
    """The server sent nothing for the idle timeout, or so little that it would never end; of a Metalink's document: not
    all of it in ten minutes."""

    code = "stalled"


class MeteredLine(NetworkError):
    """The entry may not be fetched over the metered line that there is (it is too big, or its source on this machine
    leads elsewhere); nothing of it was."""

    code = "metered"
    retryable = False  # over this line
    advice = "It goes on by itself over an unmetered line, or ask again and allow more on a metered one."


class TlsError(TransferError):
    """The server's certificate or TLS itself was not acceptable."""

    code = "tls"
    fault = Fault.SERVER
    advice = "Check the host name, the clock and the certificate authority (a private one needs its CA file)."


class ServerError(TransferError):
    """The server's answer cannot be used."""

    code = "server"
    fault = Fault.SERVER
    advice = "Try another source."


class ProtocolViolation(ServerError):
    """The answer breaks HTTP/1.1 or a limit on its head; nothing of it was believed."""

    code = "protocol"
    retryable = True
    advice = "The server or a box on the way is broken; try another source."


class HttpStatus(ServerError):
    """A status that carries no media. ``code`` tells its class: auth, not_found, gone, rate_limited, http_4xx, http_5xx
    …"""

    code = "http_status"
    advice = "The status says why the server refused."

    def __init__(self, message: str, *, status: int, retry_after_s: float | None = None) -> None:
        super().__init__(message, status=status, retry_after_s=retry_after_s)
        self.code = status_code_name(status)  # type: ignore[misc]  # per status: the class value is only the default
        self.advice = _STATUS_ADVICE.get(self.code, self.advice)  # type: ignore[misc]
        self.retryable = status in RETRYABLE_STATUSES  # type: ignore[misc]


class HostResting(ServerError):
    """Nothing was asked: the host wants to be left alone, or failed so often in a row that it is given time."""

    code = "host_resting"
    retryable = True
    advice = "It is tried again by itself, and other hosts go on; fewer connections to this one may help."


class BadRange(ServerError):
    """The range that came is not the range that was asked for."""

    code = "bad_range"
    retryable = True
    advice = "The server's range support is broken; try another source."


class BadRedirect(ServerError):
    """A redirect that is not followed: too many, a loop, another scheme, https to http, no Location."""

    code = "redirect"
    advice = "Use the final URL if you trust it."


class Encoded(ServerError):
    """The server compressed the body although identity was asked for; its bytes are not the file's."""

    code = "encoded"
    advice = "Ask the server's owner to honour 'Accept-Encoding: identity'."


class UnverifiableLength(ServerError):
    """The body ended with the connection and nothing (length, digest) tells whether it is whole."""

    code = "unverifiable_length"
    advice = "Give an expected digest or length, then such an answer can be checked."


class Changed(ServerError):
    """The source has other bytes now than when the download began; old and new were not mixed."""

    code = "changed"
    retryable = True
    advice = "The download begins again with the new version."


class IntegrityError(TransferError):
    """Bytes do not match a digest or length that was expected."""

    code = "integrity"
    fault = Fault.SERVER
    advice = (
        "Check what is expected. If that is right, the source has other bytes by now, or another program wrote into the"
        " unfinished file: ask again, and everything is fetched anew."
    )
