"""Opening LMDB: the files are looked at before they are mapped, the switches are spelled out."""

from __future__ import annotations

import os
from typing import Final

import lmdb

from engine.errors import StoreBusy, StoreCorrupt
from engine.files.filesystem import FOLDER_MODE, FileSystem
from engine.store.codec import Table
from engine.store.structure import first_problem
from engine.store.txn import Handles

DATA_NAME: Final = "data.mdb"
READERS_MAX: Final = 256
_TABLES_MAX: Final = 32


def open_raw(path: str, map_bytes: int, files: FileSystem, *, readonly: bool, create: bool = False) -> lmdb.Environment:
    """Open the environment in the existing folder ``path``.

    Without ``create`` its data file must be there. Raises StoreCorrupt (nothing was changed), StoreBusy when this
    process has it open, lmdb.Error or OSError.
    """
    if not create:
        _check_data_file(path, files)
    try:
        environment = lmdb.open(
            path,
            map_size=map_bytes,
            subdir=True,
            readonly=readonly,
            metasync=True,
            sync=True,
            map_async=False,
            mode=FOLDER_MODE,
            create=False,
            readahead=True,  # the store is small beside the memory: after a start it is best read in large pieces
            writemap=False,
            meminit=True,
            max_readers=READERS_MAX,
            max_dbs=_TABLES_MAX,
            max_spare_txns=0,
            lock=True,
            lib_version=0,
        )
    except lmdb.Error as error:
        if "already open in this process" in str(error):
            raise StoreBusy(f"the store {path} is already open in this process ({os.getpid()})", os.getpid()) from error
        raise
    try:
        files.keep_from_programs(os.path.join(path, DATA_NAME))  # LMDB marks its other descriptors only (L23)
        if not create:
            _check_length(environment, path, files)
    except BaseException:
        environment.close()
        raise
    return environment


def open_handles(environment: lmdb.Environment, *, create: bool) -> Handles:
    """Handles of all tables, made where they are missing when ``create``. Raises StoreCorrupt for a missing one: what
    opens without ``create`` has seen that the schema version is its own."""
    if create:
        with environment.begin(write=True) as txn:
            return {table: environment.open_db(table.value, txn=txn, create=True) for table in Table}
    try:  # without a transaction of ours: py-lmdb ends a reading one in a way that takes its new handles along
        return {table: environment.open_db(table.value, create=False) for table in Table}
    except lmdb.NotFoundError as error:
        raise StoreCorrupt(f"the store {environment.path()} lacks a table that its version has") from error


def used_bytes(environment: lmdb.Environment) -> int:
    """The bytes of the data file up to the last page that the last commit left in use."""
    return (int(environment.info()["last_pgno"]) + 1) * int(environment.stat()["psize"])


def _check_data_file(path: str, files: FileSystem) -> None:
    """An absent or empty file would be taken for a new store and be filled (C15, L11)."""
    info = files.stat_path(os.path.join(path, DATA_NAME))
    if info is None:
        raise StoreCorrupt(f"{path} has no {DATA_NAME}")
    if info.st_size == 0:
        raise StoreCorrupt(f"{os.path.join(path, DATA_NAME)} is empty")


def _check_length(environment: lmdb.Environment, path: str, files: FileSystem) -> None:
    """Reading a page that the file no longer has kills the process with SIGBUS, so its length is checked first (L12).

    The file may end a little early where its last pages were never used: then every page in use is looked for.
    """
    data = os.path.join(path, DATA_NAME)
    info = files.stat_path(data)
    if info is not None and info.st_size >= used_bytes(environment):
        return
    problem = first_problem(data)
    if problem is not None:
        raise StoreCorrupt(f"{data} was cut short: {problem}")
