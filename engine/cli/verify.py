"""``verify``: read finished files again and compare every chunk with what was downloaded; ``--repair`` what is bad."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator

import msgspec
import trio

from engine import DownloadFailed, Engine, Health, State, StoreUnusable, UnknownEntry, Validation, open_engine
from engine.cli import status
from engine.cli.console import PROGRAM, escape, print_json, print_line, warn
from engine.cli.healing import heal_command, heal_line
from engine.cli.interrupt import until_interrupted
from engine.cli.library import PAGE_ENTRIES, has_store
from engine.cli.text import size
from engine.control.verify import Repair
from engine.errors import Superseded


def run(arguments: argparse.Namespace) -> int:
    """Check the entries named, or all that are complete; 1 when one is not valid. Raises UnknownEntry, StoreError."""
    if not has_store(arguments.root):
        if arguments.ids:
            raise StoreUnusable(f"there is no store in {arguments.root}")
        return status.COMPLETE
    return trio.run(_Verify(arguments).run)


class _Verify:
    """One run of the verb."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._invalid = 0
        self._finished = False

    async def run(self) -> int:
        if await until_interrupted(self._verify) and not self._finished:
            warn(f"{PROGRAM}: interrupted; not all was checked")
            return status.INTERRUPTED
        return status.FAILED if self._invalid else status.COMPLETE

    async def _verify(self) -> None:
        arguments = self._arguments
        async with open_engine(arguments.root, resume=False, cafile=arguments.cacert) as engine:
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
            repaired, why = await _repaired(engine, validation)
            entry = await engine.get(entry_id)
            self._invalid += validation.health is not Health.VALID and not repaired
            if arguments.json:
                heal = None if repaired else heal_command(root, entry, validation.health, entry.url)
                told = {**msgspec.to_builtins(validation), "url": entry.url, "repaired": repaired, "heal": heal}
                print_json(told)
                continue
            print_line(_as_line(validation))
            if repaired:
                print_line(f"{'':<10}  repaired: {size(engine.run_stats(entry_id).bytes_fetched)} fetched")
            elif (line := heal_line(root, entry, validation)) is not None:
                if why:
                    print_line(f"{'':<10}  not repaired: {escape(why)}")
                print_line(line)


async def _repaired(engine: Engine, validation: Validation) -> tuple[bool, str]:
    """Whether the repair that was begun came to its end, and if not, why."""
    if validation.repair not in {Repair.CHUNKS, Repair.WHOLE}:
        return False, ""
    try:
        await engine.wait(validation.id)
    except (DownloadFailed, UnknownEntry, Superseded) as error:
        return False, str(error)
    return True, ""


async def _complete(engine: Engine) -> AsyncIterator[str]:
    after: str | None = None
    while page := await engine.list(state=State.COMPLETED, after=after, limit=PAGE_ENTRIES):
        for entry in page:
            yield entry.id
        after = page[-1].id


def _as_line(validation: Validation) -> str:
    checked = f"{size(validation.bytes_checked)} checked" if validation.bytes_checked else ""
    bad = f"{len(validation.bad_ranges)} bad ranges" if validation.bad_ranges else ""
    rest = [validation.path, checked, bad, validation.message]
    return escape("  ".join([f"{validation.health.value:<10}", validation.id, *filter(None, rest)]))
