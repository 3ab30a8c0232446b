"""How each mutant breaks the engine: see :mod:`tests.fire.mutants`, which names them and the tests that notice."""

from __future__ import annotations

import os
import zlib
from functools import partial
from typing import Any

import lmdb
import pytest
import trio

from engine.control import recheck, recovery, removal
from engine.errors import IntegrityError
from engine.files import filesystem, part_file
from engine.files.reading import digests
from engine.model.records import PartPhase
from engine.net import client, connection, fields, redirects, response
from engine.store import commits, environment, session, state_store
from engine.store.entries import find as find_entry
from engine.store.parts import find as find_part
from engine.transfer import committer, finish, folder_lanes, one_chunk, part_job, setup_part

Patch = pytest.MonkeyPatch
_FILES = filesystem.FileSystem
_COMMITTER = committer.Committer
_ENVIRONMENT = environment.Environment


async def _no_sync(self: Any, job: Any, by_job: Any) -> None:
    await trio.lowlevel.checkpoint()


def bit_before_sync(patch: Patch) -> None:
    record, sync = _COMMITTER._record, _COMMITTER._sync

    async def recorded(self: Any, by_job: Any) -> None:
        jobs = dict(by_job)
        await record(self, by_job)
        for job in jobs:
            if job.durable:
                await sync(self, job, jobs | {})

    patch.setattr(_COMMITTER, "_sync", _no_sync)
    patch.setattr(_COMMITTER, "_record", recorded)


def never_synced(patch: Patch) -> None:
    patch.setattr(_COMMITTER, "_sync", _no_sync)


def told_before_commit(patch: Patch) -> None:
    record = _COMMITTER._record

    async def told_first(self: Any, by_job: Any) -> None:
        for job, chunks in by_job.items():
            for chunk in chunks:
                job.held.add(chunk.index)
        await record(self, by_job)

    patch.setattr(_COMMITTER, "_record", told_first)


def fsync_retried(patch: Patch) -> None:
    async def synced(self: Any, job: Any, by_job: Any) -> None:
        try:
            await trio.to_thread.run_sync(self._files.sync_data, job.file.fd)
        except OSError:
            await trio.lowlevel.checkpoint()  # "the next one will take it along"

    patch.setattr(_COMMITTER, "_sync", synced)


def folder_not_synced(patch: Patch) -> None:
    for module in (folder_lanes, part_file):
        patch.setattr(module, "sync_folder", lambda *_: None)


def small_file_not_synced(patch: Patch) -> None:
    def unsynced(services: Any, job: Any, wanted: Any) -> Any:
        return digests(services.files, job.file.fd, job.grid.length, wanted)

    patch.setattr(one_chunk, "_digests_and_sync", unsynced)


def small_file_not_final_on_record(patch: Patch) -> None:
    """It gets its name before any record says that it is about to."""

    def put(self: Any, part: Any, commit: Any) -> Any:
        return part

    patch.setattr(state_store.StateStore, "put_whole_part", put)


def name_not_recorded(patch: Patch) -> None:
    """Its file is made before its name is on record."""
    patch.setattr(state_store.StateStore, "reset_part", lambda self, entry_id, epoch, part: part)


def validator_not_checked(patch: Patch) -> None:
    patch.setattr(response, "_check_same", lambda seen, known: None)


def no_if_range(patch: Patch) -> None:
    made = client._range_fields
    patch.setattr(client, "_range_fields", lambda asked, if_range: made(asked, None))


def any_range_taken(patch: Patch) -> None:
    """What range came is not compared with what was asked for: as asked, it is taken to be."""
    judged = response._judge_range

    def believed(head: Any, asked: Any, known: Any, seen: Any) -> Any:
        given = fields.parse_content_range(head.get("content-range"))
        if given is None or asked is None or known is None:
            return judged(head, asked, known, seen)
        return response.Answer(response.AnswerKind.RANGE, asked[0], asked[1] or given.end, given.total, seen)

    patch.setattr(response, "_judge_range", believed)


def header_kept_on_redirect(patch: Patch) -> None:
    follow = redirects.Trail.follow

    def followed(self: Any, head: Any) -> None:
        kept = self.fields
        follow(self, head)
        self.fields = kept

    patch.setattr(redirects.Trail, "follow", followed)


def dirty_connection_reused(patch: Patch) -> None:
    patch.setattr(connection.Connection, "usable", lambda self: self.phase is connection.Phase.IDLE)


def _current(txn: Any, commit: Any, *, epoch: bool, generation: bool) -> Any:
    entry, part = find_entry(txn, commit.id), find_part(txn, commit.id, commit.part_index)
    if entry is None or part is None or (epoch and entry.epoch != commit.epoch):
        return None
    return None if generation and part.generation != commit.generation else part


