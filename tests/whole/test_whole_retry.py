"""What an error does to an entry of a whole engine: tried again in time, parked, quarantined, never forgotten."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

from engine import DownloadFailed, DownloadRequest, Engine, Reason, State, StateChanged, open_engine
from engine.config import Config
from engine.control.recovery import CRASHES_MAX
from engine.errors import ConnectTimeout, NoRoute
from engine.files.filesystem import FileSystem
from engine.model.retry import POLICIES
from engine.model.states import Event
from engine.net.client import Client
from engine.net.dialer import Dialer, Route
from engine.net.link import Link
from engine.store.state_store import StateStore
from tests.support.library import CHUNK, SMALL, content, payload_of, small
from tests.support.origin import Asked, End, Reply, serve
from tests.support.run import assert_complete, assert_failed, run, wait_or_parked
from tests.whole.test_whole_reboot import NextBoot

PAYLOAD = payload_of(6 * CHUNK + 3, seed=44)
BUSY = Reply(status=503, fields=(("Retry-After", "3600"),))


class Unsteady(Dialer):
    """A network that is there, or not."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.gone: type[Exception] | None = None
        self.refused = 0
        self.tried = trio.Event()

    async def connect(self, route: Route) -> Link:
        if self.gone is not None:
            self.refused += 1
            await trio.lowlevel.checkpoint()
            self.tried.set()
            self.tried = trio.Event()
            raise self.gone("gone")
        return await super().connect(route)


async def until(engine: Engine, entry_id: str, reason: Reason) -> None:
    """Wait for that reason."""
    with engine.events(entry_id) as events:
        while (await engine.get(entry_id)).state_reason is not reason:
            await anext(events)


async def test_n12_without_a_network_nothing_is_held_against_the_source(library: Path) -> None:
    """Many more tries than a source has: PENDING for the network, one line in the history; back again it completes."""
    dialer = Unsteady(SMALL)
    client = Client(SMALL, dialer=dialer)
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL, client=client) as engine:
        dialer.gone = NoRoute
        download = await engine.offline(DownloadRequest(url=origin.url(), id="x"))
        with trio.fail_after(10):
            while dialer.refused < 25:
                await until(engine, "x", Reason.NETWORK)
                await dialer.tried.wait()
            entry = await engine.get("x")
            assert entry.last_error is not None
            assert entry.last_error.code == "no_route"
            assert len(entry.attempts) == 1
            dialer.gone = None
            assert content((await download.wait()).path) == PAYLOAD
        entry = await engine.get("x")
    assert entry.attempt_count > 25
    assert len(entry.attempts) == 2


@pytest.mark.parametrize("hosts", [1, 2])
async def test_when_all_hosts_fall_silent_it_is_the_network(library: Path, hosts: int) -> None:
    dialer = Unsteady(SMALL)
    dialer.gone = ConnectTimeout
    async with open_engine(library, config=SMALL, client=Client(SMALL, dialer=dialer)) as engine:
        for number in range(hosts):
            await engine.offline(DownloadRequest(url=f"http://127.0.0.{number + 1}:9/x", id=f"e{number}"))
        if hosts == 1:
            with pytest.raises(DownloadFailed) as failed:
                await engine.wait("e0")
            assert failed.value.cause_code == "timeout"
            assert dialer.refused == 8
            return
        with trio.fail_after(10):
            while dialer.refused < 40:
                await dialer.tried.wait()
        for number in range(hosts):
            assert (await engine.get(f"e{number}")).state is not State.FAILED


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A wall clock that a test sets: ``ahead`` of the real one by so many seconds."""
    clock = SimpleNamespace(ahead=0.0)
    real = time.time
    monkeypatch.setattr("engine.opening.time", SimpleNamespace(time=lambda: real() + clock.ahead))
    return clock


@pytest.mark.parametrize(
    ("ahead", "most_s"),
    [
        (0.0, 1e9),  # a restart at once: the server's wish holds
        (3000.0, 1e9),
        (5000.0, 0.0),  # the time has come meanwhile, or the clock was set forward
        (-10 * 365 * 86400.0, 1.1 * 6 * 3600.0),  # set back by ten years: not for ever
    ],
)
async def test_the_next_try_is_durable_and_survives_a_clock_that_jumps(
    library: Path, wall: SimpleNamespace, ahead: float, most_s: float
) -> None:
    """S35, T: Retry-After across a restart."""
    replies = iter([BUSY])
    async with serve(PAYLOAD, lambda _: next(replies, Reply())) as origin:
        async with open_engine(library, config=SMALL) as engine:
            await engine.offline(DownloadRequest(url=origin.url(), id="x"))
            await until(engine, "x", Reason.BACKOFF)
            told = (await engine.get("x")).next_retry_at
            assert told is not None
            assert 3590 < told - time.time() <= 3970
        wall.ahead = ahead
        async with open_engine(library, config=SMALL) as engine:
            if most_s == 0.0:
                with trio.fail_after(5):
                    assert content((await engine.wait("x")).path) == PAYLOAD
                return
            await trio.sleep(0.1)
            at = engine._manager.runs._queue.next_at(trio.current_time())
            assert at is not None
            wanted = min(most_s, told - time.time() - ahead)
            assert at - trio.current_time() == pytest.approx(wanted, abs=2.0)
            assert (await engine.get("x")).state is State.PENDING
    assert len(origin.asked) == 1


async def test_a_clock_that_is_set_back_while_it_waits_changes_nothing(library: Path, wall: SimpleNamespace) -> None:
    """Waits are measured on the engine's own clock."""
    failing = iter([Reply(status=503), Reply(status=503)])
    async with serve(PAYLOAD, lambda _: next(failing, Reply())) as origin, open_engine(library, config=SMALL) as engine:
        download = await engine.offline(DownloadRequest(url=origin.url(), id="x"))
        await until(engine, "x", Reason.BACKOFF)
        wall.ahead = -86400.0
        with trio.fail_after(5):
            await download.wait()


