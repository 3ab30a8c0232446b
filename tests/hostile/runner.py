"""Plays one row against a whole engine: a real store, real sockets, and a clock that jumps over every wait."""

from __future__ import annotations

import dataclasses
import math
import ssl
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trustme
from msgspec.structs import replace

from engine import DownloadEntry, DownloadFailed, DownloadRequest, Engine, OfflineEntry, State, open_engine
from engine.config import Config
from engine.net.link import Link
from engine.net.trust import Trust
from tests.hostile.answers import CHUNK, PAYLOAD, Asked, Play, Step, Truth
from tests.hostile.resolver import LOCAL, named
from tests.hostile.row import Pass, Row, honest
from tests.net.script_server import ScriptServer, serve
from tests.support.library import check_claim, claims, content, files_under, hash_of, parts_under, small
from tests.support.run import wait_or_parked

SPAN = 4 * CHUNK
BAD, GOOD = "/bad/film.bin", "/good/song.bin"
SLICED_BYTES = 8 * 1024  # of a connection, received one by one in that pass
NEVER_S = math.inf
AUTOJUMP_S = 0.004  # real: all that a loopback takes
IDLE_S = 5.0  # virtual, between the bad entry and the good one

# The times are the defaults; what would only make the clock jump more often is far away. One connection at a time.
HOSTILE = small(
    chunk_bytes=CHUNK,
    small_chunk_bytes=CHUNK,
    first_span_bytes=SPAN,
    span_bytes_min=SPAN,
    span_bytes_max=SPAN,
    parallel_bytes_min=1 << 40,
    commit_interval_s=0.0,
    connect_timeout_s=10.0,
    tls_timeout_s=10.0,
    first_byte_timeout_s=30.0,
    idle_timeout_s=30.0,
    close_timeout_s=NEVER_S,
    backoff_base_s=0.5,
    backoff_max_s=60.0,
    progress_interval_s=NEVER_S,
    reconcile_interval_s=NEVER_S,
    inbox_look_interval_s=NEVER_S,
    settle_interval_s=NEVER_S,
    maintenance_interval_s=NEVER_S,
    maintenance_delay_s=NEVER_S,
    space_check_interval_s=NEVER_S,
    space_check_interval_max_s=NEVER_S,
    growth_look_interval_s=NEVER_S,
)


@dataclass
class Stage:
    """The server as a row sees it. ``sent``: bytes of hostile answers that it could hand over."""

    play: Play = honest
    sent: int = 0
    answered: int = 0
    hostile: list[Asked] = field(default_factory=list)

    def script(self, asked: Asked) -> Iterator[Step]:
        if asked.target == GOOD:
            return iter(honest(Truth.of(asked, PAYLOAD, 1)))
        self.answered += 1
        self.hostile.append(asked)
        return self._counted(asked)

    def _counted(self, asked: Asked) -> Iterator[Step]:
        for step in self.play(Truth.of(asked, PAYLOAD, self.answered)):
            yield step
            if isinstance(step, bytes):
                self.sent += len(step)

    def turn(self, play: Play) -> None:
        """Another hour: forget what was asked so far."""
        self.play = play
        self.sent = self.answered = 0
        self.hostile.clear()


@dataclass(frozen=True)
class Ended:
    """How the bad entry ended in one session of an engine."""

    entry: DownloadEntry
    offline: OfflineEntry | None
    code: str
    message: str
    seconds: float
    peak: int


async def play_row(row: Row, how: Pass, root: Path) -> None:
    """Everything that must hold for the row; raises AssertionError."""
    with _jumping_clock():
        await _play(row, how, root)


async def _play(row: Row, how: Pass, root: Path) -> None:
    config = dataclasses.replace(HOSTILE, **row.config)  # type: ignore[arg-type]  # replace checks the names
    stage = Stage()
    async with _server(stage, row.tls, root) as (server, cafile):
        trust = dataclasses.replace(row.trust, cafile=cafile)
        request = DownloadRequest(url=server.base + BAD, id="bad", **row.request)  # type: ignore[arg-type]
        if how is Pass.RESUMED:
            stage.turn(_an_honest_hour)
            seeded = await _session(root, config, trust, request, None)
            assert seeded.code == "not_found", seeded.message
            assert sum(claim.held_bytes for claim in claims(root, config)) >= SPAN
        stage.turn(row.play)
        with row.line(server.base) if row.line else nullcontext(server.base) as base:
            request = replace(request, url=base + BAD)
            with _one_byte_at_a_time() if how is Pass.BYTES else nullcontext():
                ended = await _session(root, config, trust, request, server.base + GOOD, counted=how is Pass.FIRST)
        await _check_end(row, how, ended, root, config)
        _check_server(row, stage, server, ended)
        if row.mends and ended.code and how is Pass.FIRST:
            stage.turn(honest)
            mended = await _session(root, config, trust, replace(request, url=server.base + BAD), None)
            assert not mended.code, f"once the server is honest: {mended.code}: {mended.message}"
            assert mended.offline is not None
            assert content(mended.offline.path) == PAYLOAD


