"""Reaches what keeps an open engine's library in order, and makes the disk look as tests need it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from engine.control.orphans import Action, Finding, What
from engine.control.upkeep import Upkeep
from engine.engine import Engine

HOUR_S = 3600.0


def upkeep_of(engine: Engine) -> Upkeep:
    """The engine's own; one made for the test, and kept, where it has none."""
    found = getattr(engine, "_upkeep", None)
    if not isinstance(found, Upkeep):
        found = Upkeep(engine._services, engine._hub, engine._manager, engine._groups)
        setattr(engine, "_upkeep", found)  # noqa: B010  # not declared on the engine
    return found


def age(path: str | Path, seconds: float) -> None:
    """Set a file's time stamp back."""
    info = os.stat(path, follow_symlinks=False)
    os.utime(path, (info.st_atime, info.st_mtime - seconds), follow_symlinks=False)


def spoil(path: str | Path, offsets: Iterable[int]) -> None:
    """Flip a byte at each offset, as rot does: the time stamp stays."""
    before = os.stat(path)
    with open(path, "r+b") as file:
        for offset in offsets:
            file.seek(offset)
            [byte] = file.read(1)
            file.seek(offset)
            file.write(bytes([byte ^ 0xFF]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def actions(findings: Iterable[Finding]) -> dict[tuple[What, str], Action]:
    """What was done, by what was found and the name of the file or the entry."""
    return {(one.what, os.path.basename(one.path) or one.entry_id): one.action for one in findings}
