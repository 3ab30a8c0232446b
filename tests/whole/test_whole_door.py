"""Who may call an engine: tasks of the trio run that opened it, while it is open (issue 4, bad input and misuse)."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from engine import Download, DownloadRequest, Engine, EngineClosed, EngineError, Subscription, WrongThread, open_engine
from tests.support.library import SMALL, payload_of
from tests.support.origin import serve

# What only reads memory, and is asked for when all is over.
BEYOND_CLOSE = {"Engine.run_stats", "Download.stats"}


def _face(kind: type) -> list[str]:
    return [f"{kind.__name__}.{name}" for name, member in vars(kind).items() if _is_public(name, member)]


def _is_public(name: str, member: object) -> bool:
    return not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))


FACE = [*_face(Engine), *_face(Download)]


def _call(target: object, what: str) -> Any:
    """Call the method, or read the property, with something for all that its signature asks for: what it is does not
    matter, for the door is before it."""
    name = what.partition(".")[2]
    if isinstance(inspect.getattr_static(target, name), property):
        return getattr(target, name)
    method = getattr(target, name)
    wanted = [each.name for each in inspect.signature(method).parameters.values() if each.default is each.empty]
    return method(**dict.fromkeys(wanted))


async def _await(given: Any) -> None:
    if inspect.isawaitable(given):
        await given


def _in_plain_thread(call: Callable[[], Any]) -> None:
    """As a thread that knows nothing of trio would have it: step the coroutine once."""
    given = call()
    if inspect.iscoroutine(given):
        given.send(None)


def _in_another_run(call: Callable[[], Any]) -> None:
    async def main() -> None:
        await _await(call())

    trio.run(main)


def _in_asyncio(call: Callable[[], Any]) -> None:
    async def main() -> None:
        await _await(call())

    asyncio.run(main())


@pytest.fixture
async def engine(library: Path) -> AsyncIterator[Engine]:
    async with open_engine(library, config=SMALL) as opened:
        yield opened


def _target(engine: Engine, what: str) -> object:
    return engine if what.startswith("Engine.") else Download(engine, "x")


def test_the_face_is_what_is_tried() -> None:
    """A method that the decorator left out would be missing here too: it is one of those that pass on their names."""
    assert {"Engine.offline", "Engine.events", "Engine.reading", "Download.wait", "Download.events"} <= set(FACE)
    for what in set(FACE) - BEYOND_CLOSE:
        kind = Engine if what.startswith("Engine.") else Download
        member = vars(kind)[what.partition(".")[2]]
        assert hasattr(member, "__wrapped__"), f"{what} does not ask at the door"


@pytest.mark.parametrize("elsewhere", [_in_plain_thread, _in_another_run, _in_asyncio], ids=lambda each: each.__name__)
async def test_every_method_refuses_another_thread(engine: Engine, elsewhere: Any) -> None:
    """Neither a thread without trio, nor another trio run, nor asyncio gets in."""
    for what in sorted(set(FACE) - BEYOND_CLOSE):
        target = _target(engine, what)
        with pytest.raises(WrongThread, match=what):
            await trio.to_thread.run_sync(elsewhere, partial(_call, target, what))


async def test_every_method_refuses_after_the_close(library: Path) -> None:
    async with open_engine(library, config=SMALL) as engine:
        pass
    for what in sorted(set(FACE) - BEYOND_CLOSE):
        with pytest.raises(EngineClosed):
            await _await(_call(_target(engine, what), what))
    for what in BEYOND_CLOSE:
        await _await(_call(_target(engine, what), what))


async def test_asyncio_inside_of_the_trio_run_is_refused(engine: Engine) -> None:
    """On the very thread, with the very run: only the loop is another."""

    async def main() -> None:
        with pytest.raises(WrongThread, match="asyncio"):
            await engine.list()
        with pytest.raises(WrongThread, match="asyncio"):
            engine.events()

    asyncio.run(main())
    assert await engine.list() == []


async def test_an_iterator_of_events_stays_in_its_run(engine: Engine) -> None:
    events = engine.events()

    async def read() -> None:
        await anext(events)

    for elsewhere in (_in_plain_thread, _in_another_run, _in_asyncio):
        with pytest.raises(WrongThread):
            await trio.to_thread.run_sync(elsewhere, read)
    with pytest.raises(WrongThread):
        await trio.to_thread.run_sync(events.close)
    events.close()
    assert [event async for event in events] == []
    assert isinstance(events, Subscription)


async def test_a_refused_call_changed_nothing(engine: Engine) -> None:
    request = DownloadRequest(url="http://127.0.0.1:9/x", id="x")
    with pytest.raises(WrongThread):
        await trio.to_thread.run_sync(_in_another_run, lambda: engine.offline(request))
    assert await engine.list() == []


async def test_a_thread_of_the_run_may_come_back_into_it(library: Path) -> None:
    """The way that the advice names."""
    payload = payload_of(1000)
    async with serve(payload) as origin, open_engine(library, config=SMALL) as engine:

        def work() -> int:
            download = trio.from_thread.run(engine.offline, DownloadRequest(url=origin.url(), id="x"))
            return trio.from_thread.run(download.wait).size

        assert await trio.to_thread.run_sync(work) == len(payload)


async def _open(library: Path) -> None:
    async with open_engine(library, config=SMALL):
        pytest.fail("opened outside of trio")


def _asyncio_alone(library: Path) -> None:
    asyncio.run(_open(library))


def _asyncio_in_trio(library: Path) -> None:
    async def main() -> None:
        asyncio.run(_open(library))

    trio.run(main)


def _no_loop(library: Path) -> None:
    _open(library).send(None)


@pytest.mark.parametrize("elsewhere", [_asyncio_alone, _asyncio_in_trio, _no_loop], ids=lambda each: each.__name__)
def test_an_engine_is_not_opened_outside_of_trio(library: Path, elsewhere: Callable[[Path], None]) -> None:
    with pytest.raises(WrongThread) as raised:
        elsewhere(library)
    assert "trio" in raised.value.advice
    assert isinstance(raised.value, EngineError)
    assert not library.exists(), "something was made all the same"


def test_trio_inside_of_asyncio_is_fine(library: Path) -> None:
    """A notebook's cell runs in an asyncio task, and may call trio.run."""

    async def use() -> int:
        async with open_engine(library, config=SMALL) as engine:
            return len(await engine.list())

    async def cell() -> int:
        return trio.run(use)

    assert asyncio.run(cell()) == 0


def test_trio_as_a_guest_of_asyncio_is_fine(library: Path) -> None:
    async def use() -> int:
        async with open_engine(library, config=SMALL) as engine:
            return len(await engine.list())

    async def host() -> int:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[int] = loop.create_future()
        trio.lowlevel.start_guest_run(
            use,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=lambda outcome: done.set_result(outcome.unwrap()),
        )
        return await done

    assert asyncio.run(host()) == 0
