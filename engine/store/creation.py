"""Making a new store: built under another name, made durable, then named (fault catalogue C15, section 3 step 1)."""

from __future__ import annotations

import errno
import os
import uuid
from typing import Final

import lmdb

from engine.files.filesystem import FileSystem
from engine.store.codec import Table
from engine.store.damage import DamageLog
from engine.store.opening import DATA_NAME, open_handles, open_raw
from engine.store.root import sync_folder
from engine.store.schema import SCHEMA_VERSION, write_version
from engine.store.translate import translated
from engine.store.txn import Handles, Txn

STORE_NAME: Final = "store"
UNFINISHED: Final = "store.tmp-"
UUID_KEY: Final = b"uuid"


def ensure_store(root: str, map_bytes: int, files: FileSystem) -> str:
    """The path of the store in ``root``, made when there is none. The caller holds the lease.

    So a ``store.tmp-*`` that lies there has no living maker and is removed.
    """
    path = os.path.join(root, STORE_NAME)
    with translated(f"make the store {path}"):
        for name in files.names(root):
            if name.startswith(UNFINISHED):
                files.remove_tree(os.path.join(root, name))
        if files.stat_path(path) is None:
            _create(root, map_bytes, files)
    return path


def read_uuid(txn: Txn) -> str:
    """The store's own id, given when it was made: tells it from a copy or another disk's. Raises BadRecord."""
    return (txn.get(Table.META, UUID_KEY) or b"").decode()


def _create(root: str, map_bytes: int, files: FileSystem) -> None:
    identity = uuid.uuid4().hex
    name = UNFINISHED + identity
    folder = os.path.join(root, name)
    files.make_folders(folder)
    environment = open_raw(folder, map_bytes, files, readonly=False, create=True)
    try:
        _fill(environment, identity)
    finally:
        environment.close()
    folder_fd = files.open_folder(folder)
    try:
        data = files.open_existing(folder_fd, DATA_NAME, write=True)
        try:
            files.sync(data)
        finally:
            files.close(data)
        files.sync(folder_fd)
    finally:
        files.close(folder_fd)
    _give_name(root, name, files)


def _fill(environment: lmdb.Environment, identity: str) -> None:
    while True:
        try:
            handles: Handles = open_handles(environment, create=True)
            with environment.begin(write=True) as raw:
                Txn(raw, handles, DamageLog()).put(Table.META, UUID_KEY, identity.encode())
                write_version(raw, handles[Table.META], SCHEMA_VERSION)
        except lmdb.MapFullError:
            environment.set_mapsize(int(environment.info()["map_size"]) * 2)
        else:
            return


def _give_name(root: str, name: str, files: FileSystem) -> None:
    root_fd = files.open_folder(root)
    try:
        try:
            files.rename_noreplace(root_fd, name, STORE_NAME)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            files.rename_over(root_fd, name, STORE_NAME)  # the file system lacks the flag; the lease keeps others away
    finally:
        files.close(root_fd)
    sync_folder(root, files)
