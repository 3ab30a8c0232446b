"""The first, second, third … file call fails, once or from then on, until a run meets none (fault catalogue D, T1).

Whatever fails: a typed error or none, nothing claimed that is not there, nothing left open, a right file afterwards.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from engine import DownloadRequest, Durability, EngineError
from engine.errors import NoSpace
from engine.files.filesystem import FileSystem
from engine.store.environment import Environment
from tests.support.library import CHUNK, check_claim, claims, files_under, payload_of, small
from tests.support.origin import Asked, Reply, Script, plain, serve
from tests.support.run import assert_complete, run
from tests.support.steps import CHANGING_CALLS

PAYLOAD = payload_of(5 * CHUNK + 9, seed=71)
FAST = small(commit_interval_s=0.01, first_span_bytes=CHUNK, chunk_bytes=CHUNK, parallel_bytes_min=CHUNK)
LOOKING_CALLS = "open_folder open_existing open_lock_file try_lock stat_fd stat_name stat_path names free_bytes read_at"
CALLS = (*CHANGING_CALLS, *LOOKING_CALLS.split())
CALLS_MAX = 200


class FaultyFiles(FileSystem):
    """Call ``fail_at`` (from 1) raises ``number``; with ``lasting`` every later one of that name does too."""

    def __init__(self, fail_at: int, number: int, *, lasting: bool) -> None:
        self.calls = 0
        self.failed = ""
        self._fail_at = fail_at
        self._number = number
        self._lasting = lasting
        for name in CALLS:
            setattr(self, name, self._faulty(name, getattr(self, name)))

    def _faulty(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls == self._fail_at:
                self.failed = name
            if self.failed and (self.calls == self._fail_at or (self._lasting and name == self.failed)):
                raise OSError(self._number, os.strerror(self._number))
            return call(*args, **kwargs)

        return called


def open_descriptors() -> set[str]:
    """Numbers of all open descriptors but those of sockets, whose other end closes them in its own time."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                found.add(name)
        except FileNotFoundError:
            continue
    return found


async def _try(library: Path, request: DownloadRequest, files: FileSystem) -> str:
    """The code of what went wrong; empty when the download completed all the same."""
    try:
        with trio.fail_after(20):
            return (await run(library, request, config=FAST, files=files)).code
    except EngineError as error:
        return error.code


def _chunked(_: Asked) -> Reply:
    return Reply(framing="chunked", ranges=False)


def _half(asked: Asked) -> Reply:
    """A part that is half done is there already when the faults begin."""
    return Reply() if asked.number <= 2 else Reply(status=404)


@pytest.mark.parametrize(
    ("number", "lasting"),
    [(errno.EIO, False), (errno.EIO, True), (errno.ENOSPC, True), (errno.EROFS, False)],
    ids=["EIO once", "EIO from then on", "ENOSPC from then on", "EROFS once"],
)
@pytest.mark.parametrize(
    ("durability", "script"),
    [(Durability.STRICT, plain), (Durability.RELAXED, _chunked), (Durability.STRICT, _half)],
    ids=["strict", "relaxed-chunked", "resumed"],
)
async def test_every_file_call_fails_in_turn(
    tmp_path: Path, durability: Durability, script: Script, number: int, lasting: bool
) -> None:
    codes = set()
    async with serve(PAYLOAD, script) as origin:
        request = DownloadRequest(url=origin.url(), id="film", durability=durability, connections=2)
        await run(tmp_path / "warm", request, config=FAST)
        before = open_descriptors()
        for fail_at in range(1, CALLS_MAX):
            library = tmp_path / "library"
            if script is _half:
                origin.forget()
                origin.script = _half
                assert (await run(library, request, config=FAST)).code == "not_found"
                origin.script = plain
            files = FaultyFiles(fail_at, number, lasting=lasting)
            code = await _try(library, request, files)
            codes.add(code)
            leaked = open_descriptors() - before
            assert not leaked, f"{leaked} left open after {files.failed} failed"
            for claim in claims(library, FAST) if (library / "store").exists() else ():
                check_claim(library, claim, PAYLOAD, FAST)
            outcome = await run(library, request, config=FAST)
            assert_complete(outcome, PAYLOAD)
            assert files_under(library / "files") == {"film.bin"}
            shutil.rmtree(library)
            if not files.failed:
                break
    assert not files.failed, "the run never came to its end"
    assert len(codes) > 1


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
async def test_every_transaction_fails_in_turn(tmp_path: Path, lasting: bool) -> None:
    """D4: before and after it took effect; an ambiguous commit is never made sense of by guessing."""
    write = Environment.write
    async with serve(PAYLOAD) as origin:
        request = DownloadRequest(url=origin.url(), id="film", connections=2)
        for fail_at in range(1, CALLS_MAX):
            library = tmp_path / str(fail_at)
            calls = 0

            def failing(self: Environment, work: Callable[[Any], Any], fail_at: int = fail_at) -> Any:
                nonlocal calls
                calls += 1
                if calls == fail_at or (lasting and calls > fail_at):
                    raise NoSpace("the disk of the store is full")
                return write(self, work)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Environment, "write", failing)
                code = await _try(library, request, FileSystem())
            if calls < fail_at:
                break
            assert code in {"no_space", "store_unusable", ""}
            for claim in claims(library, FAST) if (library / "store").exists() else ():
                check_claim(library, claim, PAYLOAD, FAST)
            assert_complete(await run(library, request, config=FAST), PAYLOAD)
            assert files_under(library / "files") == {"film.bin"}
    assert calls < fail_at
    assert fail_at > 5
