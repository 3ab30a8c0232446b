"""What the tests of the store share: records, commits, raw access behind its back, child processes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb

from engine.config import Config
from engine.files.filesystem import FileSystem
from engine.model.records import DownloadEntry, OfflineEntry, PartRecord
from engine.model.states import Event
from engine.store.codec import Table
from engine.store.commits import ChunkCommit
from engine.store.state_store import StateStore

REPOSITORY = Path(__file__).resolve().parents[2]
CHUNK = 1 << 20
BOOT = "boot-of-the-tests"


def open_store(root: str, config: Config | None = None) -> StateStore:
    """Open the writing store of ``root``."""
    return StateStore.open(root, config or Config(), FileSystem(), now=100.0)


def entry(entry_id: str = "a", **fields: Any) -> DownloadEntry:
    """A new entry."""
    return DownloadEntry(id=entry_id, sources=(f"http://example.test/{entry_id}",), **fields)


def part(chunks: int = 100, **fields: Any) -> PartRecord:
    """A part of ``chunks`` full chunks."""
    given = {"length": chunks * CHUNK, "chunk_bytes": CHUNK, "part_name": "p.part", **fields}
    return PartRecord(folder="/media", final_name="p", **given)


def offline(entry_id: str = "a") -> OfflineEntry:
    """What playback needs of an entry."""
    return OfflineEntry(id=entry_id, path="/media/p", size=1, blake3="00" * 32)


def cv(index: int, salt: str = "") -> bytes:
    """A made-up CV of a chunk."""
    return hashlib.sha256(f"{salt}{index}".encode()).digest()


def commit(entry_id: str, indexes: Any, bit_count: int = 100, **fields: Any) -> ChunkCommit:
    """A commit of full chunks."""
    given = {"epoch": 1, "generation": 1, "synced": True, "boot_id": BOOT, **fields}
    chunks = tuple((index, cv(index), CHUNK) for index in indexes)
    return ChunkCommit(id=entry_id, chunks=chunks, bit_count=bit_count, **given)


def add_running(store: StateStore, entry_id: str = "a", chunks: int = 100) -> PartRecord:
    """An entry in progress with one part."""
    store.add(entry(entry_id))
    store.transition(entry_id, Event.START, epoch=1, now=2.0)
    return store.put_part(entry_id, 1, part(chunks))


@contextmanager
def raw_store(root: str) -> Iterator[lmdb.Environment]:
    """The closed store's LMDB environment, to do to it what disks and other programs do."""
    environment = lmdb.open(str(Path(root) / "store"), max_dbs=32, lib_version=0, map_size=1 << 30)
    try:
        yield environment
    finally:
        environment.close()


def dump(root: str) -> dict[tuple[str, bytes], bytes]:
    """Every table, key and value of a closed store, but for the session."""
    found: dict[tuple[str, bytes], bytes] = {}
    with raw_store(root) as environment:
        handles = {table: environment.open_db(table.value, create=False) for table in Table}
        with environment.begin() as txn:
            for table, handle in handles.items():
                for key, value in txn.cursor(handle):
                    if key != b"session":
                        found[table.name, key] = value
    return found


def spoil(root: str, table: Table, choose: Callable[[bytes], bool] = lambda key: True, at: int = -1) -> list[bytes]:
    """Flip one bit in every value of a table whose key is chosen, as rot would (L10); returns the keys."""
    spoiled: list[bytes] = []
    with raw_store(root) as environment:
        handle = environment.open_db(table.value, create=False)
        with environment.begin(write=True) as txn:
            for key, value in list(txn.cursor(handle)):
                if choose(key):
                    flipped = bytearray(value)
                    flipped[at] ^= 0x10
                    txn.put(key, bytes(flipped), db=handle)
                    spoiled.append(key)
    return spoiled


PRELUDE = """
import os, sys, time
from engine.config import Config
from engine.files.filesystem import FileSystem
from engine.store.state_store import StateStore
from tests.store.helpers import *
root = sys.argv[1]
"""


def child(code: str, root: str, *before: str) -> subprocess.Popen[str]:
    """Start a Python child of its own with the helpers at hand; ``before`` runs it (strace)."""
    return subprocess.Popen(
        [*before, sys.executable, "-c", PRELUDE + code, root],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_child(code: str, root: str, *before: str) -> str:
    """Run such a child to its end; its output. Fails with its errors."""
    with child(code, root, *before) as process:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    return out.strip()


def read_line(process: subprocess.Popen[str]) -> str:
    """The next line that a child says."""
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    assert line, process.stderr.read() if process.stderr else "the child said nothing"
    return line
