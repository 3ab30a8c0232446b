"""Where the store's root was when it was opened last: tells a root that was moved from a copy of one.

Records hold absolute paths, because a destination may be anywhere. A root that was moved has those inside of it made
those of its new place, in one transaction at its first opening there. A copy, whose original is still where it was, is
refused: both would write the files outside of their roots. ``adopt`` makes it a library of its own, which forgets them.
"""

from __future__ import annotations

import os
import uuid
from typing import Final

import msgspec

from engine.errors import BadRecord, StoreBusy, StoreCopied, StoreError
from engine.files.filesystem import FileSystem
from engine.store.codec import Table, decode, encode
from engine.store.creation import STORE_NAME, UUID_KEY, read_uuid
from engine.store.environment import Environment
from engine.store.opening import DATA_NAME
from engine.store.rebasing import Rebasing
from engine.store.structure import check_structure
from engine.store.translate import translated
from engine.store.txn import Txn

_KEY: Final = b"home"
_MAP_OF_THE_FILE: Final = 0


class Home(msgspec.Struct, frozen=True):
    """The root's path, in the bytes of the file system, and its folder's inode: with that, files inside kept theirs."""

    path: bytes
    inode: int


def settle(environment: Environment, root: str, files: FileSystem, *, adopt: bool) -> str:
    """Make the store one of the root ``root``; what was done, in words, or nothing.

    Raises StoreCopied when it is a copy and not to be adopted (nothing was changed), StoreError, NoSpace.
    """
    known = environment.read(_read)
    with translated(f"look at the root {root}"):
        info = files.stat_path(root)
    here = Home(os.fsencode(root), 0 if info is None else info.st_ino)
    if known == here:
        return ""
    before = root if known is None else os.fsdecode(known.path)
    copied = before != root and _is_copy(environment, before, root, files)
    if copied and not adopt:
        raise StoreCopied(f"{root} is a copy of {before}, which is still there; the advice says what can be done")

    def work(txn: Txn) -> None:
        if known is not None:
            Rebasing(txn, files, before, root, moved_files=known.inode != here.inode, foreign=copied).run()
        if copied:
            txn.clear(Table.INBOX)  # the same commands wait for the original
            txn.put(Table.META, UUID_KEY, uuid.uuid4().hex.encode())
        txn.put(Table.META, _KEY, encode(here))

    environment.write(work)
    if copied:
        return f"the copy of {before} was adopted: a library of its own"
    return f"the root was at {before} before, and is at {root} now" if before != root else ""


def _read(txn: Txn) -> Home | None:
    try:
        payload = txn.get(Table.META, _KEY)
        return None if payload is None else decode(payload, Home)
    except BadRecord as error:
        txn.note(Table.META, _KEY, "", str(error))
        return None


def _is_copy(environment: Environment, before: str, root: str, files: FileSystem) -> bool:
    """Whether the store that was at ``before`` is there still, or that cannot be told. Another name of the same folder,
    or another store, does not count."""
    with translated(f"look whether {before} is still there, of which {root} may be a copy"):
        there, here = files.stat_path(before), files.stat_path(root)
        if there is None or here is None or (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino):
            return False
        store = os.path.join(before, STORE_NAME)
        if files.stat_path(os.path.join(store, DATA_NAME)) is None:
            return False
    try:
        with translated(f"read {store}"):
            check_structure(os.path.join(store, DATA_NAME), files, thorough=False)
        other = Environment(store, _MAP_OF_THE_FILE, files, readonly=True)
    except StoreBusy:
        return True  # open in this very process
    except StoreError:
        return True
    try:
        return other.read(read_uuid) == environment.read(read_uuid)
    finally:
        other.close()
