"""Comparing sources with each other, where no piece hashes are known.

Before bytes of another source are used, at least one chunk is fetched from both; while there is time, as many as cost a
twentieth of the file. Where they differ, both are asked for those bytes again (one that contradicts itself is bad),
then a third (the majority is right), then the hash of the whole file decides in the end. When there is none either, the
entry fails and names both: nothing tells which of them is right.
"""

from __future__ import annotations

import trio

from engine.config import KIB, MIB
from engine.errors import BadRange, EngineError, SourcesDiffer, StorageError, TransferError
from engine.model.records import DownloadEntry
from engine.net.response import AnswerKind, judge
from engine.transfer.blame import blame, forget
from engine.transfer.fetcher import introduce
from engine.transfer.part_job import PartJob
from engine.transfer.plan import Plan
from engine.transfer.services import Services
from engine.transfer.setup_part import chunk_digest
from engine.transfer.sources import Source, Sources

# Compared in advance of each source that stands by: so much, and at most this share of the file.
COMPARED_BYTES = 10 * MIB
COMPARED_SHARE = 20
# While sources are being compared no more than this comes of one that may be bad; but for a moment only: a source that
# stands by and is slow must not hold up one that is not.
AHEAD_BYTES = 16 * MIB
GRACE_S = 1.0
# Asked for again around the first byte that differs.
WINDOW_BYTES = 64 * KIB
LOOK_S = 0.25


