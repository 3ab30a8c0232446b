"""``get``: have these URLs offline. The same command again resumes what an earlier one left.

When another process runs the engine on the root, what is asked for is handed over to it and watched from here. Should
that process end first, this one goes on.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, suppress

import trio

from engine import (
    Download,
    DownloadFailed,
    DownloadRequest,
    Engine,
    StoreBusy,
    TransferError,
    Trust,
    UnknownEntry,
    open_engine,
)
from engine.cli import status
from engine.cli.asking import requests_of
from engine.cli.console import PROGRAM, print_json, print_line, warn
from engine.cli.elsewhere import Elsewhere, check_can_be_handed_over
from engine.cli.interrupt import until_interrupted
from engine.cli.library import open_store
from engine.cli.outcome import Outcome, outcome_of, parked, removed
from engine.cli.trust_options import trust_options_given
from engine.cli.trusting import trust_of
from engine.cli.watching import Watcher, open_watcher
from engine.errors import NoStoreYet, Superseded
from engine.files.filesystem import FileSystem
from engine.model.records import ErrorRecord
from engine.store.guest import open_guest

# Enough that the engine's own limit decides how many run, also while some wait before trying again.
ASKED_AT_ONCE = 64
# Another process that makes the store, or brings it up to date, is waited for.
MADE_WITHIN_S = 15.0
LOOK_INTERVAL_S = 0.05

# Has one request done; None when that has to be done otherwise.
Do = Callable[[str, DownloadRequest], Awaitable[Outcome | None]]


def run(arguments: argparse.Namespace) -> int:
    """Fetch everything asked for; returns the exit status. Raises InvalidRequest, StoreError."""
    return trio.run(_Get(requests_of(arguments), trust_of(arguments), arguments).run)


class _Get:
    """One run of the verb."""

    def __init__(self, requests: dict[str, DownloadRequest], trust: Trust, arguments: argparse.Namespace) -> None:
        self._requests = requests
        self._trust = trust
        self._arguments = arguments
        self._left = dict(requests)
        self._running: dict[str, Download] = {}
        self._failed = 0

    async def run(self) -> int:
        interrupted = await until_interrupted(self._download)
        if interrupted and self._left:
            if self._arguments.json:
                self._report_parked()
            left, of = len(self._left), len(self._requests)
            warn(f"interrupted: {left} of {of} are resumable; run the same command again")
            return status.INTERRUPTED
        return status.FAILED if self._failed else status.COMPLETE

    async def _download(self) -> None:
        until = trio.current_time() + MADE_WITHIN_S
        while self._left:
            try:
                await self._here()
            except StoreBusy as busy:
                if busy.pid == os.getpid():
                    raise
                try:
                    await self._elsewhere(busy)
                except NoStoreYet:
                    if trio.current_time() > until:
                        raise busy from None
                    await trio.sleep(LOOK_INTERVAL_S)

    async def _here(self) -> None:
        arguments = self._arguments
        async with open_engine(arguments.root, resume=False, adopt=arguments.adopt, trust=self._trust) as engine:
            engine.set_rate_limit(arguments.limit_rate_all)
            self._tell_recovered(engine)
            with self._watcher() as watcher:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(watcher.run, engine)
                    await self._all(lambda entry_id, request: self._one(engine, entry_id, request))
                    nursery.cancel_scope.cancel()

    async def _elsewhere(self, busy: StoreBusy) -> None:
        arguments = self._arguments
        check_can_be_handed_over(self._left.values(), trust_options_given(arguments), busy)
        if arguments.limit_rate_all:
            warn(f"{PROGRAM}: --limit-rate-all does not reach the other process")
        with open_guest(arguments.root, FileSystem()) as guest, self._watcher() as watcher:
            if not arguments.no_progress:
                warn(f"{PROGRAM}: {busy}; that one fetches what is asked for here")
            elsewhere = Elsewhere(arguments.root, guest, watcher, busy)
            try:
                await self._all(elsewhere.one)
            finally:
                elsewhere.leave()

    def _watcher(self) -> AbstractContextManager[Watcher]:
        urls = {entry_id: request.url for entry_id, request in self._requests.items()}
        return open_watcher(urls, quiet=self._arguments.no_progress, plain=self._arguments.json)

    async def _all(self, do: Do) -> None:
        async with trio.open_nursery() as workers:
            queue = iter(list(self._left.items()))
            for _ in range(min(len(self._left), ASKED_AT_ONCE)):
                workers.start_soon(self._work, do, queue)

    async def _work(self, do: Do, queue: Iterator[tuple[str, DownloadRequest]]) -> None:
        """One of several takers of the next request."""
        for entry_id, request in queue:
            outcome = await do(entry_id, request)
            self._running.pop(entry_id, None)
            if outcome is not None:
                del self._left[entry_id]
                self._failed += not outcome.good
                self._report(outcome)

    async def _one(self, engine: Engine, entry_id: str, request: DownloadRequest) -> Outcome:
        refused: ErrorRecord | None = None
        try:
            download = self._running[entry_id] = await engine.offline(request)
            entry_id = download.id  # an earlier version's, of a URL that was spelled otherwise
            with suppress(DownloadFailed):  # the entry's own record, read next, says more
                await download.wait()
        except TransferError as error:  # a complete file that is not what is newly expected of it
            refused = ErrorRecord.of(error, time.time())
        except (UnknownEntry, Superseded):
            return removed(entry_id, request.url, engine.run_stats(entry_id))
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
