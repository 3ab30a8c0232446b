"""What the recorded run and the judge share: the disk's layout, the seams of the engine, the truth, the journal."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Final

import msgspec

from engine import DownloadRequest
from engine.config import KIB, Config
from engine.files.filesystem import FileSystem
from tests.fire.fuse_disk import Position
from tests.support.library import payload_of, small
from tests.support.origin import etag_of

DISK_BYTES: Final = 16 * 1024 * KIB
DEVICE: Final = 0x7E57  # a disk keeps its number across a reboot here; loop devices come and go
FIRST_BOOT: Final = "the-boot-that-ended"
NEXT_BOOT: Final = "the-boot-after"

CONFIG: Final[Config] = small(
    commit_interval_s=0.02,
    commit_window_bytes=256 * KIB,
    map_bytes=1024 * KIB,
    orphan_grace_s=0.0,
    first_span_bytes=64 * KIB,
    span_bytes_max=128 * KIB,
    first_byte_timeout_s=20.0,
    idle_timeout_s=20.0,
)


class OneDisk(FileSystem):
    """The real one on a disk that has the same device number in every life, under a boot of one's choice."""

    def __init__(self, boot: str) -> None:
        self._boot = boot

    def boot_id(self) -> str:
        return self._boot

    def stat_fd(self, fd: int) -> os.stat_result:
        return _same_device(super().stat_fd(fd))

    def stat_name(self, folder_fd: int, name: str) -> os.stat_result | None:
        info = super().stat_name(folder_fd, name)
        return None if info is None else _same_device(info)

    def stat_path(self, path: str, *, follow: bool = True) -> os.stat_result | None:
        info = super().stat_path(path, follow=follow)
        return None if info is None else _same_device(info)


def _same_device(info: os.stat_result) -> os.stat_result:
    extra = {name: getattr(info, name) for name in ("st_atime_ns", "st_mtime_ns", "st_ctime_ns", "st_blocks")}
    return os.stat_result((*info[:2], DEVICE, *info[3:10]), extra)


class Ack(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that the engine said is so, and how long the disk's log was by then.

    ``kind``: ``begin`` (what comes is to be judged; ``names`` are entries whose finished file rotted on purpose),
    ``state``, ``progress``, ``gone`` (an entry was removed), ``will`` and ``did`` (a verb that leads to ``state`` is
    about to be called, and has returned), ``group`` (with its members' ids), ``leaving`` (a group's removal is about
    to begin), ``no_group``, ``whole`` (the file ``names[0]`` is there at any time: its old bytes, with the hash
    ``names[1]``, or an entry's).
    """

    at: int
    kind: str
    id: str = ""
    state: str = ""
    epoch: int = 0
    generation: int = 0
    bytes_done: int = 0
    names: tuple[str, ...] = ()


class Journal:
    """Where the engine's process writes down what it was told; outside of the disk that loses its power."""

    def __init__(self, path: Path, position: Position | None) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._position = position

    def ack(self, kind: str, **fields: object) -> None:
        """Write down what was told just now."""
        at = self._position.get() if self._position is not None else 0
        os.write(self._fd, msgspec.json.encode(Ack(at, kind, **fields)) + b"\n")  # type: ignore[arg-type]


def read_journal(path: Path) -> list[Ack]:
    """All that was told, in order; a line that was cut off by a kill was told to nobody."""
    whole = path.read_bytes().rpartition(b"\n")[0]
    return [msgspec.json.decode(line, type=Ack) for line in whole.splitlines()]


def url_of(base: str, name: str, size: int, seed: int) -> str:
    """Where the origin has ``size`` bytes that follow from the seed."""
    return f"{base}/{size}-{seed}-{name}.bin"


def request_of(base: str, name: str, size: int, seed: int, **fields: object) -> DownloadRequest:
    """A request for that, under the id ``name``."""
    return DownloadRequest(url=url_of(base, name, size, seed), id=name, **fields)  # type: ignore[arg-type]


@lru_cache(maxsize=256)
def truth_of(target: str, version: int) -> bytes:
    """The bytes of a URL's last component, before (1) and after (2) they changed at the origin."""
    size, seed, _ = target.rpartition("/")[2].split("-", 2)
    return payload_of(int(size) + (version - 1) * 333, seed=int(seed) * 2 + version)


@lru_cache(maxsize=256)
def truth_by_etag(target: str, etag: str) -> bytes | None:
    """The version that has this ETag; None when no version has."""
    return next((body for body in (truth_of(target, 1), truth_of(target, 2)) if etag_of(body) == etag), None)
