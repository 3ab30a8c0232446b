"""The root of the tree, whose fault an error can be, and what requests, entries and the store raise."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class Fault(StrEnum):
    """Who has to act when it is to work."""

    CALLER = "caller"
    NETWORK = "network"
    SERVER = "server"
    STORAGE = "storage"
    HOST = "host"  # a limit of the machine or of this process
    ENGINE = "engine"


class EngineError(Exception):
    """Base of everything the engine raises on purpose."""

    code: ClassVar[str] = "internal"
    fault: ClassVar[Fault] = Fault.ENGINE
    retryable: ClassVar[bool] = False
    advice: ClassVar[str] = "This is a bug in the engine; please report it with the log."


class InternalError(EngineError):
    """An error that nobody expected ended an attempt: a bug. Its traceback is in the log ``engine``."""


class PoisonError(EngineError):
    """The process died several times in a row while this entry ran, and it came no further: it is not tried unasked."""

    code = "poison"
    advice = "Retry it to give it another chance, best alone. " + EngineError.advice


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


class UnknownGroup(EngineError, KeyError):
    """No group of this scope has this id."""

    code = "unknown_group"
    fault = Fault.CALLER
    advice = "List the scope's groups to see their ids."

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else self.code


class ScopeResetting(EngineError):
    """The scope is being emptied; nothing new is let in until that is done."""

    code = "scope_resetting"
    fault = Fault.CALLER
    retryable = True
    advice = "Ask again once the reset of the scope has ended."


class IllegalTransition(EngineError):
    """The entry's state does not allow this event; nothing was changed."""

    code = "illegal_transition"
    fault = Fault.CALLER
    advice = "Look at the entry's state first."


class Superseded(EngineError):
    """A later request took the place of this one: the entry that was waited for was removed."""

    code = "superseded"
    fault = Fault.CALLER
    advice = "Ask for it again if it is still wanted."


class StaleEpoch(EngineError):
    """A late result of an earlier attempt; it was dropped and nothing was changed."""

    code = "stale_epoch"


class EngineClosed(EngineError):
    """The engine was closed."""

    code = "closed"
    fault = Fault.CALLER
    advice = "Use the engine inside its `async with` block only."


class WrongThread(EngineError, RuntimeError):
    """The engine was called from another thread, another trio run or another event loop than it belongs to; nothing
    was done."""

    code = "wrong_thread"
    fault = Fault.CALLER
    advice = (
        "Call the engine from tasks of the trio run that opened it; from a thread of that run by trio.from_thread.run, "
        "and under asyncio by a thread of its own that calls trio.run."
    )


class HostExhausted(EngineError):
    """This process gets no thread, memory or descriptor that the engine cannot do without; it was not opened."""

    code = "host_exhausted"
    fault = Fault.HOST
    retryable = True
    advice = (
        "Raise the limits of the process (RLIMIT_NPROC, RLIMIT_AS, RLIMIT_NOFILE; pids and memory of its cgroup), or "
        "configure fewer 'seal_threads' and a smaller 'buffer_count'."
    )


class EventsLost(EngineError):
    """A consumer of events was so slow that some could not be kept for it; its subscription ended."""

    code = "events_lost"
    fault = Fault.CALLER
    advice = "Read events faster; subscribe again and read the present state first."


class StoreError(EngineError):
    """The store cannot be used."""

    code = "store"
    fault = Fault.STORAGE
    advice = "Check the root and its disk."


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
        "Move the folder 'store' of the root aside; the next start makes a new one. Finished files stay as they are, "
        "but it does not know them: what is asked for again is fetched again, beside its old file in the library, and "
        "at a destination of its own only with overwrite."
    )


class BadRecord(StoreCorrupt):
    """One record or page is damaged or was written by a newer version; the rest of the store is sound."""

    code = "store_record"
    advice = "Ask for the entry again; what can no longer be proved is fetched again."


class EntryExists(StoreError, ValueError):
    """An entry with this id is there already; nothing was changed."""

    code = "entry_exists"
    fault = Fault.ENGINE
    advice = EngineError.advice


class StoreUnusable(StoreError):
    """The root or store cannot be created, opened or written (permissions, read-only, full, unsupported file
    system)."""

    code = "store_unusable"
    advice = "Check that the root exists, is on a local file system, is writable and has space."


class NoStoreYet(StoreUnusable):
    """An engine has to make the store, or to bring it up to date, before anybody can open it beside one."""

    advice = "Open the root with an engine once; any command that downloads does so."


class StoreGone(StoreError):
    """The root was moved, renamed, deleted or unmounted while its store was open; nothing was made anew in its
    place."""

    code = "store_gone"
    advice = "Close the engine, put the root back or mount its disk, and open it where it is."


class StoreCopied(StoreError):
    """The root is a copy of another one that is still there; neither was touched. Both would write the same files."""

    code = "store_copied"
    fault = Fault.CALLER
    advice = (
        "Use the original; or remove it, when this is to be the only one; or open the copy with adopt=True (--adopt), "
        "which makes it a library of its own that knows nothing of files outside its root."
    )


class ForkedProcess(StoreError):
    """A forked child used its parent's store."""

    code = "forked_process"
    fault = Fault.CALLER
    advice = "Open the engine in the child itself, after the parent closed it."


class DownloadFailed(EngineError):
    """What ``wait()`` raises: the entry ended FAILED or CANCELLED. ``cause_code``, ``status``, and whose ``fault`` it
    is, whether trying again can help (``retryable``) and the ``advice`` are the last error's."""

    code = "failed"
    fault = Fault.CALLER
    advice = "Its cause is told with it and in the entry's last error, with what to do; then ask again."

    def __init__(
        self,
        message: str,
        *,
        entry_id: str,
        cause_code: str,
        status: int | None = None,
        fault: str = "",
        retryable: bool = False,
        advice: str = "",
    ) -> None:
        super().__init__(message)
        self.entry_id = entry_id
        self.cause_code = cause_code
        self.status = status
        self.retryable = retryable  # type: ignore[misc]  # this and the rest: of the cause, the class has the default
        if fault in set(Fault):  # a newer version's may be another
            self.fault = Fault(fault)  # type: ignore[misc]
        if advice:
            self.advice = advice  # type: ignore[misc]


def sole_error(error: BaseException) -> BaseException:
    """What a nursery wrapped in a group of one, however deep; anything else as it is."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
