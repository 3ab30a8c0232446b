"""One judge for all harnesses: what a library may look like after a bad day (fault catalogue section 3, P1 to P6).

It reads the store and the folders of a root on which no engine of this process is open, and knows only three things
besides: the bytes of the origin, what was acknowledged before the day ended, and what a user did to files himself.
A violation is one line of text that begins with the promise it breaks; a sound library has none.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from engine.config import Config
from engine.control.settle import failed_mark
from engine.files.filesystem import FileSystem
from engine.model.chunks import CVS_PER_PAGE, ChunkGrid
from engine.model.events import EngineEvent, Progress, Removed, StateChanged
from engine.model.records import DownloadEntry, OfflineEntry, PartPhase, PartRecord
from engine.model.states import State
from engine.store.state_store import StateStore
from engine.store.tombstones import LIBRARY, Tombstone
from engine.transfer.setup_part import chunk_digest, entry_tag
from tests.support.library import SMALL, content, hash_of

CV_BYTES = 32
PAGE = 500
LIBRARY_FOLDER = "files"

# Bytes that an entry may have, by its id; those of any other entry under the empty id.
Truths = Mapping[str, Sequence[bytes]]


@dataclass
class Journal:
    """What was acknowledged, and so has to survive. Ids of entries; ``progress``: the durable bytes last told, with the
    epoch that they were told of."""

    accepted: set[str] = field(default_factory=set)
    completed: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    progress: dict[str, tuple[int, int]] = field(default_factory=dict)

    def told(self, event: EngineEvent) -> None:
        """The host saw this event."""
        if isinstance(event, Removed):
            self.removed.add(event.id)
            self.accepted.discard(event.id)
            self.completed.discard(event.id)
            self.progress.pop(event.id, None)
        elif isinstance(event, StateChanged):
            self.removed.discard(event.id)
            self.accepted.add(event.id)
            (self.completed.add if event.state is State.COMPLETED else self.completed.discard)(event.id)
        elif isinstance(event, Progress):
            self.progress[event.id] = (event.epoch, event.bytes_done)


@dataclass(frozen=True, kw_only=True)
class Day:
    """What the judge has to know of the day. ``power_cut``: the page cache is gone, and nobody has started an engine
    since: claims on bytes that were never synced are not counted. ``boot_id``: the machine's; what is marked unsynced
    since another boot is known to be doubtful, and counts only once the library ``rested``: an engine without faults
    has been open and came to rest since, so nothing may be half-way. ``harmed``: ``(entry id, generation)`` of finished
    files that the user himself harmed or deleted. ``others``: names in the folders that are not the engine's.
    ``folders``: folders of the caller's own that the library was sent to."""

    truths: Truths
    journal: Journal = field(default_factory=Journal)
    config: Config = SMALL
    power_cut: bool = False
    boot_id: str = ""
    rested: bool = False
    harmed: Collection[tuple[str, int]] = ()
    others: Collection[str] = ()
    folders: Collection[str] = ()

    def doubts(self, part: PartRecord) -> bool:
        """Whether it is on record that the part's bytes may not have outlived a power cut."""
        known = self.boot_id and not self.rested and part.unsynced_boot not in {self.boot_id, failed_mark(self.boot_id)}
        return bool(part.unsynced_boot and (self.power_cut or known))

    def truths_of(self, entry_id: str) -> Sequence[bytes]:
        """The bytes that the entry may have."""
        return self.truths.get(entry_id, self.truths.get("", ()))


@dataclass(frozen=True)
class Found:
    """All that a store knows of one entry; ``held``: of each part the runs ``(first, count)`` of its set bits, and the
    CVs of each run."""

    entry: DownloadEntry
    parts: tuple[PartRecord, ...]
    held: dict[int, tuple[tuple[int, int, bytes], ...]]
    offline: OfflineEntry | None


def judge(root: str | os.PathLike[str], day: Day) -> list[str]:
    """All violations; none when the library keeps what was promised."""
    path = os.fspath(root)
    if not os.path.isdir(os.path.join(path, "store")):
        lost = sorted(day.journal.accepted)
        return [f"P4: {lost} were accepted, and there is no store"] if lost else []
    found, tombstones = read_store(path, day.config)
    violations = [line for one in found.values() for line in _judge_entry(one, day)]
    violations += _judge_journal(found, tombstones, day)
    violations += _judge_folders(path, found, tombstones, day)
    return violations


