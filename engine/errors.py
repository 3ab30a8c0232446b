"""Every failure of the engine, as one tree.

Each class has a stable ``code`` (persisted, shown, never renamed), says whose ``fault`` it is, whether trying again
can help (``retryable``), and what to do (``advice``)::

    EngineError
    ├─ InvalidRequest        a request that can never work           ├─ UnknownEntry
    ├─ IllegalTransition     an event its state does not allow       ├─ EngineClosed
    ├─ DownloadFailed        what ``wait()`` raises                  ├─ StaleEpoch, EventsLost, InternalError
    ├─ StoreError ── StoreBusy, StoreTooNew, StoreCorrupt (BadRecord), StoreUnusable, EntryExists, ForkedProcess
    └─ TransferError         what ends or interrupts one attempt
       ├─ NetworkError ── DnsError, ConnectRefused, ConnectTimeout, ConnectionLost, Stalled
       ├─ TlsError
       ├─ ServerError ── ProtocolViolation, HttpStatus, BadRange, BadRedirect, Encoded, UnverifiableLength, Changed
       ├─ IntegrityError
       └─ StorageError ── NoSpace, ReadOnly, NotPermitted, InputOutput, TargetExists, TargetGone, PartLost, TooBig
"""

from __future__ import annotations

import errno
from enum import StrEnum
from typing import ClassVar


class Fault(StrEnum):
    """Who has to act when it is to work."""

    CALLER = "caller"
    NETWORK = "network"
    SERVER = "server"
    STORAGE = "storage"
    ENGINE = "engine"


class EngineError(Exception):
    """Base of everything the engine raises on purpose."""

    code: ClassVar[str] = "internal"
    fault: ClassVar[Fault] = Fault.ENGINE
    retryable: ClassVar[bool] = False
    advice: ClassVar[str] = "This is a bug in the engine; please report it with the log."


class InternalError(EngineError):
    """An error that nobody expected ended an attempt: a bug. Its traceback is in the log ``engine``."""


class InvalidRequest(EngineError, ValueError):
    """A request, option or URL that can never work; nothing was done."""

    code = "invalid_request"
    fault = Fault.CALLER
    advice = "Correct the request."


class UnknownEntry(EngineError, KeyError):
    """No entry has this id."""

    code = "unknown_entry"
    fault = Fault.CALLER
    advice = "List the entries to see their ids."

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else self.code


class IllegalTransition(EngineError):
    """The entry's state does not allow this event; nothing was changed."""

    code = "illegal_transition"
    fault = Fault.CALLER
    advice = "Look at the entry's state first."


class StaleEpoch(EngineError):
    """A late result of an earlier attempt; it was dropped and nothing was changed."""

    code = "stale_epoch"


class EngineClosed(EngineError):
    """The engine was closed."""

    code = "closed"
    fault = Fault.CALLER
    advice = "Use the engine inside its `async with` block only."


class EventsLost(EngineError):
    """A consumer of events was so slow that some could not be kept for it; its subscription ended."""

    code = "events_lost"
    fault = Fault.CALLER
    advice = "Read events faster; subscribe again and read the present state first."


class StoreError(EngineError):
    """The store cannot be used."""

    code = "store"
    fault = Fault.STORAGE


class StoreBusy(StoreError):
    """Another engine owns the store. ``pid`` is its process id, or None when it could not be read."""

    code = "store_busy"
    fault = Fault.CALLER
    advice = "Use the running engine, stop it, or choose another root."

    def __init__(self, message: str, pid: int | None) -> None:
        super().__init__(message)
        self.pid = pid


class StoreTooNew(StoreError):
    """A newer version of the engine wrote the store; it was left untouched."""

    code = "store_too_new"
    fault = Fault.CALLER
    advice = "Upgrade offline-engine, or choose another root."


class StoreCorrupt(StoreError):
    """The store's file is damaged; it was left untouched."""

    code = "store_corrupt"
    advice = (
        "Move the folder 'store' of the root aside; finished files are untouched and can be fetched or adopted again."
    )


class BadRecord(StoreCorrupt):
    """One record or page is damaged or was written by a newer version; the rest of the store is sound."""

    code = "store_record"
    advice = "The entry is verified again from its file; what cannot be proved is fetched again."


class EntryExists(StoreError, ValueError):
    """An entry with this id is there already; nothing was changed."""

    code = "entry_exists"
    fault = Fault.ENGINE


class StoreUnusable(StoreError):
    """The root or store cannot be created, opened or written (permissions, read-only, full, unsupported file
    system)."""

    code = "store_unusable"
    advice = "Check that the root exists, is on a local file system, is writable and has space."


