"""One engine, one download, and everything a test may want to know of it afterwards."""

from __future__ import annotations

import os
from dataclasses import dataclass

import trio

from engine import (
    Download,
    DownloadEntry,
    DownloadFailed,
    DownloadRequest,
    Engine,
    OfflineEntry,
    Reason,
    Resolver,
    RunStats,
    State,
    StateChanged,
    open_engine,
)
from engine.config import Config
from engine.control.explain import explain
from engine.files.filesystem import FileSystem
from engine.net.trust import DEFAULT_TRUST, Trust
from tests.support.library import SMALL, check_claim, claims, content, files_under, hash_of, parts_under


@dataclass(frozen=True, slots=True)
class Outcome:
    """``code`` is empty when the download completed."""

    entry: DownloadEntry
    stats: RunStats
    offline: OfflineEntry | None
    code: str
    message: str
    recovered: tuple[str, ...]


async def run(
    root: str | os.PathLike[str],
    request: DownloadRequest,
    *,
    config: Config = SMALL,
    files: FileSystem | None = None,
    cafile: str | None = None,
    trust: Trust = DEFAULT_TRUST,
    resolver: Resolver | None = None,
) -> Outcome:
    """Ask a new engine for the download and wait for its end, good or bad, or until it is parked."""
    seams = {"config": config, "files": files, "cafile": cafile, "trust": trust, "resolver": resolver}
    async with open_engine(root, seed=1, **seams) as engine:  # type: ignore[arg-type]  # as they are declared above
        download = await engine.offline(request)
        offline, code, message = None, "", ""
        try:
            offline = await wait_or_parked(engine, download)
        except DownloadFailed as failed:
            code, message = failed.cause_code, str(failed)
        entry = await engine.get(download.id)
        if entry.state is State.PAUSED and entry.last_error is not None:
            code, message = entry.last_error.code, entry.last_error.message
    return Outcome(entry, download.stats, offline, code, message, tuple(event.what for event in engine.recovered))


async def wait_or_parked(engine: Engine, download: Download) -> OfflineEntry | None:
    """What ``wait()`` returns or raises; None as soon as the entry is PAUSED, which ``wait()`` waits through."""
    offline: OfflineEntry | None = None
    failed: DownloadFailed | None = None
    with engine.events(download.id) as events:
        async with trio.open_nursery() as nursery:

            async def until_parked() -> None:
                parked = (await engine.get(download.id)).state is State.PAUSED
                while not parked:
                    event = await anext(events)
                    parked = isinstance(event, StateChanged) and event.state is State.PAUSED
                nursery.cancel_scope.cancel()

            nursery.start_soon(until_parked)
            try:
                offline = await download.wait()
            except DownloadFailed as error:
                failed = error
            nursery.cancel_scope.cancel()
    if failed is not None:
        raise failed
    return offline


def assert_parked(outcome: Outcome) -> None:
    """The entry waits for space: PAUSED, with the error on record and in its last attempt; its bytes are kept."""
    assert (outcome.entry.state, outcome.entry.state_reason) == (State.PAUSED, Reason.DISK), outcome.message
    error = outcome.entry.last_error
    assert error is not None
    assert error.code == "no_space"
    assert error.advice
    assert outcome.entry.attempts[-1].error == error
    assert outcome.offline is None


def assert_waits_for_a_url(outcome: Outcome) -> None:
    """PAUSED until it is asked for again with another URL, which its error and its explanation say."""
    assert (outcome.entry.state, outcome.entry.state_reason) == (State.PAUSED, Reason.NEEDS_URL), outcome.message
    assert outcome.code == "needs_url"
    assert outcome.entry.last_error is not None
    assert "same id" in outcome.entry.last_error.advice
    assert "URL" in explain(outcome.entry).text


def assert_failed(outcome: Outcome, code: str, status: int | None = None) -> None:
    """The entry is FAILED with this code, on record with an advice and in its last attempt."""
    assert outcome.code == code, outcome.message
    assert outcome.entry.state is State.FAILED
    error = outcome.entry.last_error
    assert error is not None
    assert (error.code, error.status) == (code, status)
    assert error.advice
    assert error.message
    assert outcome.entry.attempts[-1].error == error
    assert outcome.offline is None


def assert_nothing_published(root: str | os.PathLike[str], truth: bytes, config: Config = SMALL) -> int:
    """No finished file anywhere in the library, and what the store claims is true; returns the bytes it claims."""
    folder = os.path.join(root, "files")
    assert files_under(folder) == parts_under(folder)
    held = 0
    for claim in claims(root, config):
        check_claim(root, claim, truth, config)
        held += claim.held_bytes
    return held


def assert_complete(outcome: Outcome, truth: bytes) -> None:
    """COMPLETED, with the right bytes under the final name and no unfinished file beside it."""
    assert outcome.offline is not None, outcome.message
    assert outcome.entry.state is State.COMPLETED
    assert outcome.entry.last_error is None
    assert content(outcome.offline.path) == truth
    assert outcome.offline.blake3 == hash_of(truth)
    assert outcome.offline.size == len(truth)
    assert parts_under(os.path.dirname(outcome.offline.path)) == set()
