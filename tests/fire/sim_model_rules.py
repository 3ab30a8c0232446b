"""The model of ``sim_model``: what may be said to an entry in which state, who holds it, and what follows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from engine import State

SCOPES = {"a": "", "b": "", "c": "", "x": "", "s": "s", "t": "s"}
BAD = "x"  # its server has no such file
GROUPS = {"album": "", "mix": "", "season": "s"}
QUOTA_SCOPE, NO_ROOM = "s", 1
CHUNKS = 3

GOING, DISK = "going", "disk"  # on its way; paused for its scope's quota
PAUSED, CANCELLED, COMPLETED, FAILED = (
    State.PAUSED.value,
    State.CANCELLED.value,
    State.COMPLETED.value,
    State.FAILED.value,
)
# From which states a verb leads where; an absent one refuses it.
_UNFINISHED = (GOING, PAUSED, DISK, CANCELLED, FAILED)
RULES: dict[str, dict[str, str]] = {
    "pause": {GOING: PAUSED, PAUSED: PAUSED, DISK: PAUSED},
    "resume": {GOING: GOING, PAUSED: GOING, DISK: GOING},
    "retry": {GOING: GOING, FAILED: GOING},
    "cancel": dict.fromkeys(_UNFINISHED, CANCELLED),
    "ask": dict.fromkeys(_UNFINISHED, GOING) | {COMPLETED: COMPLETED},
}


@dataclass
class Known:
    """An entry of the model; ``own``: it was asked for by itself."""

    state: str = GOING
    own: bool = False
    priority: int = 0


@dataclass
class Model:
    """What is there: entries by id, the members of groups by place."""

    entries: dict[str, Known] = field(default_factory=dict)
    groups: dict[str, dict[int, str]] = field(default_factory=dict)
    quota: int | None = None

    def holders(self, entry_id: str) -> set[str]:
        """The groups that hold the entry."""
        return {name for name, places in self.groups.items() if entry_id in places.values()}

    def ask(self, entry_id: str, *, own: bool) -> None:
        """The entry is asked for, by itself or for a group."""
        known = self.entries.get(entry_id)
        if known is None:
            known = self.entries[entry_id] = Known()
        known.state = RULES["ask"][known.state]
        known.own = known.own or own

    def let_go(self, entry_ids: Iterable[str]) -> None:
        """They lost a place: those that nothing holds any more go."""
        for entry_id in set(entry_ids):
            known = self.entries.get(entry_id)
            if known is not None and not known.own and not self.holders(entry_id):
                del self.entries[entry_id]

    def rest(self) -> None:
        """What was on its way has come to its end."""
        for entry_id, known in self.entries.items():
            if known.state == GOING:
                full = SCOPES[entry_id] == QUOTA_SCOPE and self.quota == NO_ROOM
                known.state = FAILED if entry_id == BAD else DISK if full else COMPLETED

    def no_bound(self) -> None:
        """The quota is lifted: what waited for it goes on."""
        for known in self.entries.values():
            if known.state == DISK:
                known.state = GOING