async def test_progress_keeps_an_unsteady_source_alive(library: Path) -> None:
    """Far more failures than tries, but each after a committed chunk."""
    payload = payload_of(40 * CHUNK, seed=45)
    config = small(connections_per_entry=1, parallel_bytes_min=1 << 30, commit_interval_s=0.01)

    def script(asked: Asked) -> Reply:
        return Reply(send=CHUNK + 100, end=End.CLOSE)

    async with serve(payload, script) as origin, open_engine(library, config=config) as engine:
        download = await engine.offline(DownloadRequest(url=origin.url(), id="x"))
        with trio.fail_after(20):
            assert content((await download.wait()).path) == payload
        entry = await engine.get("x")
    assert len(origin.asked) > 30
    assert entry.crashes == 0


class Full(FileSystem):
    """A disk that is full, until it is not."""

    def __init__(self) -> None:
        super().__init__()
        self.full = True

    def free_bytes(self, fd: int) -> int:
        return 0 if self.full else super().free_bytes(fd)


async def test_a_full_disk_parks_the_entry_and_resuming_goes_on(library: Path) -> None:
    files = Full()
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL, files=files) as engine:
        with engine.events("x") as events:
            download = await engine.offline(DownloadRequest(url=origin.url(), id="x"))
            assert await wait_or_parked(engine, download) is None
            seen = [await anext(events) for _ in range(3)]
        states = [(event.state, event.reason) for event in seen if isinstance(event, StateChanged)]
        assert states[-1] == (State.PAUSED, Reason.DISK)
        entry = await engine.get("x")
        assert entry.last_error is not None
        assert (entry.last_error.code, entry.next_retry_at) == ("no_space", None)
        assert entry.paused_at is not None
        files.full = False
        with trio.fail_after(5):
            assert (
                content((await (await engine.offline(DownloadRequest(url=origin.url(), id="x"))).wait()).path)
                == PAYLOAD
            )


def begin_and_die(library: Path, files: FileSystem | None = None) -> None:
    """A process that dies while its entry runs, before a byte came."""
    store = StateStore.open(str(library), SMALL, files or FileSystem(), now=1.0)
    (entry,) = store.list()
    if entry.state is State.PENDING:
        store.transition(entry.id, Event.START, epoch=entry.epoch, now=2.0, attempt_count=entry.attempt_count + 1)
    store.close(clean=False)


async def look(library: Path, files: FileSystem | None = None) -> tuple[State, int, tuple[str, ...]]:
    """Start, and die at once, after the recovery: state, crashes, and what was told."""
    with trio.CancelScope() as scope:
        async with open_engine(library, config=small(records_only=True), files=files, resume=False) as engine:
            entry = await engine.get("x")
            found = entry.state, entry.crashes, tuple(event.what for event in engine.recovered)
            scope.cancel()
            await trio.lowlevel.checkpoint()
    return found


