"""Every failure of the engine, as one tree.

Each class has a stable ``code`` (persisted, shown, never renamed), says whose ``fault`` it is, whether trying again
can help (``retryable``), and what to do (``advice``)::

    EngineError
    ├─ InvalidRequest        a request that can never work           ├─ UnknownEntry
    ├─ IllegalTransition     an event its state does not allow       ├─ EngineClosed
    ├─ UnknownGroup          no such album, playlist …               ├─ ScopeResetting
    ├─ DownloadFailed        what ``wait()`` raises                  ├─ StaleEpoch, Superseded, EventsLost
    ├─ PoisonError           what crashed the process repeatedly     ├─ InternalError
    ├─ StoreError ── StoreBusy, StoreTooNew, StoreCorrupt (BadRecord), StoreUnusable, EntryExists, ForkedProcess
    └─ TransferError         what ends or interrupts one attempt
       ├─ NetworkError ── DnsError (ResolverDown), NoRoute, ConnectRefused, ConnectTimeout, ConnectionLost, Stalled
       ├─ TlsError
       ├─ ServerError ── ProtocolViolation, HttpStatus, BadRange, BadRedirect, Encoded, UnverifiableLength, Changed
       ├─ IntegrityError
       └─ StorageError ── NoSpace, ReadOnly, NotPermitted, InputOutput, TargetExists, TargetGone (TargetInvalid),
                          PartLost, TooBig, TooManyFiles
"""

from engine.errors.base import (
    BadRecord,
    DownloadFailed,
    EngineClosed,
    EngineError,
    EntryExists,
    EventsLost,
    Fault,
    ForkedProcess,
    IllegalTransition,
    InternalError,
    InvalidRequest,
    PoisonError,
    ScopeResetting,
    StaleEpoch,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreTooNew,
    StoreUnusable,
    Superseded,
    UnknownEntry,
    UnknownGroup,
    sole_error,
)
from engine.errors.storage import (
    InputOutput,
    NoSpace,
    NotPermitted,
    PartLost,
    ReadOnly,
    StorageError,
    TargetExists,
    TargetGone,
    TargetInvalid,
    TooBig,
    TooManyFiles,
    storage_error,
)
from engine.errors.transfer import (
    RETRYABLE_STATUSES,
    BadRange,
    BadRedirect,
    Changed,
    ConnectionLost,
    ConnectRefused,
    ConnectTimeout,
    DnsError,
    Encoded,
    HttpStatus,
    IntegrityError,
    NetworkError,
    NoRoute,
    ProtocolViolation,
    ResolverDown,
    ServerError,
    Stalled,
    TlsError,
    TransferError,
    UnverifiableLength,
    status_code_name,
)

__all__ = [
    "RETRYABLE_STATUSES",
    "BadRange",
    "BadRecord",
    "BadRedirect",
    "Changed",
    "ConnectRefused",
    "ConnectTimeout",
    "ConnectionLost",
    "DnsError",
    "DownloadFailed",
    "Encoded",
    "EngineClosed",
    "EngineError",
    "EntryExists",
    "EventsLost",
    "Fault",
    "ForkedProcess",
    "HttpStatus",
    "IllegalTransition",
    "InputOutput",
    "IntegrityError",
    "InternalError",
    "InvalidRequest",
    "NetworkError",
    "NoRoute",
    "NoSpace",
    "NotPermitted",
    "PartLost",
    "PoisonError",
    "ProtocolViolation",
    "ReadOnly",
    "ResolverDown",
    "ScopeResetting",
    "ServerError",
    "StaleEpoch",
    "Stalled",
    "StorageError",
    "StoreBusy",
    "StoreCorrupt",
    "StoreError",
    "StoreTooNew",
    "StoreUnusable",
    "Superseded",
    "TargetExists",
    "TargetGone",
    "TargetInvalid",
    "TlsError",
    "TooBig",
    "TooManyFiles",
    "TransferError",
    "UnknownEntry",
    "UnknownGroup",
    "UnverifiableLength",
    "sole_error",
    "status_code_name",
    "storage_error",
]
