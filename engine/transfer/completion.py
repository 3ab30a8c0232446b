"""What makes an entry COMPLETED: its root, its expectations, its offline record; for a transfer and for the recovery.

All functions block and run in worker threads.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from engine import native
from engine.errors import BadRecord, IntegrityError
from engine.model.chunks import ChunkGrid
from engine.model.records import DownloadEntry, OfflineEntry, PartRecord
from engine.model.states import Event
from engine.net.url import parse_url
from engine.store.state_store import StateStore


def root_of(store: StateStore, entry_id: str, part_index: int, grid: ChunkGrid) -> str:
    """The BLAKE3 hash of a part that holds all its chunks, merged from their CVs. Raises BadRecord."""
    if grid.count == 0:
        return native.root_hash(b"").hex()
    cvs = store.cvs(entry_id, part_index, grid.count)
    return (cvs if grid.sole else native.root_from_cvs(cvs)).hex()


def other_digests(entry: DownloadEntry, record: PartRecord, *, resumed: bool) -> list[str]:
    """The algorithms that the entry expects, or else its source states, and that cost one reading of the file.

    BLAKE3 comes from the chunks; but when bytes of an earlier run are ``resumed``, a digest that the caller expects is
    compared with what is on the disk now, for somebody may have written into the unfinished file between the runs.
    """
    return [name for name in entry.expect or record.representation.digests if name != "blake3" or resumed]


def check_expected(entry: DownloadEntry, record: PartRecord, length: int, found: Mapping[str, str]) -> None:
    """Raise IntegrityError unless the length and every digest are what the entry expects; or, where it expects none,
    what the source said of them: a source that is wrong about itself does not outweigh the caller. ``found`` has those
    digests."""
    if entry.expected_length not in {None, length}:
        raise IntegrityError(f"the file has {length} bytes, expected {entry.expected_length}")
    for name, expected in entry.expect.items():
        if found[name] != expected:
            raise IntegrityError(f"{name} is {found[name]}, expected {expected}")
    for name, stated in () if entry.expect else record.representation.digests.items():
        if found[name] != stated:
            source = parse_url(entry.url).redacted()
            raise IntegrityError(f"{name} is {found[name]}, but {source} says {stated}")


def complete(
    store: StateStore,
    entry: DownloadEntry,
    record: PartRecord,
    digests: Mapping[str, str],
    now: float,
    mtime_ns: int,
    changes: Mapping[str, Any] | None = None,
) -> DownloadEntry:
    """Make the entry of a published, checked part COMPLETED, in one transaction with its part and offline records.

    ``digests``: what was computed besides BLAKE3; ``changes``: other fields of the entry that follow from its end.
    Raises StaleEpoch, IllegalTransition, StoreError.
    """
    length = record.length or 0
    known = _known(store, entry, record.digest)
    offline = replace(
        known,
        path=os.path.join(record.folder, record.final_name),
        size=length,
        blake3=record.digest,
        digests={**known.digests, **digests},
        media_type=record.representation.content_type,
        verified_at=now,
        mtime_ns=mtime_ns,
        device=record.device,
        inode=record.inode,
        inode_version=record.inode_version,
    )
    return store.transition(
        entry.id,
        Event.COMPLETE,
        epoch=entry.epoch,
        now=now,
        parts=(record,),
        offline=offline,
        bytes_total=length,
        last_error=None,
        next_retry_at=None,
        **(changes or {}),
    )


def _known(store: StateStore, entry: DownloadEntry, digest: str) -> OfflineEntry:
    """What the host had noted of the finished file (when it expires, its licence …), if it has the same bytes again."""
    new = OfflineEntry(id=entry.id, path="", size=0, blake3=digest)
    if entry.attempt_count <= 1:
        return new
    try:
        kept = store.offline(entry.id)
    except BadRecord:
        return new
    return kept if kept is not None and kept.blake3 == digest else new
