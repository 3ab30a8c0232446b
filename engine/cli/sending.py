"""Commands on their way: through the inbox to the engine that runs, or to one that is opened for them alone."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Final

import msgspec

from engine.cli.library import has_store, needs_migration, runs
from engine.cli.one_interrupt import OneInterrupt
from engine.config import DEFAULT_CONFIG
from engine.errors import StoreBusy, StoreUnusable
from engine.files.filesystem import FileSystem
from engine.model.commands import Command, CommandResult
from engine.store.bell import ring
from engine.store.guest import GuestStore, open_guest

LOOK_INTERVAL_S: Final = 0.02
RING_INTERVAL_S: Final = 0.5
# An engine without a bell, or what looks like one: a process id may be another's by now, so it is tried to open one.
BELL_MISSED_S: Final = 3.0


class Answers(msgspec.Struct):
    """What became of commands, in their order: answered, taken back in time, or still being carried out."""

    commands: list[Command] = msgspec.field(default_factory=list)
    results: dict[int, CommandResult] = msgspec.field(default_factory=dict)
    withdrawn: set[int] = msgspec.field(default_factory=set)
    pid: int | None = None

    @property
    def open(self) -> list[Command]:
        """Those of which nothing is known yet."""
        known = self.results.keys() | self.withdrawn
        return [command for command in self.commands if command.number not in known]


def send(root: str, asked: Sequence[Command], timeout_s: float) -> Answers:
    """Leave the commands in the inbox of ``root`` and wait for what becomes of them, at most so long. What no engine
    has begun by then, or when an interrupt comes, is taken back. When none runs, one is opened that carries them out.

    Raises StoreError, KeyboardInterrupt.
    """
    if not has_store(root):
        raise StoreUnusable(f"there is no store in {root}")
    answers = Answers()
    until = time.monotonic() + timeout_s
    try:
        while not answers.commands or (answers.open and time.monotonic() < until):
            try:
                _visit(root, asked, answers, until)
            except StoreUnusable:
                if answers.commands or not needs_migration(root):
                    raise
            if not answers.commands or (answers.open and time.monotonic() < until):
                try:
                    _open_engine(root)
                except StoreBusy:  # another one came in between: that will do it
                    if not answers.commands and time.monotonic() >= until:
                        raise
                    time.sleep(LOOK_INTERVAL_S)
    finally:
        if answers.open:
            with open_guest(root, FileSystem()) as guest:
                answers.withdrawn.update(guest.withdraw(answers.open))
                answers.results.update(guest.results(answers.open))
    return answers


def _visit(root: str, asked: Sequence[Command], answers: Answers, until: float) -> None:
    """Leave the commands, when that is not done yet, and wait for an engine that runs."""
    with OneInterrupt() as interrupt, open_guest(root, FileSystem()) as guest:
        if not answers.commands:
            with interrupt.held():
                answers.commands = guest.append(asked, DEFAULT_CONFIG.inbox_commands_max)
        _wait(root, guest, answers, until)


def _wait(root: str, guest: GuestStore, answers: Answers, until: float) -> None:
    """Until all is answered, or there seems to be no engine, or it is time."""
    files = FileSystem()
    heard_at = time.monotonic()
    ring_at = 0.0
    while time.monotonic() < until:
        answers.results.update(guest.results(answers.open))
        if not answers.open:
            return
        if time.monotonic() >= ring_at:
            ring_at = time.monotonic() + RING_INTERVAL_S
            if ring(root, files):
                heard_at = time.monotonic()
            elif not owner_runs(guest) or time.monotonic() > heard_at + BELL_MISSED_S:
                return
            answers.pid = guest.session.pid
        time.sleep(LOOK_INTERVAL_S)


def owner_runs(guest: GuestStore) -> bool:
    """Whether the process that had the store open last seems to have it still. (To try the lease would keep a starting
    engine out.)"""
    session = guest.session
    return not session.previous_clean and session.pid != os.getpid() and runs(session.pid)


def _open_engine(root: str) -> None:
    """An engine that brings the store up to date, carries out what is in the inbox, and runs nothing."""
    import trio  # noqa: PLC0415  # with all that an engine needs: not when one runs already

    from engine import Config, open_engine  # noqa: PLC0415
    from engine.cli.interrupt import until_interrupted  # noqa: PLC0415

    async def come_and_go() -> None:
        async with open_engine(root, resume=False, config=Config(records_only=True)):
            pass

    if trio.run(until_interrupted, come_and_go):
        raise KeyboardInterrupt
