"""One engine, one download, and everything a test may want to know of it afterwards."""

from __future__ import annotations

import os
from dataclasses import dataclass

from engine import DownloadEntry, DownloadFailed, DownloadRequest, OfflineEntry, RunStats, State, open_engine
from engine.config import Config
from engine.files.filesystem import FileSystem
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
) -> Outcome:
    """Ask a new engine for the download and wait for its end, good or bad."""
    async with open_engine(root, config=config, files=files, cafile=cafile, seed=1) as engine:
        download = await engine.offline(request)
        offline, code, message = None, "", ""
        try:
            offline = await download.wait()
        except DownloadFailed as failed:
            code, message = failed.cause_code, str(failed)
        entry = await engine.get(download.id)
    return Outcome(entry, download.stats, offline, code, message, tuple(event.what for event in engine.recovered))


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
