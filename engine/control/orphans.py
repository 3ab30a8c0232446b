"""Files without a record, and records without their file.

Only unfinished files of the engine's own making are ever removed, by their names, their age, and a last look at the
records inside the transaction that no writer can overtake; whatever else lies around is only told.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from enum import StrEnum

import msgspec

from engine.errors import StorageError, StoreError
from engine.files.filesystem import FileSystem
from engine.files.names import tag_of_part
from engine.files.part_file import remove_part
from engine.model.records import PartPhase
from engine.model.states import State
from engine.store.state_store import StateStore
from engine.store.usage import Held, PartLine, needed_names
from engine.transfer.reservations import BLOCK_BYTES
from engine.transfer.services import Services


class What(StrEnum):
    """What was found."""

    ORPHAN_PART = "orphan_part"  # an unfinished file that no record knows
    UNKNOWN_FILE = "unknown_file"  # a file in the library's folder that no record knows
    MISSING_FILE = "missing_file"  # a completed entry whose file is gone
    MISSING_PART = "missing_part"  # an unfinished entry whose file is gone
    STALE_PART = "stale_part"  # what an entry holds that failed or was cancelled long ago
    STALE_ENTRY = "stale_entry"  # the record of such an entry
    LEFTOVER = "leftover"  # an unfinished file that a completed entry does not need any more
    TEMPORARY = "temporary"  # a folder of the engine's own that was never finished
    EXPIRED = "expired"  # a finished file beyond its time
    LEAST_RECENT = "least_recent"  # a finished file that had to make room


class Action(StrEnum):
    """What was done about it."""

    REMOVED = "removed"
    WOULD_REMOVE = "would_remove"  # a dry run
    REPORTED = "reported"  # nothing, on purpose
    KEPT = "kept"  # it is needed after all, too young, or cannot be removed now


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that clean-up found. ``size``: bytes that it takes on the disk."""

    what: What
    path: str
    why: str
    size: int = 0
    action: Action = Action.REPORTED
    entry_id: str = ""


class _Folder(msgspec.Struct):
    """What the records say is in a folder: names of unfinished files, of published ones, whose they are, and which of
    them a completed entry has no use for."""

    unfinished: set[str] = msgspec.field(default_factory=set)
    published: set[str] = msgspec.field(default_factory=set)
    expected: list[tuple[str, str, What]] = msgspec.field(default_factory=list)
    leftover: list[tuple[str, str]] = msgspec.field(default_factory=list)


def scan(
    store: StateStore, files: FileSystem, library: str, now: float, grace_s: float, *, everywhere: bool = False
) -> list[Finding]:
    """What does not fit together; those with the action WOULD_REMOVE may go. Blocking: one pass over all records and
    folders, two more looks at what seems wrong.

    In a folder of the caller's own, engines on other roots may have unfinished files as well: there only those of this
    store's entries may go, unless ``everywhere`` says that there is no other.
    """
    folders = _merged(files, _recorded(store, library))
    found: list[Finding] = []
    for path, folder in folders.items():
        names = _names(files, path)
        if names is None:
            found += [_missing(path, line, "its folder is gone or cannot be read") for line in folder.expected]
            continue
        own = everywhere or path == library
        found += _orphans(store, files, path, names - folder.unfinished, now - grace_s, own=own)
        if path == library:
            found += _strangers(files, path, folder, names, now - grace_s)
        found += _leftovers(files, path, folder, names)
        lost = [line for line in folder.expected if line[0] not in names]
        found += [_missing(path, line, "its file is gone") for line in lost if _is_lost(store, files, path, line)]
    return found


async def remove_orphan(services: Services, finding: Finding) -> Finding:
    """Remove an unfinished file unless a record knows it by now. Never raises for what the disk refuses."""
    done, why = await services.write(_remove_unknown, services.store, services.files, finding.path)
    action = Action.REMOVED if done else Action.KEPT
    return msgspec.structs.replace(finding, action=action, why=why or finding.why)


def size_on_disk(files: FileSystem, folder: str, names: Iterable[str]) -> int:
    """Bytes that these plain files of a folder take."""
    found = (files.stat_path(os.path.join(folder, name), follow=False) for name in names)
    return sum(info.st_blocks * BLOCK_BYTES for info in found if info is not None and stat.S_ISREG(info.st_mode))


def _remove_unknown(store: StateStore, files: FileSystem, path: str) -> tuple[bool, str]:
    """Runs inside a write transaction: a record of the name cannot come between the look and the removal, and every
    name is recorded before its file is made (law 4)."""
    folder, name = os.path.split(path)
    tag = tag_of_part(name)
    if tag is None or store.usage.needs(tag, name):
        return False, "an entry needs it after all"
    try:
        remove_part(files, folder, (name,))
    except StorageError as error:
        return False, str(error)
    return True, ""


