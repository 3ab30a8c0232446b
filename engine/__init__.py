"""An offline media engine: downloads over HTTP/1.1 that never lose, mix up or wrongly believe a byte.

::

    async with open_engine("library") as engine:
        download = await engine.offline(DownloadRequest(url="https://…/track.flac", id="track-1"))
        entry = await download.wait()

Each public name is imported when it is first used (PEP 562): the command line must be able to heed Ctrl-C, and to
answer ``--version``, before the whole engine is loaded.
"""

import importlib

TYPE_CHECKING = False  # type checkers take it for true; the module that usually says so is slow to import itself
if TYPE_CHECKING:
    from engine.config import Config
    from engine.control.attempts import RunStats
    from engine.control.hub import Subscription
    from engine.control.verify import Health, Validation
    from engine.engine import Download, Engine, open_engine
    from engine.errors import (
        DownloadFailed,
        EngineClosed,
        EngineError,
        EventsLost,
        Fault,
        ForkedProcess,
        IllegalTransition,
        IntegrityError,
        InternalError,
        InvalidRequest,
        StoreBusy,
        StoreCorrupt,
        StoreError,
        StoreTooNew,
        StoreUnusable,
        TargetInvalid,
        TooManyFiles,
        TransferError,
        UnknownEntry,
    )
    from engine.model.events import EngineEvent, Progress, Recovered, StateChanged
    from engine.model.records import (
        Attempt,
        DownloadEntry,
        DownloadRequest,
        Durability,
        ErrorRecord,
        OfflineEntry,
        PartRecord,
        Representation,
    )
    from engine.model.states import Event, Reason, State

__version__ = "0.1.0"

__all__ = [
    "Attempt",
    "Config",
    "Download",
    "DownloadEntry",
    "DownloadFailed",
    "DownloadRequest",
    "Durability",
    "Engine",
    "EngineClosed",
    "EngineError",
    "EngineEvent",
    "ErrorRecord",
    "Event",
    "EventsLost",
    "Fault",
    "ForkedProcess",
    "Health",
    "IllegalTransition",
    "IntegrityError",
    "InternalError",
    "InvalidRequest",
    "OfflineEntry",
    "PartRecord",
    "Progress",
    "Reason",
    "Recovered",
    "Representation",
    "RunStats",
    "State",
    "StateChanged",
    "StoreBusy",
    "StoreCorrupt",
    "StoreError",
    "StoreTooNew",
    "StoreUnusable",
    "Subscription",
    "TargetInvalid",
    "TooManyFiles",
    "TransferError",
    "UnknownEntry",
    "Validation",
    "open_engine",
]

# Where each public name comes from; the same as the imports above, which a test compares.
_HOMES = {
    "engine.config": "Config",
    "engine.control.attempts": "RunStats",
    "engine.control.hub": "Subscription",
    "engine.control.verify": "Health Validation",
    "engine.engine": "Download Engine open_engine",
    "engine.errors": (
        "DownloadFailed EngineClosed EngineError EventsLost Fault ForkedProcess IllegalTransition IntegrityError"
        " InternalError InvalidRequest StoreBusy StoreCorrupt StoreError StoreTooNew StoreUnusable"
        " TargetInvalid TooManyFiles TransferError"
        " UnknownEntry"
    ),
    "engine.model.events": "EngineEvent Progress Recovered StateChanged",
    "engine.model.records": (
        "Attempt DownloadEntry DownloadRequest Durability ErrorRecord OfflineEntry PartRecord Representation"
    ),
    "engine.model.states": "Event Reason State",
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

if not TYPE_CHECKING:  # a type checker would take it for "any name will do"

    def __getattr__(name):
        """The public name, imported now and kept."""
        home = _HOME_OF.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(importlib.import_module(home), name)
        return value

    def __dir__():
        """All public names, also those not imported yet."""
        return sorted({*globals(), *__all__} - {"TYPE_CHECKING", "importlib"})
