"""``Runs`` over records in memory and transfers that a script plays, under a clock of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing
from msgspec.structs import replace

from engine.config import Config
from engine.control import attempts
from engine.control.hub import EventHub
from engine.control.moves import Moves
from engine.control.runs import Runs
from engine.errors import ConnectionLost, EngineError
from engine.model.events import EngineEvent
from engine.model.records import DownloadEntry
from engine.model.states import Event, Reason, State, advance
from engine.net.hosts import Hosts
from engine.store.entries import PendingLine
from engine.transfer.services import Services
from engine.transfer.targets import Targets

EntryList = list[DownloadEntry]
LineList = list[PendingLine]

# What a transfer does: so long, and then this error, or None to complete.
Play = Callable[[DownloadEntry], tuple[float, EngineError | None]]


def at_once(entry: DownloadEntry) -> tuple[float, EngineError | None]:
    """A second, and complete."""
    return 1.0, None


@dataclass
class Records:
    """The few calls of the store that ``Runs`` and ``Attempts`` make."""

    entries: dict[str, DownloadEntry] = field(default_factory=dict)

    def get(self, entry_id: str) -> DownloadEntry | None:
        return self.entries.get(entry_id)

    def update(self, entry_id: str, epoch: int, **changes: Any) -> DownloadEntry:
        assert self.entries[entry_id].epoch == epoch
        self.entries[entry_id] = replace(self.entries[entry_id], **changes)
        return self.entries[entry_id]

    def transition(
        self, entry_id: str, event: Event, *, epoch: int, now: float, reason: Reason = Reason.NONE, **changes: Any
    ) -> DownloadEntry:
        state = advance(self.entries[entry_id].state, event)
        return self.update(entry_id, epoch, state=state, state_reason=reason, **changes)

    def list(self, state: State, after: str | None, limit: int) -> EntryList:
        assert after is None
        return [entry for entry in self.entries.values() if entry.state is state][:limit]

    def pending(self, first: int = 0, limit: int | None = None) -> LineList:
        lines = [
            PendingLine(
                id=entry.id, sequence=entry.sequence, priority=entry.priority, sources=entry.sources,
                secret_header_names=entry.secret_header_names,
            )
            for entry in self.entries.values()
            if entry.state is State.PENDING and entry.sequence >= first
        ]  # fmt: skip
        return lines[:limit]


@dataclass
class Stage:
    """``log``: how many ran at once of each host and in all, whenever that changed."""

    config: Config
    play: Play = at_once
    records: Records = field(default_factory=Records)
    events: list[EngineEvent] = field(default_factory=list)
    running: list[DownloadEntry] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)
    most_of_host: dict[str, int] = field(default_factory=dict)
    most: int = 0
    runs: Runs = field(init=False)

    def add(self, entry_id: str, priority: int = 0, host: str = "h", **fields: Any) -> DownloadEntry:
        """A PENDING entry on record; nobody starts it."""
        entry = DownloadEntry(
            id=entry_id, priority=priority, sources=(f"http://{host}/{entry_id}",),
            sequence=len(self.records.entries) + 1, **fields,
        )  # fmt: skip
        self.records.entries[entry_id] = entry
        return entry

    def start(self, entry_id: str, priority: int = 0, host: str = "h", **fields: Any) -> None:
        """Add an entry and let it run when its turn comes."""
        self.runs.start(self.add(entry_id, priority, host, **fields))

    def state(self, entry_id: str) -> tuple[State, Reason]:
        """What is on record."""
        entry = self.records.entries[entry_id]
        return entry.state, entry.state_reason

    @contextmanager
    def at_work(self, entry: DownloadEntry) -> Iterator[None]:
        """Counted while it runs."""
        assert entry.id not in [other.id for other in self.running], "one task for each entry"
        self.running.append(entry)
        self.begun.append(entry.id)
        self.most = max(self.most, len(self.running))
        for host in {other.url.split("/")[2] for other in self.running}:
            count = sum(other.url.split("/")[2] == host for other in self.running)
            self.most_of_host[host] = max(self.most_of_host.get(host, 0), count)
        try:
            yield
        finally:
            self.running = [other for other in self.running if other.id != entry.id]

    def act(self, monkeypatch: pytest.MonkeyPatch, script: Callable[[Stage], Awaitable[None]]) -> None:
        """Run the script beside ``Runs``, in a trio run of its own."""
        stage = self

        class Played:
            """In the place of a Transfer."""

            bytes_fetched = bytes_resumed = bytes_committed = 0
            fresh = False

            def __init__(self, services: Services, entry: DownloadEntry, *_: object, **__: object) -> None:
                self.entry = entry
                self.completed: DownloadEntry | None = None

            async def run(self, cut_off: Callable[[], Awaitable[None]]) -> None:
                takes_s, error = stage.play(self.entry)
                with stage.at_work(self.entry):
                    try:
                        await trio.sleep(takes_s)
                    except trio.Cancelled:
                        await cut_off()
                        raise
                if error is not None:
                    raise error
                self.completed = stage.records.transition(
                    self.entry.id, Event.COMPLETE, epoch=self.entry.epoch, now=trio.current_time()
                )

            def progress(self) -> None:
                return None

        with monkeypatch.context() as patch:
            patch.setattr(attempts, "Transfer", Played)
            trio.run(self._run, script, clock=trio.testing.MockClock(autojump_threshold=0))

    async def _run(self, script: Callable[[Stage], Awaitable[None]]) -> None:
        async def write(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            await trio.lowlevel.checkpoint()
            result = call(*args, **kwargs)
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()  # what is durable is told a moment later
            return result

        hub = EventHub()
        services = cast(
            Services,
            SimpleNamespace(
                config=self.config, store=self.records, write=write, work=write, now=trio.current_time,
                emit=self.events.append, rng=Random(1), targets=Targets(),
                client=SimpleNamespace(hosts=Hosts(self.config)), resolver=None,
            ),
        )  # fmt: skip
        async with trio.open_nursery() as nursery:
            self.runs = Runs(services, Moves(services, hub), nursery)
            nursery.start_soon(self.runs.run)
            await script(self)
            self.runs.close()
            nursery.cancel_scope.cancel()


def lost(entry: DownloadEntry) -> ConnectionLost:
    """An error that is tried again."""
    return ConnectionLost(f"{entry.id} was cut off")
