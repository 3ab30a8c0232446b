"""``get``: have these URLs offline. The same command again resumes what an earlier one left."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import suppress

import trio

from engine import Download, DownloadFailed, DownloadRequest, Engine, TransferError, open_engine
from engine.cli import status
from engine.cli.asking import requests_of
from engine.cli.console import PROGRAM, print_json, print_line, warn
from engine.cli.interrupt import until_interrupted
from engine.cli.library import open_store
from engine.cli.outcome import Outcome, outcome_of, parked
from engine.cli.watching import open_watcher
from engine.model.records import ErrorRecord

# Enough that the engine's own limit decides how many run, also while some wait before trying again.
ASKED_AT_ONCE = 64


def run(arguments: argparse.Namespace) -> int:
    """Fetch everything asked for; returns the exit status. Raises InvalidRequest, StoreError."""
    return trio.run(_Get(requests_of(arguments), arguments).run)


class _Get:
    """One run of the verb."""

    def __init__(self, requests: dict[str, DownloadRequest], arguments: argparse.Namespace) -> None:
        self._requests = requests
        self._arguments = arguments
        self._running: dict[str, Download] = {}
        self._settled = 0
        self._failed = 0

    async def run(self) -> int:
        interrupted = await until_interrupted(self._download)
        left = len(self._requests) - self._settled
        if interrupted and left:
            if self._arguments.json:
                self._report_parked()
            warn(f"interrupted: {left} of {len(self._requests)} are resumable; run the same command again")
            return status.INTERRUPTED
        return status.FAILED if self._failed else status.COMPLETE

    async def _download(self) -> None:
        arguments = self._arguments
        async with open_engine(arguments.root, resume=False, cafile=arguments.cacert) as engine:
            self._tell_recovered(engine)
            with open_watcher(self._requests, quiet=arguments.no_progress, plain=arguments.json) as watcher:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(watcher.run, engine)
                    async with trio.open_nursery() as workers:
                        queue = iter(self._requests.items())
                        for _ in range(min(len(self._requests), ASKED_AT_ONCE)):
                            workers.start_soon(self._work, engine, queue)
                    nursery.cancel_scope.cancel()

    async def _work(self, engine: Engine, queue: Iterator[tuple[str, DownloadRequest]]) -> None:
        """One of several takers of the next request."""
        for entry_id, request in queue:
            outcome = await self._one(engine, entry_id, request)
            self._running.pop(entry_id, None)
            self._settled += 1
            self._failed += not outcome.good
            self._report(outcome)

    async def _one(self, engine: Engine, entry_id: str, request: DownloadRequest) -> Outcome:
        refused: ErrorRecord | None = None
        try:
            download = self._running[entry_id] = await engine.offline(request)
            with suppress(DownloadFailed):  # the entry's own record, read next, says more
                await download.wait()
        except TransferError as error:  # a complete file that is not what is newly expected of it
            refused = ErrorRecord.of(error, time.time())
        entry = await engine.get(entry_id)
        return outcome_of(
            entry,
            await engine.parts(entry_id),
            await engine.offline_entry(entry_id),
            engine.run_stats(entry_id),
            refused,
        )

    def _report(self, outcome: Outcome) -> None:
        if self._arguments.json:
            print_json(outcome.as_json())
        elif outcome.good:
            print_line(outcome.as_line())
        else:
            warn(outcome.as_line())

    def _report_parked(self) -> None:
        with open_store(self._arguments.root) as store:
            for entry_id, download in self._running.items():
                print_json(parked(store, entry_id, self._requests[entry_id].url, download.stats).as_json())

    def _tell_recovered(self, engine: Engine) -> None:
        if self._arguments.no_progress:
            return
        for recovered in engine.recovered:
            if recovered.id in self._requests:
                warn(f"{PROGRAM}: {recovered.id}: {recovered.what}")
