"""An offline media engine: downloads over HTTP/1.1 that never lose, mix up or wrongly believe a byte.

::

    async with open_engine("library") as engine:
        download = await engine.offline(DownloadRequest(url="https://…/track.flac", id="track-1"))
        entry = await download.wait()
"""

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
    "TransferError",
    "UnknownEntry",
    "Validation",
    "open_engine",
]
