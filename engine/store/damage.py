"""What was found damaged while the store was read: kept until someone asks, so that nothing is silently made good."""

from __future__ import annotations

import threading
from typing import Final

import msgspec

KEPT_MAX: Final = 1024  # beyond this the store as a whole is the problem, and more lines say nothing new


class Damage(msgspec.Struct, frozen=True):
    """One bad record or page. ``entry_id`` is empty where only the key (hex) is known."""

    table: str
    key: str
    entry_id: str
    detail: str


class DamageLog:
    """Damages by table and key; safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[tuple[str, str], Damage] = {}

    def note(self, damage: Damage) -> None:
        """Remember one; the same table and key is kept once."""
        with self._lock:
            if len(self._found) < KEPT_MAX:
                self._found.setdefault((damage.table, damage.key), damage)

    def take(self) -> tuple[Damage, ...]:
        """All that were noted since the last call."""
        with self._lock:
            found = tuple(self._found.values())
            self._found.clear()
        return found
