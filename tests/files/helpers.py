"""What the tests of part files share: a record, a part, things that lie in the way, calls that fail."""

from __future__ import annotations

import os
from pathlib import Path

from engine.config import Config
from engine.files.filesystem import FileSystem
from engine.files.part_file import (
    PartFile,
    create_part,
)
from engine.model.records import PartPhase, PartRecord

CONFIG = Config(free_space_reserve_bytes=0)
NAME = ".oe-x-1.part"


def record_for(folder: Path, **changes: object) -> PartRecord:
    fields: dict[str, object] = {
        "folder": str(folder),
        "part_name": NAME,
        "final_name": "film.mkv",
        "chunk_bytes": 1024,
    }
    return PartRecord(**(fields | changes))  # type: ignore[arg-type]


def make(folder: Path, files: FileSystem | None = None, length: int | None = 5000, name: str = NAME) -> PartFile:
    return create_part(files or FileSystem(), str(folder), name, length, CONFIG, durable=True)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def plant(path: Path, victim: Path, kind: str) -> None:
    if kind == "symlink":
        path.symlink_to(victim)
    elif kind == "dangling":
        path.symlink_to(victim.with_name("nothing"))
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.hardlink_to(victim)


class Failing(FileSystem):
    """One call fails."""

    def __init__(self, name: str, number: int) -> None:
        def fail(*args: object, **kwargs: object) -> object:
            raise OSError(number, os.strerror(number))

        setattr(self, name, fail)


def finalizing(folder: Path, part: PartFile) -> PartRecord:
    device, inode, version = part.identity
    return record_for(folder, phase=PartPhase.FINALIZING, device=device, inode=inode, inode_version=version)
