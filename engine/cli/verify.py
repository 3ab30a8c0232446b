"""``verify``: read finished files again and compare every chunk with what was downloaded."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator

import msgspec
import trio

from engine import Engine, Health, State, StoreUnusable, Validation, open_engine
from engine.cli import status
from engine.cli.console import PROGRAM, escape, print_json, print_line, warn
from engine.cli.healing import heal_command, heal_line
from engine.cli.interrupt import until_interrupted
from engine.cli.library import PAGE_ENTRIES, has_store
from engine.cli.text import size


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
        async with open_engine(self._arguments.root, resume=False) as engine:
            if self._arguments.ids:
                ids = [(await engine.get(entry_id)).id for entry_id in dict.fromkeys(self._arguments.ids)]
                for entry_id in ids:
                    await self._check(engine, entry_id)
            else:
                async for entry_id in _complete(engine):
                    await self._check(engine, entry_id)
        self._finished = True

    async def _check(self, engine: Engine, entry_id: str) -> None:
        root = self._arguments.root
        for validation in await engine.validate_downloads([entry_id]):
            entry = await engine.get(entry_id)
            self._invalid += validation.health is not Health.VALID
            if self._arguments.json:
                heal = heal_command(root, entry, validation.health, entry.url)
                print_json({**msgspec.to_builtins(validation), "url": entry.url, "heal": heal})
                continue
            print_line(_as_line(validation))
            if (line := heal_line(root, entry, validation)) is not None:
                print_line(line)


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