def epoch_ignored(patch: Patch) -> None:
    patch.setattr(commits, "_current_part", partial(_current, epoch=False, generation=True))


def generation_ignored(patch: Patch) -> None:
    patch.setattr(commits, "_current_part", partial(_current, epoch=True, generation=False))


def relaxed_trusted(patch: Patch) -> None:
    patch.setattr(recheck.Recheck, "unsynced", lambda self: None)
    patch.setattr(setup_part, "bad_chunks", lambda *_: [])


def suspects_ignored(patch: Patch) -> None:
    patch.setattr(recheck.Recheck, "suspects", lambda self: None)


def same_boot_assumed(patch: Patch) -> None:
    patch.setattr(session.Session, "recheck", property(lambda self: False))


def tombstone_dropped_first(patch: Patch) -> None:
    """The record goes before the files: a crash between leaves files that nobody knows."""
    delete = removal.delete_files

    async def finish_first(self: Any, entry_id: str) -> int:
        services = self._services
        tombstone = services.store.tombstones.find(entry_id)
        if tombstone is None:
            return 0
        await services.write(services.store.tombstones.drop, entry_id)
        reclaimed: int = await services.work(delete, services.files, tombstone, services.library)
        return reclaimed

    patch.setattr(removal.Removal, "finish", finish_first)


def files_before_record(patch: Patch) -> None:
    """Files go before the record says so: a crash between leaves a COMPLETED entry without its file."""
    bury = removal.Removal._bury

    async def unlinked_first(self: Any, entry_id: str, *, keep_file: bool) -> bool:
        offline = self._services.store.offline(entry_id)
        if offline is not None:
            folder = self._services.files.open_folder(os.path.dirname(offline.path))
            self._services.files.unlink(folder, os.path.basename(offline.path))
            os.close(folder)
        return await bury(self, entry_id, keep_file=keep_file)

    patch.setattr(removal.Removal, "_bury", unlinked_first)


def published_over(patch: Patch) -> None:
    patch.setattr(_FILES, "rename_noreplace", _FILES.rename_over)


def not_exclusive(patch: Patch) -> None:
    def create(self: Any, folder_fd: int, name: str) -> int:
        return os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=folder_fd)

    patch.setattr(_FILES, "create_exclusive", create)


def links_followed(patch: Patch) -> None:
    def opened(self: Any, folder_fd: int, name: str, *, write: bool) -> int:
        flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(name, flags, dir_fd=folder_fd)

    patch.setattr(_FILES, "open_existing", opened)


def metasync_off(patch: Patch) -> None:
    def opened(*args: Any, **switches: Any) -> Any:
        return lmdb.Environment(*args, **switches | {"metasync": False})

    patch.setattr(lmdb, "open", opened)


def commit_error_taken_for_success(patch: Patch) -> None:
    patch.setattr(_ENVIRONMENT, "_landed", lambda self, number: True)


def commit_error_taken_for_failure(patch: Patch) -> None:
    patch.setattr(_ENVIRONMENT, "_landed", lambda self, number: False)


def checksums_ignored(patch: Patch) -> None:
    patch.setattr(zlib, "crc32", lambda *_: 0)


def lease_not_exclusive(patch: Patch) -> None:
    patch.setattr(_FILES, "try_lock", lambda self, fd: True)


def _expected(entry: Any, record: Any, length: int, found: Any, *, lengths: bool, digests: bool) -> None:
    if lengths and entry.expected_length not in {None, length}:
        raise IntegrityError("another length")
    if digests and any(found[name] != wanted for name, wanted in entry.expect.items()):
        raise IntegrityError("another digest")


def unchecked(patch: Patch, *, lengths: bool, digests: bool) -> None:
    for module in (finish, one_chunk, recovery):
        patch.setattr(module, "check_expected", partial(_expected, lengths=lengths, digests=digests))


def written_or_not(patch: Patch) -> None:
    """What the disk said to the sealer is not asked for."""
    sealed = part_job.PartJob.sealed
    patch.setattr(part_job.PartJob, "sealed", lambda self, index, error: sealed(self, index, 0))


def publishing_not_finished(patch: Patch) -> None:
    """The start forgets what was about to get its name."""
    patch.setattr(recovery.Recovery, "_finish", lambda self, entry, record: record.phase is PartPhase.PUBLISHED)


def another_file_believed(patch: Patch) -> None:
    """That the unfinished file is another one than was written goes unnoticed."""
    patch.setattr(setup_part, "bad_chunks", lambda *_: [])
