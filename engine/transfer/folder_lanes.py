"""Changes of a folder's names, one folder at a time and many at once.

The kernel lets one task at a time change a folder anyway; here the others wait without a thread, and whatever gathers
meanwhile is done by the next thread in one go: many files are created, or many are published behind one sync. A folder
on a disk that hangs keeps only its own entries waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import trio

from engine.errors import StorageError, storage_error
from engine.files.part_file import PartFile, sync_folder
from engine.transfer.combiner import Combiner, outcome_of

_Result = TypeVar("_Result")
Calls = Sequence[Callable[[], Any]]

# Creating a file costs the kernel about half a millisecond; a batch must not keep its first one waiting for long.
CALLS_PER_FOLDER = 32


class FolderLanes:
    """``limiter``: the engine's threads for blocking file work."""

    def __init__(self, limiter: trio.CapacityLimiter) -> None:
        self._limiter = limiter
        self._lanes: dict[tuple[str, bool], Combiner] = {}

    async def create(self, folder: str, call: Callable[[], _Result]) -> _Result:
        """Run ``call``, which looks at names in ``folder`` or creates one. Raises StorageError."""
        result: _Result = await self._run(folder, False, _all_of, call)
        return result

    async def publish(self, folder: str, file: PartFile, call: Callable[[], _Result]) -> _Result:
        """Run ``call``, which changes names in the ``folder`` that ``file`` has open; durable on return. Raises
        StorageError when the folder cannot be synced."""
        result: _Result = await self._run(folder, True, _all_synced, partial(_Naming, file, call))
        return result

    async def _run(
        self, folder: str, publishing: bool, run_batch: Callable[[Calls], Sequence[Any]], call: Callable[[], Any]
    ) -> Any:
        key = folder, publishing
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Combiner(run_batch, self._limiter, CALLS_PER_FOLDER)
        try:
            return await lane.do(call)
        except OSError as error:
            raise storage_error(error, f"folder {folder}") from error
        finally:
            if lane.idle:
                self._lanes.pop(key, None)


class _Naming:
    """A change of names that was made, and the file by which its folder is open."""

    __slots__ = ("file", "result")

    def __init__(self, file: PartFile, call: Callable[[], Any]) -> None:
        self.file = file
        self.result = call()


def _all_of(calls: Calls) -> list[Any]:
    return [outcome_of(call) for call in calls]


def _all_synced(calls: Calls) -> list[Any]:
    """Each call's outcome, after one sync of their folder. They all have the same one open, or a moved one's
    descriptors differ: then each is synced."""
    outcomes = _all_of(calls)
    done = [outcome for outcome in outcomes if isinstance(outcome, _Naming)]
    failed: dict[tuple[int, int], StorageError] = {}
    synced: set[tuple[int, int]] = set()
    folders: list[tuple[int, int]] = []
    for naming in done:
        file = naming.file
        info = file.files.stat_fd(file.folder_fd)
        folder = info.st_dev, info.st_ino
        folders.append(folder)
        if folder in synced:
            continue
        synced.add(folder)
        try:
            sync_folder(file.files, file.folder, file.folder_fd)
        except StorageError as error:
            failed[folder] = error
    results = {id(naming): failed.get(folder, naming.result) for naming, folder in zip(done, folders, strict=True)}
    return [results[id(outcome)] if isinstance(outcome, _Naming) else outcome for outcome in outcomes]
