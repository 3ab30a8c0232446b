"""Durable steps, numbered: every file system call that changes something, the beginning and end of each transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.files.filesystem import FileSystem

CHANGING_CALLS = (
    "make_folders",
    "create_exclusive",
    "allocate",
    "truncate",
    "copy_range",
    "write_all",
    "sync_data",
    "sync",
    "rename_noreplace",
    "rename_over",
    "link",
    "unlink",
    "remove_tree",
)


class Steps:
    """Counts steps and calls ``strike`` just before step ``strike_at`` (from 1; 0 for never)."""

    def __init__(self, strike_at: int, strike: Callable[[], object]) -> None:
        self.taken: list[str] = []
        self._strike_at = strike_at
        self._strike = strike

    def take(self, name: str) -> None:
        """One more step is about to happen; any thread may say so."""
        self.taken.append(name)
        if len(self.taken) == self._strike_at:
            self._strike()

    @property
    def struck(self) -> bool:
        """Whether the step was reached."""
        return 0 < self._strike_at <= len(self.taken)


def stepping_files(steps: Steps) -> FileSystem:
    """A file system whose changing calls are steps."""
    files = FileSystem()
    for name in CHANGING_CALLS:
        setattr(files, name, _stepping(getattr(files, name), name, steps))
    return files


def _stepping(call: Callable[..., Any], name: str, steps: Steps) -> Callable[..., Any]:
    def stepped(*args: Any, **kwargs: Any) -> Any:
        steps.take(name)
        return call(*args, **kwargs)

    return stepped


def step_transactions(steps: Steps, environment: Any, assign: Callable[[Any, str, Any], None] = setattr) -> None:
    """Make the beginning and the end of every store transaction a step; ``assign`` may be a monkeypatch's."""
    write = environment.write

    def stepped(self: Any, work: Callable[[Any], Any]) -> Any:
        steps.take("transaction")
        result = write(self, work)
        steps.take("committed")
        return result

    assign(environment, "write", stepped)