def _recorded(store: StateStore, library: str) -> dict[str, _Folder]:
    folders: dict[str, _Folder] = {library: _Folder()}
    for held in store.usage.pages(offline=True):
        if held.offline is not None:
            folder, name = os.path.split(held.offline.path)
            folders.setdefault(folder, _Folder()).published.add(name)
        for part in held.parts:
            _note(folders.setdefault(part.folder, _Folder()), held, part)
    return folders


def _merged(files: FileSystem, folders: dict[str, _Folder]) -> dict[str, _Folder]:
    """Each folder once, by the first of its spellings: what a record says of it under one holds under all."""
    merged: dict[str, _Folder] = {}
    spelled: dict[tuple[int, int], str] = {}
    for path, folder in folders.items():
        try:
            info = files.stat_path(path)
        except OSError:
            info = None
        first = path if info is None else spelled.setdefault((info.st_dev, info.st_ino), path)
        whole = merged.setdefault(first, folder)
        if whole is not folder:
            whole.unfinished |= folder.unfinished
            whole.published |= folder.published
            whole.expected += folder.expected
            whole.leftover += folder.leftover
    return merged


def _note(folder: _Folder, held: Held, part: PartLine) -> None:
    folder.unfinished.update(needed_names(part))
    if part.final_name:
        folder.published.add(part.final_name)
    if held.entry.state is State.COMPLETED and part.phase is PartPhase.PUBLISHED:
        folder.leftover += [(name, held.entry.id) for name in part.superseded]
        folder.expected.append((part.final_name, held.entry.id, What.MISSING_FILE))
    elif held.entry.state is not State.COMPLETED and part.phase is PartPhase.ACTIVE:
        folder.expected.append((part.part_name, held.entry.id, What.MISSING_PART))


def _names(files: FileSystem, path: str) -> set[str] | None:
    try:
        return set(files.names(path))
    except OSError:
        return None


def _missing(folder: str, line: tuple[str, str, What], why: str) -> Finding:
    name, entry_id, what = line
    return Finding(what=what, path=os.path.join(folder, name), why=why, entry_id=entry_id)


def _is_lost(store: StateStore, files: FileSystem, folder: str, line: tuple[str, str, What]) -> bool:
    """Whether that is so still: the entry may have moved on between the look at its record and at its folder."""
    name, entry_id, what = line
    try:
        entry, parts = store.get(entry_id), store.parts(entry_id)
    except StoreError:
        return False
    if entry is None or entry.state is State.IN_PROGRESS:
        return False
    phase = PartPhase.PUBLISHED if what is What.MISSING_FILE else PartPhase.ACTIVE
    names = [part.final_name if what is What.MISSING_FILE else part.part_name for part in parts if part.phase is phase]
    same = name in names
    return same and files.stat_path(os.path.join(folder, name), follow=False) is None


def _orphans(
    store: StateStore, files: FileSystem, path: str, names: set[str], before: float, *, own: bool
) -> Iterator[Finding]:
    for name in sorted(names):
        tag = tag_of_part(name)
        if tag is None or (info := _plain(files, path, name)) is None or store.usage.needs(tag, name):
            continue
        why, action = "no entry needs this unfinished file", Action.WOULD_REMOVE
        if info.st_mtime > before:
            why, action = f"{why}, but it is young", Action.KEPT
        elif not own and not store.usage.has_tag(tag):
            why, action = f"{why} in this library; it may be another's", Action.REPORTED
        yield Finding(
            what=What.ORPHAN_PART,
            path=os.path.join(path, name),
            why=why,
            size=info.st_blocks * BLOCK_BYTES,
            action=action,
        )


def _strangers(files: FileSystem, path: str, folder: _Folder, names: set[str], before: float) -> Iterator[Finding]:
    for name in sorted(names - folder.unfinished - folder.published):
        if tag_of_part(name) is not None:
            continue
        info = _plain(files, path, name)
        if info is not None and info.st_mtime <= before:
            yield Finding(
                what=What.UNKNOWN_FILE,
                path=os.path.join(path, name),
                why="no entry knows this file; it is left alone",
                size=info.st_blocks * BLOCK_BYTES,
            )


def _leftovers(files: FileSystem, path: str, folder: _Folder, names: set[str]) -> Iterator[Finding]:
    for name, entry_id in folder.leftover:
        if name in names:
            yield Finding(
                what=What.LEFTOVER,
                path=os.path.join(path, name),
                why="its entry is complete",
                size=size_on_disk(files, path, (name,)),
                action=Action.WOULD_REMOVE,
                entry_id=entry_id,
            )


def _plain(files: FileSystem, folder: str, name: str) -> os.stat_result | None:
    info = files.stat_path(os.path.join(folder, name), follow=False)
    return info if info is not None and stat.S_ISREG(info.st_mode) else None
