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
    from engine.control.playable import OfflineState
    from engine.control.scopes import ScopeReset
    from engine.control.verify import Health, Validation
    from engine.engine import Download, Engine
    from engine.errors import (
        AddressRefused,
        DownloadFailed,
        EngineClosed,
        EngineError,
        EventsLost,
        Fault,
        ForkedProcess,
        HostExhausted,
        IllegalTransition,
        IntegrityError,
        InternalError,
        InvalidRequest,
        PoisonError,
        ProxyAuth,
        ProxyError,
        ScopeResetting,
        StoreBusy,
        StoreCopied,
        StoreCorrupt,
        StoreError,
        StoreGone,
        StoreTooNew,
        StoreUnusable,
        Superseded,
        TargetInvalid,
        TooManyFiles,
        TransferError,
        UnknownEntry,
        UnknownGroup,
        WrongThread,
    )
    from engine.media.metalink import requests_from_metalink
    from engine.model.events import (
        EngineEvent,
        LineChanged,
        MaintenanceDone,
        Progress,
        Recovered,
        Removed,
        Snapshot,
        SourceBlamed,
        StateChanged,
    )
    from engine.model.groups import GroupRecord, GroupRequest, GroupSort, GroupState, GroupStatus, Member, MemberSort
    from engine.model.line_policy import LinePolicy
    from engine.model.lines import Connectivity, Interface, Line, LinkKind
    from engine.model.paging import Page
    from engine.model.records import (
        Attempt,
        BlamedSource,
        DownloadEntry,
        DownloadRequest,
        Durability,
        ErrorRecord,
        OfflineEntry,
        OnChange,
        PartRecord,
        Pieces,
        Representation,
    )
    from engine.model.resolve import Resolve, Resolved, Resolver
    from engine.model.states import Event, Reason, State
    from engine.net.addresses import AddressPolicy
    from engine.net.trust import ClientCertificate, Trust
    from engine.network.monitor import NetworkMonitor, StaticMonitor
    from engine.opening import open_engine
    from engine.version import __version__


__all__ = [
    "AddressPolicy",
    "AddressRefused",
    "Attempt",
    "BlamedSource",
    "ClientCertificate",
    "Config",
    "Connectivity",
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
    "HostExhausted",
    "IllegalTransition",
    "IntegrityError",
    "Interface",
    "InternalError",
    "InvalidRequest",
    "Line",
    "LineChanged",
    "LinePolicy",
    "LinkKind",
    "MaintenanceDone",
    "MaintenanceReport",
    "Member",
    "MemberSort",
    "NetworkMonitor",
    "OfflineEntry",
    "OfflineState",
    "OnChange",
    "Page",
    "PartRecord",
    "Pieces",
    "PoisonError",
    "Progress",
    "ProxyAuth",
    "ProxyError",
    "Reason",
    "Recovered",
    "Refusal",
    "Removed",
    "Representation",
    "Resolve",
    "Resolved",
    "Resolver",
    "RunStats",
    "ScopeReset",
    "ScopeResetting",
    "Snapshot",
    "SourceBlamed",
    "State",
    "StateChanged",
    "StaticMonitor",
    "StoreBusy",
    "StoreCopied",
    "StoreCorrupt",
    "StoreError",
    "StoreGone",
    "StoreTooNew",
    "StoreUnusable",
    "Subscription",
    "Superseded",
    "TargetInvalid",
    "TooManyFiles",
    "TransferError",
    "Trust",
    "UnknownEntry",
    "UnknownGroup",
    "Validation",
    "WrongThread",
    "__version__",
    "open_engine",
    "requests_from_metalink",
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
    "engine.control.playable": "OfflineState",
    "engine.control.verify": "Health Validation",
    "engine.engine": "Download Engine",
    "engine.errors": (
        "AddressRefused DownloadFailed EngineClosed EngineError EventsLost Fault ForkedProcess "
        "HostExhausted IllegalTransition IntegrityError InternalError InvalidRequest PoisonError ProxyAuth ProxyError "
        "ScopeResetting StoreBusy StoreCopied StoreCorrupt StoreError StoreGone StoreTooNew StoreUnusable Superseded "
        "TargetInvalid TooManyFiles TransferError UnknownEntry UnknownGroup WrongThread "
    ),
    "engine.media.metalink": "requests_from_metalink",
    "engine.model.events": (
        "EngineEvent LineChanged MaintenanceDone Progress Recovered Removed Snapshot SourceBlamed StateChanged"
    ),
    "engine.model.groups": "GroupRecord GroupRequest GroupSort GroupState GroupStatus Member MemberSort",
    "engine.model.line_policy": "LinePolicy",
    "engine.model.lines": "Connectivity Interface Line LinkKind",
    "engine.model.paging": "Page",
    "engine.model.records": (
        "Attempt BlamedSource DownloadEntry DownloadRequest Durability ErrorRecord OfflineEntry OnChange PartRecord "
        "Pieces Representation "
    ),
    "engine.model.resolve": "Resolve Resolved Resolver",
    "engine.model.states": "Event Reason State",
    "engine.net.addresses": "AddressPolicy",
    "engine.net.trust": "ClientCertificate Trust",
    "engine.network.monitor": "NetworkMonitor StaticMonitor",
    "engine.opening": "open_engine",
    "engine.version": "__version__",
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
