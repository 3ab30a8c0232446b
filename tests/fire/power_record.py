"""Records one run of the engine on a disk that writes down all that reaches it."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from tests.fire.fuse_disk import Position, Record, read_log, start_disk
from tests.fire.power_mounts import die_with_parent, loop_device, mount, unmount
from tests.fire.power_origin import RECORDED_RATE, tell
from tests.fire.power_scenarios import SCENARIOS, Act, Stage
from tests.fire.power_world import DISK_BYTES, FIRST_BOOT, Ack, Journal, OneDisk, read_journal

RUN_S: Final = 90
_OPTIONS: Final = ("-b", "4096", "-N", "512", "-J", "size=4", "-E", "lazy_itable_init=0,nodiscard")


@dataclass(frozen=True)
class Recording:
    """``base`` is the disk before the first request of ``log``; from the count ``first`` on every moment is judged.
    ``place``: the folder for temporary files, which its paths begin with."""

    scenario: str
    seed: int
    base: bytes
    log: list[Record]
    acks: list[Ack]
    first: int
    place: str

    def keep(self, path: Path) -> None:
        """Write it to a file, for another look."""
        path.write_bytes(pickle.dumps(self))

    @staticmethod
    def kept(path: str) -> Recording:
        """What :meth:`keep` wrote; only of this harness's own files. ValueError for what is none."""
        try:
            recording = pickle.loads(Path(path).read_bytes())
        except (OSError, EOFError, AttributeError, ImportError, IndexError, pickle.UnpicklingError) as error:
            raise ValueError(f"{path} is no recording: {error}") from error
        if not isinstance(recording, Recording):
            raise ValueError(f"{path} is no recording")
        return recording


def empty_disk(folder: Path, size: int = DISK_BYTES) -> bytes:
    """A fresh ext4 of ``size`` bytes."""
    image = folder / "fresh"
    with open(image, "wb") as file:
        file.truncate(size)
    maker = shutil.which("mkfs.ext4", path="/usr/sbin:/sbin:" + os.environ.get("PATH", ""))
    assert maker is not None, "mkfs.ext4 is missing"
    subprocess.run([maker, "-q", "-F", *_OPTIONS, str(image)], check=True)
    made = image.read_bytes()
    image.unlink()
    return made


def mount_point(folder: Path) -> Path:
    """Where the disk is mounted in every life: records hold absolute paths."""
    point = folder / "mnt"
    point.mkdir(exist_ok=True)
    return point


def record(folder: Path, scenario: str, seed: int, origin: str, patch: Callable[[], None] | None = None) -> Recording:
    """Run a scenario in a process of its own, with ``patch`` applied there. The caller has no threads."""
    base = empty_disk(folder)
    place, log_path, journal = folder / "disk", folder / "log", folder / "journal"
    journal.unlink(missing_ok=True)
    position = Position(folder / "position")
    position.set(0)
    tell(origin, f"rate/{RECORDED_RATE}")
    with ExitStack() as undo:
        server = start_disk(place, bytearray(base), log_path, position)
        undo.callback(os.waitpid, server, 0)
        undo.callback(unmount, str(place), detach=True)
        name, _ = undo.enter_context(loop_device(str(place)))
        point = mount_point(folder)
        mount(name, str(point), "ext4")
        undo.callback(unmount, str(point))
        *earlier, last = SCENARIOS[scenario]
        boots = [f"{FIRST_BOOT}, but {number}" for number in range(len(earlier), 0, -1)]
        for act, boot in [*zip(earlier, boots, strict=True), (last, FIRST_BOOT)]:
            stage = Stage(point / "library", origin, Journal(journal, position), OneDisk(boot), seed)
            child = os.fork()
            if child == 0:
                _play(act, stage, patch)
            _wait_for(child, f"{scenario}, seed {seed}")
        count = position.get()
    tell(origin, "rate/0")
    acks = read_journal(journal)
    first = next(ack.at for ack in acks if ack.kind == "begin")
    return Recording(scenario, seed, base, read_log(log_path)[:count], acks, first, tempfile.gettempdir())


def _play(act: Act, stage: Stage, patch: Callable[[], None] | None) -> None:
    """In the child: never returns."""
    status = 1
    try:
        die_with_parent()
        signal.alarm(RUN_S)
        if patch is not None:
            patch()
        trio.run(act, stage)
        status = 0
    finally:
        if sys.exc_info()[0] is not None:
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
        os._exit(status)


def _wait_for(child: int, what: str) -> None:
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code != 0:
        raise RuntimeError(f"the recorded run ({what}) ended with {code}")
