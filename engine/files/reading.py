"""Reading finished files back, in bounded blocks."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator

from blake3 import blake3

from engine.errors import InputOutput, storage_error
from engine.files.filesystem import FileSystem
from engine.threads import stop_if_cancelled

BLOCK_BYTES = 1024 * 1024


def blocks(files: FileSystem, fd: int, length: int) -> Iterator[bytes]:
    """The file's first ``length`` bytes. Raises InputOutput when it ends before, and Cancelled (see
    :func:`stop_if_cancelled`)."""
    offset = 0
    while offset < length:
        stop_if_cancelled()
        data = files.read_at(fd, min(BLOCK_BYTES, length - offset), offset)
        if not data:
            raise InputOutput(f"the file ends at byte {offset} of {length} when read back")
        yield data
        offset += len(data)


def digests(files: FileSystem, fd: int, length: int, algorithms: Iterable[str]) -> dict[str, str]:
    """Hex digests of the file's first ``length`` bytes, all from one reading. Raises StorageError."""
    hashers = {name: blake3() if name == "blake3" else hashlib.new(name, usedforsecurity=False) for name in algorithms}
    try:
        if hashers:
            for data in blocks(files, fd, length):
                for hasher in hashers.values():
                    hasher.update(data)
    except OSError as error:
        raise storage_error(error, "reading the finished file") from error
    return {name: hasher.hexdigest() for name, hasher in hashers.items()}


def digest_of_path(files: FileSystem, path: str, algorithm: str) -> str:
    """The hex digest of a whole file. Raises StorageError."""
    folder, name = os.path.split(path)
    try:
        folder_fd = files.open_folder(folder)
        try:
            fd = files.open_existing(folder_fd, name, write=False)
        finally:
            files.close(folder_fd)
    except OSError as error:
        raise storage_error(error, f"reading {path}") from error
    try:
        return digests(files, fd, files.stat_fd(fd).st_size, [algorithm])[algorithm]
    finally:
        files.close(fd)
