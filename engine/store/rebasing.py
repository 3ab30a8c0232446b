"""The paths of all records made those of another root; one pass over four tables inside a transaction."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

import msgspec
from msgspec.structs import replace

from engine.errors import BadRecord
from engine.files.filesystem import FileSystem
from engine.model.records import DownloadEntry, OfflineEntry, PartPhase, PartRecord
from engine.store import entries, parts
from engine.store.codec import KEY_BYTES, Table, decode, encode
from engine.store.tombstones import LIBRARY, Doomed, Tombstone
from engine.store.txn import Txn

_PAGE_RECORDS: Final = 500  # a table is not changed while it is walked
_Record = TypeVar("_Record", bound=msgspec.Struct)
Identity = tuple[int, int, int]


def is_inside(path: str, root: str) -> bool:
    """Whether an absolute path is the root's or below it."""
    return path == root or path.startswith(root.rstrip("/") + "/")


class Rebasing:
    """``moved_files``: the files inside the root are other ones than before (it came from another file system, or from
    a copy): finished ones are known again by size and time stamp, unfinished ones are hashed again before they are
    believed. ``foreign``: what lies outside the root is another library's, and forgotten.

    Damaged records are left as they are, and noted when they are read.
    """

    def __init__(
        self, txn: Txn, files: FileSystem, before: str, root: str, *, moved_files: bool, foreign: bool
    ) -> None:
        self._txn = txn
        self._files = files
        self._before = before
        self._root = root
        self._moved_files = moved_files
        self._foreign = foreign
        self._renewed: dict[bytes, tuple[Identity, Identity]] = {}  # of finished files, by their entry's key

    def run(self) -> None:
        """Change every record that is concerned."""
        if self._before == self._root and not self._moved_files:
            return
        if self._foreign:
            self._forget_foreign()
        self._each(Table.ENTRIES, DownloadEntry, self._entry)
        self._each(Table.OFFLINE, OfflineEntry, self._offline)
        self._each(Table.PARTS, PartRecord, self._part)
        self._each(Table.TOMBSTONES, Tombstone, self._tombstone)

    def _path(self, path: str) -> str:
        if path and is_inside(path, self._before):
            return self._root + path[len(self._before) :]
        return path

    def _entry(self, _key: bytes, entry: DownloadEntry) -> DownloadEntry:
        return replace(entry, destination=self._path(entry.destination))

    def _offline(self, key: bytes, offline: OfflineEntry) -> OfflineEntry:
        offline = replace(offline, path=self._path(offline.path))
        if not self._moved_files or not offline.inode or not is_inside(offline.path, self._root):
            return offline
        identity = self._identity_of(offline)
        if identity is None:
            return offline
        self._renewed[key] = (offline.device, offline.inode, offline.inode_version), identity
        device, inode, version = identity
        return replace(offline, device=device, inode=inode, inode_version=version)

    def _part(self, key: bytes, part: PartRecord) -> PartRecord:
        part = replace(part, folder=self._path(part.folder))
        old, new = self._renewed.get(key[:KEY_BYTES], (None, None))
        if old is None or new is None:
            return part
        if part.phase is PartPhase.PUBLISHED and part.identity == old:
            return replace(part, device=new[0], inode=new[1], inode_version=new[2])
        if (part.replaces, part.replaces_version) == old[1:]:
            return replace(part, replaces=new[1], replaces_version=new[2])
        return part

    def _tombstone(self, _key: bytes, tombstone: Tombstone) -> Tombstone:
        doomed = tuple(self._doomed(one) for one in tombstone.doomed)
        swept = tuple(self._path(folder) for folder in tombstone.swept)
        if self._foreign:
            doomed = tuple(one for one in doomed if is_inside(one.folder, self._root))
            swept = tuple(folder for folder in swept if folder == LIBRARY or is_inside(folder, self._root))
        return replace(tombstone, doomed=doomed, swept=swept)

    def _doomed(self, one: Doomed) -> Doomed:
        return replace(one, folder=self._path(one.folder))

    def _identity_of(self, offline: OfflineEntry) -> Identity | None:
        """Of the file at that path, when size and time stamp say that it is the one on record."""
        info = self._files.stat_path(offline.path, follow=False)
        if info is None or not stat.S_ISREG(info.st_mode):
            return None
        if (info.st_size, info.st_mtime_ns) != (offline.size, offline.mtime_ns):
            return None
        folder_fd = self._files.open_folder(os.path.dirname(offline.path))
        try:
            fd = self._files.open_existing(folder_fd, os.path.basename(offline.path), write=False)
            try:
                return info.st_dev, info.st_ino, self._files.file_version(fd)
            finally:
                self._files.close(fd)
        finally:
            self._files.close(folder_fd)

    def _forget_foreign(self) -> None:
        """Drop the entries whose destination is outside of the root, with all that is known of them; no file is
        touched."""
        foreign = [
            entry.id
            for page in self._pages(Table.ENTRIES, DownloadEntry)
            for _, entry in page
            if entry.destination and not is_inside(entry.destination, self._before)
        ]
        for entry_id in foreign:
            entries.remove(self._txn, entry_id)
            parts.remove_all(self._txn, entry_id)

    def _each(self, table: Table, kind: type[_Record], change: Callable[[bytes, _Record], _Record]) -> None:
        for page in self._pages(table, kind):
            for key, record in page:
                changed = change(key, record)
                if changed != record:
                    self._txn.put(table, key, encode(changed))

    def _pages(self, table: Table, kind: type[_Record]) -> Iterator[list[tuple[bytes, _Record]]]:
        start: bytes | None = b""
        while start is not None:
            page, start = self._page(table, kind, start)
            yield page

    def _page(
        self, table: Table, kind: type[_Record], start: bytes
    ) -> tuple[list[tuple[bytes, _Record]], bytes | None]:
        """Sound records from a key on, and the key to go on from; None at the end."""
        found: list[tuple[bytes, _Record]] = []
        for seen, (key, payload) in enumerate(self._txn.walk(table, b"", start), start=1):
            if payload is not None:
                try:
                    found.append((key, decode(payload, kind)))
                except BadRecord as error:
                    self._txn.note(table, key, "", str(error))
            if seen == _PAGE_RECORDS:
                return found, key + b"\0"
        return found, None