def read_store(root: str, config: Config = SMALL) -> tuple[dict[str, Found], list[Tombstone]]:
    """All that the store in ``root`` has on record."""
    store = StateStore.open_readonly(root, config, FileSystem())
    try:
        return {one.entry.id: one for one in _read(store)}, store.tombstones.all()
    finally:
        store.close(clean=False)


def _read(store: StateStore) -> Iterator[Found]:
    after: str | None = None
    while page := store.list(None, after, PAGE):
        for entry in page:
            parts = store.parts(entry.id)
            held = {part.index: tuple(_held(store, entry.id, part)) for part in parts}
            yield Found(entry, parts, held, store.offline(entry.id))
        after = page[-1].id


def _held(store: StateStore, entry_id: str, part: PartRecord) -> Iterator[tuple[int, int, bytes]]:
    grid = ChunkGrid(part.length or 0, part.chunk_bytes)
    for first, count in store.held_runs(entry_id, part.index, grid.count):
        for at in range(first, first + count, CVS_PER_PAGE):
            many = min(CVS_PER_PAGE, first + count - at)
            yield at, many, store.cvs(entry_id, part.index, many, first=at)


def _judge_entry(one: Found, day: Day) -> Iterator[str]:
    entry = one.entry
    for part in one.parts:
        if (entry.id, part.generation) not in day.harmed:
            yield from _judge_part(one, part, day)
    if entry.state is State.COMPLETED and not any((entry.id, part.generation) in day.harmed for part in one.parts):
        yield from _judge_completed(one, day)
    if entry.last_error is not None and entry.last_error.code == "internal":
        yield f"P5: {entry.id} met an error that nobody expected: {entry.last_error.message}"
    if day.rested and entry.state is State.IN_PROGRESS:
        yield f"P5: {entry.id} is at work, and no engine is"


def _judge_part(one: Found, part: PartRecord, day: Day) -> Iterator[str]:
    """P1, P3: all that is claimed is there, and is of one truth; the counters and CVs agree."""
    name = f"{one.entry.id} part {part.index} generation {part.generation}"
    if day.doubts(part):
        return
    grid = ChunkGrid(part.length or 0, part.chunk_bytes)
    runs = one.held[part.index]
    count = sum(many for _, many, _ in runs)
    size = sum(end - start for start, end in (grid.byte_range(first, many) for first, many, _ in runs))
    if part.length is not None and (count, size) != (part.chunks_done, part.bytes_done):
        yield f"P6: {name} counts {part.chunks_done} chunks, {part.bytes_done} bytes; its bits say {count}, {size}"
    if not runs:
        return
    path = _place_of(part)
    if path is None:
        yield f"P1: {name} claims {size} bytes of {part.part_name or part.final_name}, which is not there"
        return
    data = content(path)
    fitting = [truth for truth in day.truths_of(one.entry.id) if len(truth) == part.length]
    wrong = [list(_wrong_chunks(data, truth, grid, runs)) for truth in fitting]
    if not any(not each for each in wrong):
        best = min(wrong, key=len, default=["no such length was ever served"])
        yield f"P1: {name} claims {size} bytes that are not those of any one version: {best[:5]}"


def _wrong_chunks(data: bytes, truth: bytes, grid: ChunkGrid, runs: Sequence[tuple[int, int, bytes]]) -> Iterator[str]:
    for first, many, cvs in runs:
        for index in range(first, first + many):
            start, end = grid.byte_range(index, 1)
            at = (index - first) * CV_BYTES
            if data[start:end] != truth[start:end]:
                yield f"chunk {index} is not on the disk"
            elif cvs[at : at + CV_BYTES] != chunk_digest(truth[start:end], grid, index):
                yield f"chunk {index} has another CV"


def _place_of(part: PartRecord) -> str | None:
    """Where the part's bytes are, under whichever of its names it is there."""
    for name in (part.part_name, part.final_name):
        path = os.path.join(part.folder, name)
        if name and os.path.isfile(path):
            return path
    return None


