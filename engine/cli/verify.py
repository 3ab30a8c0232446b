"""``verify``: read finished files again and compare every chunk with what was downloaded; ``--repair`` what is bad."""

from __future__ import annotations

import argparse
import os
from collections.abc import AsyncIterator

import trio

from engine import DownloadFailed, Engine, State, StoreBusy, StoreUnusable, UnknownEntry, Validation, open_engine
from engine.cli import status
from engine.cli.console import PROGRAM, warn
from engine.cli.interrupt import until_interrupted
from engine.cli.library import PAGE_ENTRIES, has_store
from engine.cli.trusting import trust_of
from engine.cli.verified import UNTOUCHED, Mended, begun, tell
from engine.cli.verify_elsewhere import verify_elsewhere
from engine.errors import Superseded


def run(arguments: argparse.Namespace) -> int:
    """Check the entries named, or all that are complete; 1 when one is not valid. Raises UnknownEntry, StoreError."""
    if not has_store(arguments.root):
        raise StoreUnusable(f"there is no store in {arguments.root}")  # a root misspelt must not look healthy
    here = _Verify(arguments)
    code = trio.run(here.run)
    return code if here.busy is None else verify_elsewhere(arguments, here.busy)


class _Verify:
    """One run of the verb by an engine of its own. ``busy``: another process has the root, and nothing was done."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.busy: StoreBusy | None = None
        self._arguments = arguments
        self._invalid = 0
        self._finished = False

    async def run(self) -> int:
        if await until_interrupted(self._begin) and not self._finished:
            warn(f"{PROGRAM}: interrupted; not all was checked")
            return status.INTERRUPTED
        return status.FAILED if self._invalid else status.COMPLETE

    async def _begin(self) -> None:
        try:
            await self._verify()
        except StoreBusy as busy:
            if busy.pid == os.getpid():
                raise
            self.busy = busy

    async def _verify(self) -> None:
        arguments = self._arguments
        async with open_engine(arguments.root, resume=False, trust=trust_of(arguments)) as engine:
            if self._arguments.ids:
                ids = [(await engine.get(entry_id)).id for entry_id in dict.fromkeys(self._arguments.ids)]
                for entry_id in ids:
                    await self._check(engine, entry_id)
            else:
                async for entry_id in _complete(engine):
                    await self._check(engine, entry_id)
        self._finished = True

    async def _check(self, engine: Engine, entry_id: str) -> None:
        root, arguments = self._arguments.root, self._arguments
        for validation in await engine.validate_downloads([entry_id], repair=arguments.repair):
            mended = await _repaired(engine, validation) if begun(validation) else UNTOUCHED
            self._invalid += not tell(root, await engine.get(entry_id), validation, mended, as_json=arguments.json)


async def _repaired(engine: Engine, validation: Validation) -> Mended:
    """How the repair that was begun came to its end."""
    try:
        await engine.wait(validation.id)
    except (DownloadFailed, UnknownEntry, Superseded) as error:
        return Mended(why=str(error))
    return Mended(True, bytes_fetched=engine.run_stats(validation.id).bytes_fetched)


async def _complete(engine: Engine) -> AsyncIterator[str]:
    """Also what was: a repair that failed leaves its file."""
    for state in (State.COMPLETED, State.FAILED):
        after: str | None = None
        while page := await engine.list(state=state, after=after, limit=PAGE_ENTRIES):
            for entry in page:
                if state is State.COMPLETED or await engine.offline_entry(entry.id) is not None:
                    yield entry.id
            after = page[-1].id