class CrossCheck:
    """``run`` is its task; ``done`` is set when all sources that stand by were compared, or cannot be."""

    def __init__(self, services: Services, entry: DownloadEntry, job: PartJob, sources: Sources, plan: Plan) -> None:
        assert job.ledger is not None  # noqa: S101  # who makes one looked
        self._services, self._entry, self._job = services, entry, job
        self._sources, self._plan, self._ledger = sources, plan, job.ledger
        self._indexes = self._chosen()
        self._wanted = set(self._indexes)
        self._sealed_first: int | None = None
        self._room_left = max(1, AHEAD_BYTES // job.grid.chunk_bytes)
        self._grace_until = trio.current_time() + GRACE_S
        self._digests: dict[int, bytes] = {}
        self._news = trio.Event()
        self._locks: dict[Source, trio.Lock] = {}
        self._judging = trio.Lock()
        self.done = trio.Event()
        self._ledger.listeners.append(self._sealed)

    def _chosen(self) -> list[int]:
        """Neighbours that are held; else those behind the first, which come soon."""
        grid, held = self._job.grid, self._job.held
        count = min(-(-COMPARED_BYTES // grid.chunk_bytes), grid.count // COMPARED_SHARE)
        first, length = max(held.runs(), key=lambda run: run[1], default=(1, grid.count))
        return list(range(first, min(first + min(count, length), grid.count)))

    async def run(self) -> None:
        """Compare every source that stands by. Raises SourcesDiffer when two differ and nothing can tell who is
        right."""
        async with trio.open_nursery() as nursery:
            failures: list[EngineError] = []
            for source in self._sources.usable:
                nursery.start_soon(self._compare_ahead, source, failures)
        if failures:
            raise failures[0]
        self.done.set()
        await trio.sleep_forever()

    async def _compare_ahead(self, source: Source, failures: list[EngineError]) -> None:
        """Ask at once, so that it is known how fast the source is; compare as the others' chunks come."""
        if source is self._sources.lead:
            return
        pending: dict[int, bytes] = {}
        try:
            for index in self._indexes:
                if source.out:
                    return
                data = await self._ask(source, *self._job.grid.byte_range(index, 1))
                pending[index] = await self._hash(data, index)
                for known in [index for index in pending if self._known(index)]:
                    await self._settle(source, known, pending.pop(known), data if known == index else None)
            for index, theirs in pending.items():
                while not self._known(index):
                    await self._news.wait()
                await self._settle(source, index, theirs, None)
            source.compared = bool(self._indexes) and not source.out
        except EngineError as error:
            if not isinstance(error, TransferError) or isinstance(error, SourcesDiffer | StorageError):
                failures.append(error)
            else:
                self._sources.failed(source, error, trio.current_time())

    async def admit(self, source: Source) -> bool:
        """Whether bytes of the source may be used. Raises SourcesDiffer, and what asking it raises."""
        if source.trusted:
            return True
        async with self._locks.setdefault(source, trio.Lock()):
            index = await self._something_sealed(source)
            if index is None:  # it is the first that has anything
                source.trusted = True
            elif not source.trusted and not source.out:
                await self._compare(source, index)
        return source.trusted and not source.out

    async def _something_sealed(self, source: Source) -> int | None:
        """A chunk that another source sent; None when none has, and none is at it."""
        while True:
            held = next(self._job.held.runs(), None)
            if held is not None:
                return held[0]
            if self._sealed_first is not None:
                return self._sealed_first
            if not any(other.active for other in self._sources.all if other is not source):
                return None
            with trio.move_on_after(LOOK_S):
                await self._news.wait()

    async def room(self, index: int) -> None:
        """Before a chunk is received that is not to be compared itself: while sources are compared, for a moment."""
        if self._room_left > 0 or self.done.is_set() or index in self._wanted:
            return
        with trio.move_on_at(self._grace_until):
            await self.done.wait()

    def _sealed(self, index: int, digest: bytes) -> None:
        self._room_left -= 1
        if self._sealed_first is None:
            self._sealed_first = index
            self._wanted.add(index)
        if index in self._wanted:
            self._digests[index] = digest
            self._news.set()
            self._news = trio.Event()

    def _known(self, index: int) -> bool:
        return index in self._digests or index in self._job.held

    async def _compare(self, source: Source, index: int) -> None:
        """Fetch a chunk that is here from this source too."""
        data = await self._ask(source, *self._job.grid.byte_range(index, 1))
        await self._settle(source, index, await self._hash(data, index), data)

    async def _settle(self, source: Source, index: int, theirs: bytes, data: bytes | None) -> None:
        """Compare ``theirs``, the hash of what the source sent for a chunk that is here; ``data``: what that was, or
        None when it is not kept."""
        if self._ledger.source_of(index) == source.number or theirs == await self._digest(index):
            source.trusted = True
            return
        async with self._judging:
            # By now the chunk may be another's, this very source's, or missing again.
            if source.out or not self._known(index) or self._ledger.source_of(index) == source.number:
                return
            if theirs == await self._digest(index):
                return
            if data is None:
                data = await self._ask(source, *self._job.grid.byte_range(index, 1))
                if await self._hash(data, index) != theirs:
                    await self._blame(source, f"sent wrong bytes in chunk {index}: asked again, it sent others")
                    return
            await self._judge(source, index, data)

    async def _hash(self, data: bytes, index: int) -> bytes:
        return await self._services.work(chunk_digest, data, self._job.grid, index)

    async def _digest(self, index: int) -> bytes:
        if index in self._digests:
            return self._digests[index]
        job = self._job
        return await self._services.work(self._services.store.cvs, job.entry_id, job.record.index, 1, first=index)

    async def _ask(self, source: Source, start: int, end: int) -> bytes:
        data = bytearray(end - start)
        began = trio.current_time()
        exchange = await source.open(start, end)
        try:
            answer = judge(exchange.head, (start, end), source.known(self._job.record), exchange.redirected)
            if answer.kind is not AnswerKind.RANGE or (answer.start, answer.end) != (start, end):
                raise BadRange(f"{source.name} does not serve bytes {start}-{end - 1} by themselves", status=206)
            with memoryview(data) as view:
                if await exchange.fill(view) < len(data):
                    raise BadRange(f"{source.name} sent fewer bytes than it said", status=206)
        finally:
            source.done(exchange)
        source.score.note(len(data), trio.current_time() - began)
        await introduce(self._services, self._job, source, answer.representation)
        return bytes(data)

    async def _judge(self, source: Source, index: int, theirs: bytes) -> None:
        """The source and what is held differ in this chunk: find out who is wrong."""
        grid, files, fd = self._job.grid, self._services.files, self._job.file.fd
        start, end = grid.byte_range(index, 1)
        held = await self._services.work(files.read_at, fd, end - start, start)
        at = next((i for i, (a, b) in enumerate(zip(held, theirs, strict=True)) if a != b), 0)
        low = max(0, at - WINDOW_BYTES // 2)
        high = min(len(held), low + WINDOW_BYTES)
        number = self._ledger.source_of(index)
        other = None if number is None else self._sources.numbered(number)
        wrong, why = await self._wrong(source, other, (start + low, start + high), held[low:high], theirs[low:high])
        if not wrong:
            names = f"{source.name} and {other.name if other else 'what was fetched before'}"
            self._undecided(source, f"{names} differ at byte {start + at}")
        with trio.CancelScope(shield=True):  # a verdict is carried out as a whole
            await self._carry_out(wrong, source, other, f"sent wrong bytes around {start + at}: {why}")

    async def _carry_out(self, wrong: set[Source | None], source: Source, other: Source | None, reason: str) -> None:
        """What is on its way from the wrong ones is not taken any more; then their bytes go, and only then are they
        named: after a crash in between nobody would doubt the bytes. ``other`` is None for those of an earlier run, of
        which it is not known who sent them."""
        named = [each for each in (source, other) if each is not None and each in wrong and not each.blamed]
        for each in named:
            each.blamed = True
            self._sources.leave_out(each, reason)
        if other in wrong:
            source.trusted = source.trusted or source not in wrong
            number = None if other is None else other.number
            for index in await forget(self._services, self._job, self._ledger.chunks_of(number), self._plan):
                self._digests.pop(index, None)
        for each in named:
            await blame(self._services, self._entry, self._sources, each, reason, 1)

    async def _wrong(
        self, source: Source, other: Source | None, window: tuple[int, int], held: bytes, theirs: bytes
    ) -> tuple[set[Source | None], str]:
        """Whose bytes are known to be wrong, and why; of an earlier run's: None's."""
        wrong: set[Source | None] = set()
        for each, before in ((source, theirs), (other, held)):
            if each is not None and await self._again(each, window) not in (None, before):
                wrong.add(each)
        if wrong:
            return wrong, "asked again, it sent others"
        for third in self._sources.usable:
            if third in (source, other):
                continue
            vote = await self._again(third, window)
            if vote == held:
                return {source}, f"two others agree, {third.name} is one"
            if vote == theirs:
                return {other}, f"two others agree, {third.name} is one"
        return set(), ""

    async def _again(self, source: Source, window: tuple[int, int]) -> bytes | None:
        """The bytes of the window; None when it does not give them."""
        try:
            return await self._ask(source, *window)
        except TransferError as error:
            if not source.out:
                self._sources.failed(source, error, trio.current_time())
            return None

    async def _blame(self, source: Source, reason: str) -> None:
        if not source.blamed:
            await blame(self._services, self._entry, self._sources, source, reason, 1)

    def _undecided(self, source: Source, what: str) -> None:
        """The hash of the whole file, when one is expected, tells in the end; this source is asked no more until then.
        Raises SourcesDiffer when there is none."""
        if not self._entry.expect:
            raise SourcesDiffer(f"{what}, and nothing tells which of them is right")
        source.trusted = False
        self._sources.doubt(source, what)