class ForkedProcess(StoreError):
    """A forked child used its parent's store."""

    code = "forked_process"
    fault = Fault.CALLER
    advice = "Open the engine in the child itself, after the parent closed it."


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


class ConnectRefused(NetworkError):
    """No address of the host accepted the connection (refused, unreachable)."""

    code = "refused"
    advice = "Check host and port, and that the server runs."


class ConnectTimeout(NetworkError):
    """No address of the host answered in time, or TLS did not finish in time."""

    code = "timeout"


class ConnectionLost(NetworkError):
    """The connection ended in the middle of an answer (reset, or the body was cut short)."""

    code = "connection_lost"


class Stalled(NetworkError):
    """The server sent nothing for the idle timeout."""

    code = "stalled"


class TlsError(TransferError):
    """The server's certificate or TLS itself was not acceptable."""

    code = "tls"
    fault = Fault.SERVER
    advice = "Check the host name, the clock and the certificate authority (a private one needs its CA file)."


class ServerError(TransferError):
    """The server's answer cannot be used."""

    code = "server"
    fault = Fault.SERVER


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
        self.retryable = status in RETRYABLE_STATUSES  # type: ignore[misc]


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
    advice = "Check the expected digest; if it is right, the source serves other bytes."


class StorageError(TransferError):
    """A file could not be made, written, synced or named."""

    code = "io"
    fault = Fault.STORAGE
    advice = "Check the disk; no byte of the failed write was believed."


class NoSpace(StorageError):
    """The file system or quota is full."""

    code = "no_space"
    advice = "Free some space and ask again; the bytes so far are kept."


class ReadOnly(StorageError):
    """The file system is mounted read-only."""

    code = "read_only"
    advice = "Mount it writable or choose another folder."


class NotPermitted(StorageError):
    """The folder or file may not be written by this user."""

    code = "permission"
    advice = "Change the permissions or choose another folder."


class InputOutput(StorageError):
    """The device reported an error, or reads and writes came up short."""


class TargetExists(StorageError):
    """The final name is taken by a file that this entry did not make; it was left as it is."""

    code = "target_exists"
    fault = Fault.CALLER
    advice = "Choose another output, or ask to overwrite."


class TargetGone(StorageError):
    """The destination folder vanished, or is not a folder."""

    code = "target_gone"
    advice = "Create the folder again, or choose another."


class PartLost(StorageError):
    """The unfinished file was removed or replaced from outside."""

    code = "part_lost"
    retryable = True
    advice = "The missing bytes are fetched again."


class TooBig(StorageError):
    """The file is larger than the file system, a process limit or the engine's own limit allows."""

    code = "too_big"
    advice = "Use a file system or limit that allows files of this size."


class DownloadFailed(EngineError):
    """What ``wait()`` raises: the entry ended FAILED or CANCELLED. ``cause_code`` and ``status`` are the last
    error's."""

    code = "failed"
    fault = Fault.CALLER

    def __init__(self, message: str, *, entry_id: str, cause_code: str, status: int | None = None) -> None:
        super().__init__(message)
        self.entry_id = entry_id
        self.cause_code = cause_code
        self.status = status


RETRYABLE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})

_STATUS_CODES: dict[int, str] = {
    401: "auth",
    403: "auth",
    404: "not_found",
    407: "proxy",
    410: "gone",
    429: "rate_limited",
}


def status_code_name(status: int) -> str:
    """The stable error code of an HTTP status: a name of its own, or that of its class (``http_4xx``)."""
    return _STATUS_CODES.get(status, f"http_{status // 100}xx")


_ERRNO: dict[int, type[StorageError]] = {
    errno.ENOSPC: NoSpace,
    errno.EDQUOT: NoSpace,
    errno.EROFS: ReadOnly,
    errno.EACCES: NotPermitted,
    errno.EPERM: NotPermitted,
    errno.EEXIST: TargetExists,
    errno.ENOENT: TargetGone,
    errno.ENOTDIR: TargetGone,
    errno.ELOOP: TargetGone,
    errno.EFBIG: TooBig,
}


def sole_error(error: BaseException) -> BaseException:
    """What a nursery wrapped in a group of one, however deep; anything else as it is."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def storage_error(error: OSError, what: str) -> StorageError:
    """The typed error for a failed file call; ``what`` names the call and the file, in words."""
    kind = _ERRNO.get(error.errno or 0, InputOutput)
    return kind(f"{what}: {error.strerror or error}")
