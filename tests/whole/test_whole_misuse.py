"""Bad input to the face of an engine: a typed error or what is documented, and nothing is done (H12, issue 4)."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from engine import (
    Config,
    DownloadRequest,
    Engine,
    GroupRequest,
    IllegalTransition,
    InvalidRequest,
    State,
    UnknownEntry,
    UnknownGroup,
    open_engine,
)
from engine.control.playable import OfflineState
from tests.support.library import SMALL, content, payload_of
from tests.support.origin import Reply, serve

PAYLOAD = payload_of(30_000, seed=12)

# What asks for an entry and has an answer when there is none.
ANSWERS: dict[str, object] = {
    "parts": (),
    "offline_entry": None,
    "offline_state": OfflineState.NOT_OFFLINED,
    "run_stats": ...,
    "events": ...,
}
# What the other arguments of methods with an entry id may be.
FINE: dict[str, object] = {"priority": 1, "at": None, "bytes_s": 0, "rate": 0, "url": "http://h.test/a"}


def _of_one_entry() -> list[str]:
    members = {name: member for name, member in vars(Engine).items() if inspect.isfunction(member)}
    return [
        name
        for name, member in members.items()
        if not name.startswith("_") and "entry_id" in inspect.signature(member).parameters
    ]


@pytest.mark.parametrize("entry_id", ["nobody", "", "x" * 5000, "a\0b", "\ud800", 5, None, b"x"])
async def test_an_unknown_id(library: Path, entry_id: Any) -> None:
    """Every method that is asked about one entry; whatever is no id is unknown too."""
    async with open_engine(library, config=SMALL) as engine:
        for name in _of_one_entry():
            if name in ANSWERS and (ANSWERS[name] is ... or entry_id not in {"nobody", "", "x" * 5000, "a\0b"}):
                continue
            method = getattr(engine, name)
            wanted = [each.name for each in inspect.signature(method).parameters.values() if each.default is each.empty]
            arguments = {each: entry_id if each == "entry_id" else FINE.get(each) for each in wanted}
            if name in ANSWERS:
                assert await method(**arguments) == ANSWERS[name], name
                continue
            with pytest.raises(UnknownEntry):
                done = method(**arguments)
                if inspect.isawaitable(done):
                    await done
                else:
                    with done:
                        pytest.fail(f"{name} let an unknown id in")
        assert await engine.list() == []


async def test_an_unknown_group(library: Path) -> None:
    async with open_engine(library, config=SMALL) as engine:
        for call in (lambda: engine.group("nobody"), lambda: engine.group_members("nobody")):
            with pytest.raises(UnknownGroup):
                await call()
        with pytest.raises(UnknownGroup):
            await engine.set_group_members("nobody", [])


async def test_an_illegal_transition_changes_nothing(library: Path) -> None:
    def script(asked: Any) -> Reply:
        return Reply(status=404) if asked.target == "/bad" else Reply()

    async with serve(PAYLOAD, script) as origin, open_engine(library, config=SMALL) as engine:
        await (await engine.offline(DownloadRequest(url=origin.url(), id="done"))).wait()
        await engine.offline(DownloadRequest(url=origin.url("bad"), id="failed"))
        with pytest.raises(Exception, match="404"):
            await engine.wait("failed")
        before = await engine.list()
        refused: tuple[tuple[Callable[[str], Awaitable[object]], str], ...] = (
            (engine.pause, "done"),
            (engine.resume, "done"),
            (engine.cancel, "done"),
            (engine.retry, "done"),
            (engine.pause, "failed"),
            (engine.resume, "failed"),
        )
        for verb, entry_id in refused:
            with pytest.raises(IllegalTransition, match=(await engine.get(entry_id)).state.value):
                await verb(entry_id)
        assert await engine.list() == before


@pytest.mark.parametrize("limit", [0, -1, math.nan, math.inf, "5", 2.5, True, None])
async def test_a_page_without_a_sensible_limit(library: Path, limit: Any) -> None:
    async with open_engine(library, config=SMALL) as engine:
        await engine.add_group(GroupRequest(id="g", kind="album", title="G", members=()))
        pages: tuple[Callable[[], Awaitable[object]], ...] = (
            lambda: engine.list(limit=limit),
            lambda: engine.list_scope("", limit=limit),
            lambda: engine.groups(limit=limit),
            lambda: engine.group_members("g", limit=limit),
        )
        for page in pages:
            with pytest.raises(InvalidRequest):
                await page()


@pytest.mark.parametrize("limit", [-1, math.nan, math.inf, -math.inf, "5", 2.5, True])
async def test_a_limit_that_is_none(library: Path, limit: Any) -> None:
    """Of requests, quotas, rates and priorities; nothing is added or changed."""
    async with open_engine(library, config=SMALL) as engine:
        for name in ("connections", "expected_length", "priority", "rate_limit_bytes_s"):
            if name == "priority" and limit == -1:
                continue
            with pytest.raises(InvalidRequest, match=name.partition("_")[0]):
                await engine.offline(DownloadRequest(url="http://127.0.0.1:9/a", **{name: limit}))
        for call in (lambda: engine.set_quota("", limit), lambda: engine.set_rate_limit(limit)):
            with pytest.raises(InvalidRequest):
                done = call()
                if inspect.isawaitable(done):
                    await done
        assert await engine.list() == []


@pytest.mark.parametrize(
    "name", [name for name in Config.__slots__ if isinstance(getattr(Config(), name), (int, float))]
)
def test_a_config_without_a_sensible_limit(name: str) -> None:
    wrong: tuple[Any, ...] = (-1, math.nan, -math.inf, "5", None)
    for limit in wrong:
        with pytest.raises(InvalidRequest, match=name):
            Config(**{name: limit})


@pytest.mark.parametrize("how", ["absolute", "relative", "dots", "in a folder"])
async def test_a_destination_outside_of_the_root_is_the_callers(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The caller may name any path, and it is taken as it is; only what a server says never leaves its folder."""
    outside = tmp_path / "outside"
    outside.mkdir()
    monkeypatch.chdir(outside)
    given = {
        "absolute": str(outside / "film.mkv"),
        "relative": "film.mkv",
        "dots": f"{library}/../outside/film.mkv",
        "in a folder": f"{outside}/",
    }[how]
    evil = Reply(fields=(("Content-Disposition", 'attachment; filename="../../film.mkv"'),))
    async with serve(PAYLOAD, lambda asked: evil) as origin, open_engine(library, config=SMALL) as engine:
        done = await (await engine.offline(DownloadRequest(url=origin.url(), destination=given))).wait()
    assert done.path == str(outside / "film.mkv")
    assert content(done.path) == PAYLOAD
    assert os.listdir(outside) == ["film.mkv"]


@pytest.mark.parametrize("destination", ["", "a\0b", "x" * 5000, 5, b"bytes"])
async def test_a_destination_that_is_no_path(library: Path, destination: Any) -> None:
    async with open_engine(library, config=SMALL) as engine:
        with pytest.raises(InvalidRequest, match="destination"):
            await engine.offline(DownloadRequest(url="http://127.0.0.1:9/a", destination=destination))
        assert await engine.list(state=State.PENDING) == []


@pytest.mark.parametrize("name", ["store", "store/data.mdb", "store/x/", "owner.lock", "engine.sock"])
async def test_no_destination_lies_in_the_librarys_own_store(library: Path, name: str) -> None:
    """Overwriting the lease's file would let a second engine in."""
    async with open_engine(library, config=SMALL) as engine:
        request = DownloadRequest(url="http://127.0.0.1:9/a", destination=f"{library}/{name}", overwrite=True)
        with pytest.raises(InvalidRequest, match="the library's own store"):
            await engine.offline(request)
        with pytest.raises(InvalidRequest, match="the library's own store"):
            await engine.offline_many([request])
