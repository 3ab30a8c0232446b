"""Judges a library after a power cut against what its engine had said before (contract P1-P6, fault catalogue 3).

First the store as the disk has it, before any recovery: a strict bit is right even then. Then an engine is opened on
it, under the next boot, and all that it claims is compared with the origin's bytes, and all that was told with what is
there. For some images it also runs until everything is complete.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from engine import Durability, Engine, State, UnknownGroup, open_engine
from engine.errors import StoreUnusable
from engine.model.chunks import ChunkGrid
from engine.model.lines import Line
from engine.model.records import DownloadEntry, PartPhase, PartRecord
from engine.network.monitor import StaticMonitor
from engine.store.state_store import StateStore
from tests.fire.power_world import CONFIG, NEXT_BOOT, Ack, OneDisk, truth_by_etag, truth_of
from tests.support.library import content, hash_of

GONE: Final = "gone"
LIVE_S: Final = 30.0
_UNFINISHED: Final = {State.PENDING, State.IN_PROGRESS, State.PAUSED}


@dataclass
class Judge:
    """Of one recorded run. ``root`` is the library's folder, on the mounted image."""

    root: Path
    acks: Sequence[Ack]
    boot: str = NEXT_BOOT
    found: list[Ack] = field(default_factory=list)  # what the recovery found, in the words of a journal
    _rotten: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        self._rotten = frozenset(name for ack in self.acks if ack.kind == "begin" for name in ack.names)

    def judge(self, count: int, *, live: bool) -> list[str]:
        """What is wrong, in words, after a power cut behind ``count`` requests; nothing is as it should be."""
        problems = list(self._raw(count))
        problems += trio.run(self._recovered, count, False)
        if live and not problems:
            problems += trio.run(self._recovered, count, True)
        return problems

    def _raw(self, count: int) -> Iterator[str]:
        """P1 before anything was mended: what a strict entry's bits claim is on the disk."""
        files = OneDisk(self.boot)
        try:
            store = StateStore.open_readonly(str(self.root), CONFIG, files)
        except StoreUnusable:
            entries: list[DownloadEntry] = []  # there is no store yet; whether there should be one is seen later
        else:
            try:
                entries = store.list(limit=1000)
                for entry in entries:
                    for part in store.parts(entry.id):
                        if not part.unsynced_boot:
                            yield from self._claim(store, entry, part, "before recovery")
            finally:
                store.close(clean=False)
        yield from self._replaced_whole(count, entries, "before recovery")

    async def _recovered(self, count: int, live: bool) -> list[str]:
        when = "in the end" if live else "after recovery"
        monitor = StaticMonitor(Line(connected=True))
        files = OneDisk(self.boot)
        opened = open_engine(self.root, config=CONFIG, files=files, seed=1, network=monitor, resume=live)
        async with opened as engine:
            if live:
                await self._run_out(engine)
            store = engine._services.store
            entries = store.list(limit=1000)
            problems = [problem for entry in entries for problem in self._entry(store, entry, when, live)]
            problems += self._replaced_whole(count, entries, when)
            problems += self._orphans(store, entries, when)
            problems += [f"{when}: the store is damaged: {damage}" for damage in store.take_damages()]
            if not live:
                self.found = list(_facts(store, entries))
                problems += self._told(count, store, entries)
                problems += await self._groups(count, engine)
        return problems

    async def _run_out(self, engine: Engine) -> None:
        """Everything that can be completed is; nobody does anything but ask for it."""
        with trio.fail_after(LIVE_S):
            for entry in await engine.list(state=State.PAUSED):
                await engine.resume(entry.id)
            for entry in await engine.list(limit=1000):
                if entry.state in _UNFINISHED:
                    await engine.wait(entry.id)

    def _entry(self, store: StateStore, entry: DownloadEntry, when: str, live: bool) -> Iterator[str]:
        parts = store.parts(entry.id)
        for part in parts:
            yield from self._claim(store, entry, part, when)
        if entry.state is State.COMPLETED and not self._is_rotten(entry, parts[0]):
            offline = store.offline(entry.id)
            truths = {hash_of(truth_of(entry.url, version)) for version in (1, 2)}
            if offline is None or offline.blake3 not in truths or not os.path.exists(offline.path):
                yield f"{when}: {entry.id} is completed without its file"
            elif hash_of(content(offline.path)) != offline.blake3:
                yield f"{when}: {entry.id} is completed, and its file is wrong"
        elif entry.state is State.IN_PROGRESS and not live:
            yield f"{when}: {entry.id} is in progress, and nothing runs"
        elif live and entry.state not in {State.COMPLETED, State.CANCELLED}:
            yield f"{when}: {entry.id} is {entry.state.value}: {entry.last_error}"

    def _is_rotten(self, entry: DownloadEntry, part: PartRecord) -> bool:
        return entry.id in self._rotten and part.phase is PartPhase.PUBLISHED and part.generation == 1

    def _claim(self, store: StateStore, entry: DownloadEntry, part: PartRecord, when: str) -> Iterator[str]:
        """P1 and P3: held ranges are the bytes of the part's own generation."""
        grid = ChunkGrid(part.length or 0, part.chunk_bytes)
        runs = store.held_runs(entry.id, part.index, grid.count)
        if not runs or self._is_rotten(entry, part):
            return
        truth = truth_by_etag(entry.url, part.representation.etag)
        if truth is None or len(truth) != part.length:
            yield f"{when}: {entry.id} holds chunks of no version of the origin's ({part.representation})"
            return
        paths = [os.path.join(part.folder, name) for name in (part.part_name, part.final_name) if name]
        there = next((path for path in paths if os.path.exists(path)), None)
        if there is None:
            yield f"{when}: {entry.id} ({part.phase.value}) holds chunks of a file that is not there"
            return
        data = content(there)
        bad = [
            index
            for first, number in runs
            for index in range(first, first + number)
            if data[slice(*grid.byte_range(index, 1))] != truth[slice(*grid.byte_range(index, 1))]
        ]
        if bad:
            yield f"{when}: {entry.id} ({part.phase.value}) holds chunks that are not on the disk: {bad}"

    def _replaced_whole(self, count: int, entries: Iterable[DownloadEntry], when: str) -> Iterator[str]:
        """A file that is being replaced is the old or the new one at any time."""
        for ack in self.acks:
            if ack.kind == "whole" and ack.at <= count:
                path, old = ack.names
                right = {old, *(hash_of(truth_of(entry.url, 1)) for entry in entries)}
                if not os.path.exists(path) or hash_of(content(path)) not in right:
                    yield f"{when}: {path} is neither the old file nor the new one"

    def _orphans(self, store: StateStore, entries: Iterable[DownloadEntry], when: str) -> Iterator[str]:
        """Every file is on record (DESIGN law 4)."""
        known = {os.path.basename(ack.names[0]) for ack in self.acks if ack.kind == "whole"}
        for entry in entries:
            offline = store.offline(entry.id)
            if offline is not None:
                known.add(os.path.basename(offline.path))
            for part in store.parts(entry.id):
                known |= {part.part_name, part.final_name, *part.superseded}
        for at, _, names in [*os.walk(self.root / "files"), *os.walk(self.root.parent / "music")]:
            for name in names:
                if name not in known:
                    yield f"{when}: {at}/{name} is nobody's"

    def _told(self, count: int, store: StateStore, entries: Iterable[DownloadEntry]) -> Iterator[str]:
        """P4: what was told is so, or what came after it."""
        found = {entry.id: entry for entry in entries}
        told = [ack for ack in self.acks if ack.kind in {"state", GONE}]
        for entry_id in {ack.id for ack in told}:
            history = [ack for ack in told if ack.id == entry_id]
            acked = sum(ack.at <= count for ack in history)
            if acked == 0:
                continue
            entry = found.get(entry_id)
            now = GONE if entry is None else entry.state.value
            allowed = _followers(history[acked - 1 :], entry) | self._begun(entry_id, count)
            if now not in allowed:
                yield f"{entry_id} is {now}, and was told to be {history[acked - 1].state or GONE}"
            if entry is not None and entry.state in _UNFINISHED and entry.durability is Durability.STRICT:
                yield from self._progress_told(count, store, entry)

    def _begun(self, entry_id: str, count: int) -> set[str]:
        """What verbs may have made of the entry that were called and did not return."""
        called = [ack for ack in self.acks if ack.kind in {"will", "did"} and ack.id == entry_id and ack.at <= count]
        returned = {ack.state for ack in called if ack.kind == "did"}
        return {ack.state for ack in called} - returned

    def _progress_told(self, count: int, store: StateStore, entry: DownloadEntry) -> Iterator[str]:
        told = [ack for ack in self.acks if ack.kind == "progress" and ack.id == entry.id]
        before = sum(ack.at <= count for ack in told)
        if not before or told[before - 1].epoch != entry.epoch:
            return
        last = told[before - 1]
        # Bytes of a version that the source no longer has go first, and are told to have gone right behind that.
        coming = next((ack.bytes_done for ack in told[before:] if ack.generation == last.generation), last.bytes_done)
        part = next(iter(store.parts(entry.id)), None)
        generation, held = (0, 0) if part is None else (part.generation, part.bytes_done)
        if generation <= last.generation and held < min(last.bytes_done, coming):
            yield f"{entry.id} holds {held} bytes, and was told to hold {last.bytes_done}"

    async def _groups(self, count: int, engine: Engine) -> list[str]:
        problems: list[str] = []
        for ack in self.acks:
            if ack.kind not in {"group", "no_group"} or ack.at > count:
                continue
            try:
                members = (await engine.group_members(ack.id, scope="alice")).items
            except UnknownGroup:
                members = ()
            leaving = any(one.kind == "leaving" and one.id == ack.id and one.at < count for one in self.acks)
            if ack.kind == "group" and not leaving and {member.entry_id for member in members} != set(ack.names):
                problems.append(f"the group {ack.id} was told to be there, and has {len(members)} members")
            if ack.kind == "no_group" and members:
                problems.append(f"the group {ack.id} was told to be gone")
        return problems


def _followers(history: Sequence[Ack], entry: DownloadEntry | None) -> set[str]:
    """The states in which a recovered entry may be: the last that was told, those that came after it, and what the
    engine makes of them by itself."""
    allowed = {GONE if ack.kind == GONE else ack.state for ack in history}
    if State.COMPLETED in allowed and entry is not None and entry.durability is not Durability.STRICT:
        allowed.add(State.PENDING.value)
    if allowed & {State.IN_PROGRESS, State.PENDING}:
        allowed |= {State.PENDING.value, State.COMPLETED.value}
    return allowed


def _facts(store: StateStore, entries: Iterable[DownloadEntry]) -> Iterator[Ack]:
    for entry in entries:
        yield Ack(0, "state", id=entry.id, state=entry.state.value, epoch=entry.epoch)
        for part in store.parts(entry.id):
            yield Ack(
                0,
                "progress",
                id=entry.id,
                epoch=entry.epoch,
                generation=part.generation,
                bytes_done=part.bytes_done,
            )