@contextmanager
def _jumping_clock() -> Iterator[None]:
    """Waits cost no time; but while a thread works the clock does not jump, or a slow disk would be a silent server."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, trio.testing.MockClock)
    in_thread = trio.to_thread.run_sync
    working = 0

    async def watched(*args: object, **options: object) -> object:
        nonlocal working
        working += 1
        clock.autojump_threshold = math.inf
        try:
            return await in_thread(*args, **options)  # type: ignore[arg-type]
        finally:
            working -= 1
            if not working:
                clock.autojump_threshold = AUTOJUMP_S

    clock.autojump_threshold = AUTOJUMP_S
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trio.to_thread, "run_sync", watched)
        yield


def _an_honest_hour(truth: Truth) -> list[Step]:
    return list(honest(truth)) if truth.serial == 1 else [NOT_FOUND]


NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


@asynccontextmanager
async def _server(stage: Stage, tls: bool, root: Path) -> AsyncIterator[tuple[ScriptServer, str | None]]:
    if not tls:
        async with serve(stage.script) as server:  # type: ignore[arg-type]  # it iterates, and asks for no more
            yield server, None
        return
    authority = trustme.CA()
    cafile = root.with_suffix(".pem")
    authority.cert_pem.write_to_path(cafile)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(LOCAL).configure_cert(context)
    with named(LOCAL, "127.0.0.1")(""):
        async with serve(stage.script, tls=context, host=LOCAL) as server:  # type: ignore[arg-type]
            yield server, str(cafile)


async def _session(
    root: Path, config: Config, trust: Trust, request: DownloadRequest, good: str | None, *, counted: bool = False
) -> Ended:
    """A new engine is asked for the bad entry, then for a good one of the same host, which must complete."""
    async with open_engine(root, config=config, trust=trust, seed=1) as engine:
        began = trio.current_time()
        with _traced() if counted else nullcontext([0]) as peak:
            offline, code, message = await _until_settled(engine, request)
        seconds = trio.current_time() - began
        entry = await engine.get(request.id or "")
        if entry.state is State.PAUSED and entry.last_error is not None:
            code, message = entry.last_error.code, entry.last_error.message
        if good is not None:
            await trio.sleep(IDLE_S)
            download = await engine.offline(DownloadRequest(url=good, id="good"))
            assert (await download.wait()).blake3 == hash_of(PAYLOAD)
    return Ended(entry, offline, code, message, seconds, peak[0])


async def _until_settled(engine: Engine, request: DownloadRequest) -> tuple[OfflineEntry | None, str, str]:
    download = await engine.offline(request)
    try:
        return await wait_or_parked(engine, download), "", ""
    except DownloadFailed as failed:
        return None, failed.cause_code, str(failed)


@contextmanager
def _traced() -> Iterator[list[int]]:
    """Afterwards the list holds how much more Python held at the peak than before."""
    peak = [0]
    tracemalloc.start(1)
    try:
        before, _ = tracemalloc.get_traced_memory()
        yield peak
        peak[0] = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@contextmanager
def _one_byte_at_a_time() -> Iterator[None]:
    receive = Link.receive_nowait
    received: dict[Link, int] = {}

    def sliced(link: Link, view: memoryview) -> int | None:
        so_far = received.get(link, 0)
        with view[: 1 if so_far < SLICED_BYTES else None] as part:
            count = receive(link, part)
        received[link] = so_far + (count or 0)
        return count

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Link, "receive_nowait", sliced)
        yield


async def _check_end(row: Row, how: Pass, ended: Ended, root: Path, config: Config) -> None:
    assert ended.code == row.code, f"{ended.code or 'complete'}: {ended.message}"
    truth = row.final(PAYLOAD)
    if row.code:
        state = State.PAUSED if row.reason else State.FAILED
        assert ended.entry.state is state
        error = ended.entry.last_error
        assert error is not None
        assert error.message
        assert error.advice
        assert row.reason in {None, ended.entry.state_reason}
        assert row.status in {None, error.status}
    else:
        assert ended.offline is not None
        assert content(ended.offline.path) == truth
        assert ended.offline.blake3 == hash_of(truth)
    assert ended.entry.attempt_count - (how is Pass.RESUMED) <= row.attempts_max
    finished = files_under(root / "files") - parts_under(root / "files")
    assert finished == {"song.bin"} | (set() if row.code else {"film.bin"})
    for claim in claims(root, config):
        if claim.entry.id == "good" or row.one_version:
            check_claim(root, claim, PAYLOAD if claim.entry.id == "good" else truth, config)
    assert ended.seconds <= row.seconds, "virtual seconds"
    assert ended.peak <= row.memory, "bytes held by Python"


def _check_server(row: Row, stage: Stage, server: ScriptServer, ended: Ended) -> None:
    assert stage.sent <= row.sent_max, "bytes sent"
    for asked in server.asked:
        assert asked.get("cookie") is None
        assert asked.get("referer") is None
    if row.killed:
        for bad in stage.hostile:
            later = [
                asked for asked in server.asked if asked.connection == bad.connection and asked.number > bad.number
            ]
            assert not later, f"the connection of {bad.number} went on with {later[0].raw!r}"