def _judge_completed(one: Found, day: Day) -> Iterator[str]:
    """P2: all bits, the name, the bytes and the hash of what is COMPLETED."""
    entry, offline = one.entry, one.offline
    if offline is None:
        yield f"P2: {entry.id} is COMPLETED without a record of its file"
        return
    if not os.path.isfile(offline.path):
        if not any(map(day.doubts, one.parts)):
            yield f"P2: {entry.id} is COMPLETED and {os.path.basename(offline.path)} is not there"
        return
    if any(map(day.doubts, one.parts)):
        return
    data = content(offline.path)
    if data not in day.truths_of(entry.id):
        yield f"P2: {entry.id} is COMPLETED and its {len(data)} bytes are not the origin's"
    elif (offline.blake3, offline.size) != (hash_of(data), len(data)):
        yield f"P2: {entry.id} is COMPLETED under another hash or length than its file's"
    for part in one.parts:
        missing = ChunkGrid(part.length or 0, part.chunk_bytes).count - part.chunks_done
        if part.phase is not PartPhase.PUBLISHED or missing:
            yield f"P2: {entry.id} is COMPLETED, its part {part.index} is {part.phase} and lacks {missing} chunks"


def _judge_journal(found: Mapping[str, Found], tombstones: Sequence[Tombstone], day: Day) -> Iterator[str]:
    """P4: what was acknowledged is durable; P5: no byte that was told to be durable is lost."""
    journal = day.journal
    for entry_id in sorted(journal.accepted - found.keys()):
        yield f"P4: {entry_id} was accepted, and no record knows it"
    for entry_id in sorted(journal.removed & found.keys()):
        yield f"P4: {entry_id} was removed, and is there again"
    for entry_id in sorted(journal.completed & found.keys()):
        one = found[entry_id]
        if one.entry.state is not State.COMPLETED and not any(
            (entry_id, part.generation) in day.harmed for part in one.parts
        ):
            unsynced = any(part.unsynced_boot for part in one.parts)
            if not (unsynced or one.entry.durability == "relaxed") or not day.power_cut:
                yield f"P4: {entry_id} was told to be COMPLETED, and is {one.entry.state}"
    for entry_id, (epoch, told) in sorted(journal.progress.items()):
        one_or_none = found.get(entry_id)
        if one_or_none is None or one_or_none.entry.epoch != epoch or day.power_cut:
            continue
        if len(day.truths_of(entry_id)) > 1:
            continue  # a new version of the source begins at nothing, in the same epoch
        done = sum(part.bytes_done for part in one_or_none.parts)
        if done < told:
            yield f"P5: {entry_id} was told to have {told} durable bytes, and has {done}"
    if day.rested:
        for tombstone in tombstones:
            yield f"P5: the removal of {tombstone.id} was not finished"


def _judge_folders(root: str, found: Mapping[str, Found], tombstones: Sequence[Tombstone], day: Day) -> Iterator[str]:
    """Law 4: no file that no record knows; and once at rest, none that nobody needs."""
    library = os.path.join(root, LIBRARY_FOLDER)
    for folder in (library, *day.folders):
        known = set(day.others) | set(_known_names(folder, library, found, tombstones, rested=day.rested))
        swept = tuple(
            f".oe-{entry_tag(one.id)}-"
            for one in tombstones
            if folder in {library if swept == LIBRARY else swept for swept in one.swept}
        )
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            if name not in known and not name.startswith(swept or ("\0",)):
                yield f"P5: {name} in {os.path.basename(folder)} is an orphan"


def _known_names(
    folder: str, library: str, found: Mapping[str, Found], tombstones: Sequence[Tombstone], *, rested: bool
) -> Iterator[str]:
    for one in found.values():
        done = one.entry.state is State.COMPLETED
        if one.offline is not None and os.path.dirname(one.offline.path) == folder:
            yield os.path.basename(one.offline.path)
        for part in one.parts:
            if part.folder != folder:
                continue
            if part.phase in {PartPhase.FINALIZING, PartPhase.PUBLISHED} or part.replaces:
                yield part.final_name
            yield from part.superseded  # what a crash leaves of a repair is on record, and goes with the next clean-up
            if not (rested and done):
                yield part.part_name
    for tombstone in tombstones:
        for doomed in tombstone.doomed:
            if doomed.folder == folder:
                yield from doomed.names
                yield doomed.final_name