async def added(library: Path, url: str) -> None:
    async with open_engine(library, config=small(records_only=True)) as engine:
        await engine.offline(DownloadRequest(url=url, id="x"))


async def test_an_entry_that_the_process_dies_with_again_and_again_is_quarantined(library: Path) -> None:
    async with serve(PAYLOAD) as origin:
        await added(library, origin.url())
        for crash in range(1, CRASHES_MAX):
            begin_and_die(library)
            state, crashes, told = await look(library)
            assert (state, crashes) == (State.PENDING, crash)
            assert any("continues where it was" in what for what in told)
        begin_and_die(library)
        async with open_engine(library, config=SMALL) as engine:
            assert any(f"died {CRASHES_MAX} times in a row" in event.what for event in engine.recovered)
            with pytest.raises(DownloadFailed) as failed:
                await engine.wait("x")
            assert failed.value.cause_code == "poison"
            entry = await engine.get("x")
            assert entry.last_error is not None
            assert (entry.state, entry.last_error.fault, entry.crashes) == (State.FAILED, "engine", 0)
            assert "Retry it" in entry.last_error.advice
            assert origin.asked == [], "it is not tried unasked"
            download = await engine.offline(DownloadRequest(url=origin.url(), id="x"))
            assert content((await download.wait()).path) == PAYLOAD


async def test_a_power_cut_is_not_the_entrys_doing(library: Path) -> None:
    await added(library, "http://127.0.0.1:9/x")
    boots: list[FileSystem] = [FileSystem(), NextBoot()]
    for start in range(6):
        begin_and_die(library, boots[start % 2])
        state, crashes, _ = await look(library, boots[(start + 1) % 2])
        assert (state, crashes) == (State.PENDING, 0)


async def test_an_attempt_that_ends_on_record_begins_the_count_of_crashes_anew(library: Path) -> None:
    async with serve(PAYLOAD, lambda _: Reply(status=503)) as origin:
        await added(library, origin.url())
        for _ in range(CRASHES_MAX - 1):
            begin_and_die(library)
            _, crashes, _ = await look(library)
        assert crashes == CRASHES_MAX - 1
        async with open_engine(library, config=small(backoff_base_s=60.0, backoff_max_s=60.0)) as engine:
            await until(engine, "x", Reason.BACKOFF)
            assert (await engine.get("x")).crashes == 0


async def test_a_crash_after_progress_begins_the_count_anew(library: Path) -> None:
    """Each time one more chunk is on record than before."""
    payload = payload_of(30 * CHUNK, seed=46)
    async with (
        serve(payload, lambda asked: Reply(status=404) if asked.number > 1 else Reply()) as origin,
        open_engine(library, config=small(first_span_bytes=2 * CHUNK)) as engine,
    ):
        with pytest.raises(DownloadFailed):
            await (await engine.offline(DownloadRequest(url=origin.url(), id="x"))).wait()
    store = StateStore.open(str(library), SMALL, FileSystem(), now=1.0)
    entry = store.get("x")
    assert entry is not None
    store.transition("x", Event.RETRY, epoch=entry.epoch, now=2.0)
    store.close()
    begin_and_die(library)
    assert (await look(library))[:2] == (State.PENDING, 0), "bytes are on record that were not at the last crash"
    begin_and_die(library)
    assert (await look(library))[:2] == (State.PENDING, 1), "and no more since"


async def test_a_server_that_cannot_resume_and_always_ends_early_is_given_up(library: Path) -> None:
    """Each try commits the same chunks anew: no progress, or it would be asked for ever."""
    cut = Reply(ranges=False, etag="", last_modified="", send=4 * CHUNK, end=End.CLOSE)
    async with serve(PAYLOAD, lambda asked: cut) as origin:
        outcome = await run(library, DownloadRequest(url=origin.url()))

    assert_failed(outcome, "connection_lost")
    assert outcome.stats.attempts == len(origin.asked) == POLICIES["connection_lost"].tries


async def test_more_than_ever_before_is_progress_also_from_the_beginning(library: Path) -> None:
    """Each try gets further by one chunk."""
    payload = payload_of(14 * CHUNK, seed=45)

    def further(asked: Asked) -> Reply:
        return Reply(ranges=False, etag="", last_modified="", send=asked.number * CHUNK, end=End.CLOSE)

    async with serve(payload, further) as origin:
        outcome = await run(library, DownloadRequest(url=origin.url()))

    assert_complete(outcome, payload)
    assert outcome.stats.attempts > POLICIES["connection_lost"].tries
