"""A process beside the engine that leaves it commands: reads the store, and writes nothing but the inbox.

LMDB lets many processes write, one after the other, so no lease is needed for that; who owns the entries is the lease's
matter all the same.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from engine.errors import NoStoreYet
from engine.files.filesystem import FileSystem
from engine.model.commands import Command, CommandResult
from engine.model.records import DownloadEntry, OfflineEntry, PartRecord
from engine.store import entries, inbox, parts
from engine.store.creation import STORE_NAME
from engine.store.environment import Environment, Result
from engine.store.opening import DATA_NAME
from engine.store.root import check_file_system
from engine.store.schema import SCHEMA_VERSION, peek_version
from engine.store.session import Session, read_session
from engine.store.structure import check_structure
from engine.store.translate import translated
from engine.store.txn import Txn

# LMDB takes the map as large as the file says, which is what its owner made it.
_MAP_OF_THE_FILE: Final = 0
_STOPS: Final = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)


class GuestStore:
    """Made by :func:`open_guest`; every method is one whole transaction. Raises StoreError, and NoSpace when the disk
    is full; then nothing was changed."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def append(self, new: Sequence[Command], most: int) -> list[Command]:
        """Leave commands, durably; they are returned with their numbers. Raises StoreUnusable when more than ``most``
        would wait."""
        return self._write(lambda txn: inbox.append(txn, new, most))

    def withdraw(self, commands: Iterable[Command]) -> list[int]:
        """Take back those that were not begun; returns their numbers."""
        numbers = [command.number for command in commands]
        return self._write(lambda txn: inbox.withdraw(txn, numbers))

    def _write(self, work: Callable[[Txn], Result]) -> Result:
        """In one transaction, in which Ctrl-Z has to wait: whoever is stopped there keeps every other process from
        writing. (One that is killed does not.)"""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
        try:
            return self._environment.write(work)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def results(self, commands: Iterable[Command]) -> dict[int, CommandResult]:
        """What became of those that are finished, by number."""
        wanted = tuple(commands)
        found = self._environment.read(lambda txn: [inbox.result_of(txn, command.number) for command in wanted])
        return {
            result.number: result
            for command, result in zip(wanted, found, strict=True)
            if result is not None and result.token in {"", command.token}
        }

    def get(self, entry_id: str) -> DownloadEntry | None:
        """As ``StateStore.get``."""
        return self._environment.read(lambda txn: entries.find(txn, entry_id))

    def parts(self, entry_id: str) -> tuple[PartRecord, ...]:
        """As ``StateStore.parts``."""
        return self._environment.read(lambda txn: parts.all_of(txn, entry_id))

    def offline(self, entry_id: str) -> OfflineEntry | None:
        """As ``StateStore.offline``."""
        return self._environment.read(lambda txn: entries.find_offline(txn, entry_id))

    @property
    def session(self) -> Session:
        """Who has, or had, the store open as its owner."""
        return self._environment.read(read_session)


@contextmanager
def open_guest(root: str, files: FileSystem) -> Iterator[GuestStore]:
    """The store of ``root`` beside whatever engine runs on it, or none.

    Raises NoStoreYet when there is none or an engine has to bring it up to date first, StoreUnusable, StoreTooNew,
    StoreCorrupt, StoreBusy when this very process has it open.
    """
    path = os.path.abspath(root)
    check_file_system(path, files)
    store = os.path.join(path, STORE_NAME)
    with translated(f"open the store {store}"):
        if files.stat_path(store) is None:
            raise NoStoreYet(f"there is no store in {path}")
        check_structure(os.path.join(store, DATA_NAME), files, thorough=False)
        version = peek_version(store, _MAP_OF_THE_FILE, files)
    if version < SCHEMA_VERSION:
        raise NoStoreYet(f"the store {store} is of an older version: let an engine open it once")
    environment = Environment(store, _MAP_OF_THE_FILE, files, readonly=False, guest=True)
    try:
        yield GuestStore(environment)
    finally:
        environment.close()
