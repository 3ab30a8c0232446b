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
    from engine.control.explain import Explanation
    from engine.control.groups import GroupChange, Refusal
    from engine.control.health import DownloadHealth
    from engine.control.hub import Subscription
    from engine.control.maintenance import MaintenanceReport
    from engine.control.scopes import ScopeReset
    from engine.control.verify import Health, Validation
    from engine.engine import Download, Engine
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
        PoisonError,
        ScopeResetting,
        StoreBusy,
        StoreCorrupt,
        StoreError,
        StoreTooNew,
        StoreUnusable,
        Superseded,
        TargetInvalid,
        TooManyFiles,
        TransferError,
        UnknownEntry,
        UnknownGroup,
    )
    from engine.model.events import EngineEvent, MaintenanceDone, Progress, Recovered, Removed, Snapshot, StateChanged
    from engine.model.groups import GroupRecord, GroupRequest, GroupSort, GroupState, GroupStatus, Member, MemberSort
    from engine.model.paging import Page
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
    from engine.opening import open_engine

__version__ = "0.1.0"

__all__ = [
    "Attempt",
    "Config",
    "Download",
    "DownloadEntry",
    "DownloadFailed",
    "DownloadHealth",
    "DownloadRequest",
    "Durability",
    "Engine",
    "EngineClosed",
    "EngineError",
    "EngineEvent",
    "ErrorRecord",
    "Event",
    "EventsLost",
    "Explanation",
    "Fault",
    "ForkedProcess",
    "GroupChange",
    "GroupRecord",
    "GroupRequest",
    "GroupSort",
    "GroupState",
    "GroupStatus",
    "Health",
    "IllegalTransition",
    "IntegrityError",
    "InternalError",
    "InvalidRequest",
    "MaintenanceDone",
    "MaintenanceReport",
    "Member",
    "MemberSort",
    "OfflineEntry",
    "Page",
    "PartRecord",
    "PoisonError",
    "Progress",
    "Reason",
    "Recovered",
    "Refusal",
    "Removed",
    "Representation",
    "RunStats",
    "ScopeReset",
    "ScopeResetting",
    "Snapshot",
    "State",
    "StateChanged",
    "StoreBusy",
    "StoreCorrupt",
    "StoreError",
    "StoreTooNew",
    "StoreUnusable",
    "Subscription",
    "Superseded",
    "TargetInvalid",
    "TooManyFiles",
    "TransferError",
    "UnknownEntry",
    "UnknownGroup",
    "Validation",
    "open_engine",
]

# Where each public name comes from; the same as the imports above, which a test compares.
_HOMES = {
    "engine.config": "Config",
    "engine.control.attempts": "RunStats",
    "engine.control.explain": "Explanation",
    "engine.control.groups": "GroupChange Refusal",
    "engine.control.health": "DownloadHealth",
    "engine.control.hub": "Subscription",
    "engine.control.maintenance": "MaintenanceReport",
    "engine.control.scopes": "ScopeReset",
    "engine.control.verify": "Health Validation",
    "engine.engine": "Download Engine",
    "engine.errors": (
        "DownloadFailed EngineClosed EngineError EventsLost Fault ForkedProcess "
        "IllegalTransition IntegrityError InternalError InvalidRequest PoisonError ScopeResetting "
        "StoreBusy StoreCorrupt StoreError StoreTooNew StoreUnusable Superseded "
        "TargetInvalid TooManyFiles TransferError UnknownEntry UnknownGroup "
    ),
    "engine.model.events": "EngineEvent MaintenanceDone Progress Recovered Removed Snapshot StateChanged",
    "engine.model.groups": "GroupRecord GroupRequest GroupSort GroupState GroupStatus Member MemberSort",
    "engine.model.paging": "Page",
    "engine.model.records": (
        "Attempt DownloadEntry DownloadRequest Durability ErrorRecord OfflineEntry PartRecord Representation "
    ),
    "engine.model.states": "Event Reason State",
    "engine.opening": "open_engine",
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
