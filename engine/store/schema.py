"""The schema version of a store, and the numbered steps from each older one.

The version is kept in a form of its own that every version can read, so that a newer store is told from a broken one
before anything in it is believed or written.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Final

import lmdb

from engine.errors import StoreCorrupt, StoreTooNew
from engine.files.filesystem import FileSystem
from engine.store import entries
from engine.store.codec import Table
from engine.store.damage import DamageLog
from engine.store.opening import open_handles, open_raw
from engine.store.txn import Txn

SCHEMA_VERSION: Final = 2
_KEY: Final = b"schema"
_MAGIC: Final = b"offline-engine"
_LAYOUT: Final = struct.Struct(f">{len(_MAGIC)}sII")

Migration = Callable[[Txn], None]

# From version N to N + 1. Steps only add; each runs in one transaction with the new version number.
MIGRATIONS: dict[int, Migration] = {
    1: entries.index_scopes,  # 2: entries by scope; groups, links, commands and tombstones (empty tables)
}


def read_version(environment: lmdb.Environment) -> int:
    """The schema version of an open environment. Raises StoreCorrupt when the file is not a store of this engine."""
    try:
        meta = environment.open_db(Table.META.value, create=False)
    except lmdb.NotFoundError as error:
        raise StoreCorrupt(f"{environment.path()} is not a store of offline-engine") from error
    with environment.begin() as txn:
        value = txn.get(_KEY, db=meta)
    if value is None or len(value) != _LAYOUT.size:
        raise StoreCorrupt(f"the store {environment.path()} has no schema version")
    magic, version, checksum = _LAYOUT.unpack(value)
    if magic != _MAGIC or checksum != zlib.crc32(value[:-4]):
        raise StoreCorrupt(f"the schema version of the store {environment.path()} is damaged")
    return int(version)


def write_version(raw: lmdb.Transaction[bytes], meta: lmdb._Database, version: int) -> None:
    """Record the version in the transaction that made the store be of it."""
    body = _LAYOUT.pack(_MAGIC, version, 0)[:-4]
    raw.put(_KEY, body + struct.pack(">I", zlib.crc32(body)), db=meta)


def peek_version(path: str, map_bytes: int, files: FileSystem, *, newest: int = SCHEMA_VERSION) -> int:
    """The version of the store in ``path``, read without writing. Raises StoreTooNew, StoreCorrupt."""
    environment = open_raw(path, map_bytes, files, readonly=True)
    try:
        version = read_version(environment)
    finally:
        environment.close()
    if version > newest:
        raise StoreTooNew(f"the store {path} has schema version {version}, this engine knows {newest}")
    return version


def migrate(
    path: str,
    map_bytes: int,
    files: FileSystem,
    *,
    target: int = SCHEMA_VERSION,
    migrations: Mapping[int, Migration] = MIGRATIONS,
) -> int:
    """Bring the store in ``path`` to ``target``, one step a transaction; a crash leaves it at one of the versions.

    Returns the version it had. Raises StoreTooNew, StoreCorrupt when a step is missing.
    """
    found = peek_version(path, map_bytes, files, newest=target)
    if found == target:
        return found
    environment = open_raw(path, map_bytes, files, readonly=False)
    try:
        for version in range(found, target):
            step = migrations.get(version)
            if step is None:
                raise StoreCorrupt(f"no step leads from schema version {version} of the store {path}")
            _run_step(environment, step, version + 1)
    finally:
        environment.close()
    return found


def _run_step(environment: lmdb.Environment, step: Migration, version: int) -> None:
    handles = open_handles(environment, create=True)
    while True:
        try:
            with environment.begin(write=True) as raw:
                step(Txn(raw, handles, DamageLog()))
                write_version(raw, handles[Table.META], version)
        except lmdb.MapFullError:
            environment.set_mapsize(int(environment.info()["map_size"]) * 2)
        else:
            return
