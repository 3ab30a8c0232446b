"""What a library must be like after a kill, by what it was like before that life and by what the life was told: beside
the promises that hold for every library (:mod:`tests.fire.judge`), those of each verb, of each bit and of the window.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from engine.files.filesystem import FileSystem
from engine.model.states import Reason, State
from engine.store.state_store import StateStore
from tests.fire.judge import Day, Found, Journal, judge, read_store
from tests.fire.kills_world import ALONE, CONFIG, GROUPS, group_of, members_of, payload

ENTRIES = (*ALONE, *(each for group in GROUPS for each in members_of(group)))
TRUTHS = {entry_id: (payload(entry_id),) for entry_id in ENTRIES}
REFUSALS = {"illegal_transition", "unknown_entry", "superseded"}  # what a verb may meet here; they change nothing
REMOVALS = {"remove", "remove_group"}
DROPPING = {*REMOVALS, "cancel"}


@dataclass(frozen=True, slots=True)
class Call:
    """A verb as the journal has it; ``began``, ``ended`` are lines of it, ``ended`` None when the kill came first."""

    verb: str
    began: int
    ended: int | None
    outcome: str


@dataclass
class Told:
    """The journal of one life, read."""

    calls: dict[str, list[Call]] = field(default_factory=dict)
    completed: dict[str, int] = field(default_factory=dict)
    progress: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    opened: bool = False
    done: bool = False
    recovered: list[tuple[str, str]] = field(default_factory=list)

    def of(self, entry_id: str) -> list[Call]:
        """The calls that may have moved an entry: those that were not refused."""
        calls = self.calls.get(group_of(entry_id) or entry_id, [])
        return [call for call in calls if call.outcome not in REFUSALS]


def read_journal(path: Path) -> Told:
    """The journal of a life; empty when it was killed before its first line."""
    told = Told()
    begun: dict[str, tuple[str, int]] = {}
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    for number, line in enumerate(text.splitlines()):
        kind, *words = json.loads(line)
        if kind == "begin":
            begun[words[1]] = (words[0], number)
        elif kind == "end":
            verb, began = begun.pop(words[1], (words[0], number))
            told.calls.setdefault(words[1], []).append(Call(verb, began, number, words[2]))
        elif kind == "state" and words[2] == State.COMPLETED.value:
            told.completed[words[0]] = number
        elif kind == "progress":
            told.progress[words[0]] = (words[1], words[2], words[3])
        elif kind == "open":
            told.opened, told.recovered = True, [(each[0], each[1]) for each in words[0]]
        elif kind == "done":
            told.done = True
    for target, (verb, began) in begun.items():
        told.calls.setdefault(target, []).append(Call(verb, began, None, ""))
    return told


@dataclass(frozen=True)
class Look:
    """What a store knows. ``leaving``: entries that the next start removes, as nothing holds them any more."""

    found: Mapping[str, Found] = field(default_factory=dict)
    groups: frozenset[str] = frozenset()
    leaving: frozenset[str] = frozenset()

    def held(self, entry_id: str) -> set[int]:
        """The chunks that an entry holds."""
        one = self.found.get(entry_id)
        runs = one.held.get(0, ()) if one is not None else ()
        return {index for first, count, _ in runs for index in range(first, first + count)}

    def held_bytes(self, entry_id: str) -> int:
        """Bytes that an entry holds."""
        one = self.found.get(entry_id)
        return sum(part.bytes_done for part in one.parts) if one is not None else 0

    @property
    def all_bytes(self) -> int:
        """Bytes that all entries hold."""
        return sum(self.held_bytes(entry_id) for entry_id in self.found)

    def state(self, entry_id: str) -> tuple[State, Reason] | None:
        """The state of an entry; None when it is not there."""
        one = self.found.get(entry_id)
        return None if one is None else (one.entry.state, one.entry.state_reason)

    def stays(self, entry_id: str) -> tuple[State, Reason] | None:
        """The state of an entry that nobody is about to remove."""
        return None if entry_id in self.leaving else self.state(entry_id)


def look(root: Path) -> Look:
    """A look at the store in ``root``; at nothing while it is not made."""
    if not (root / "store").exists():
        return Look()
    found, _ = read_store(str(root), CONFIG)
    store = StateStore.open_readonly(str(root), CONFIG, FileSystem())
    try:
        groups = frozenset(record.id for record in store.groups.page("").items)
        leaving = frozenset(store.groups.leaving())
    finally:
        store.close(clean=False)
    return Look(found, groups, leaving)


def judge_life(root: Path, before: Look, told: Told, after: Look, *, rested: bool = False) -> list[str]:
    """All that is not as it was promised."""
    journal = Journal()
    for entry_id in ENTRIES:
        _expect(journal, entry_id, before, told)
    violations = judge(root, Day(truths=TRUTHS, journal=journal, config=CONFIG, rested=rested))
    violations += [line for entry_id in ENTRIES for line in _judge_entry(entry_id, before, told, after)]
    violations += [line for group in GROUPS for line in _judge_group(group, before, told, after)]
    for target, calls in told.calls.items():
        odd = {call.outcome for call in calls if call.ended is not None} - REFUSALS - {"ok"}
        violations += [f"{target}: a verb ended with {outcome}" for outcome in sorted(odd)]
    return violations


def received_but_lost(told: Told, after: Look) -> int:
    """Bytes that the life said it had received, and that are not held."""
    lost = 0
    for entry_id, (epoch, _, received) in told.progress.items():
        one = after.found.get(entry_id)
        if one is not None and one.entry.epoch == epoch:
            lost += max(0, received - after.held_bytes(entry_id))
    return lost


def _expect(journal: Journal, entry_id: str, before: Look, told: Told) -> None:
    """Fill in what was acknowledged of one entry."""
    calls = told.of(entry_id)
    asked = [call for call in calls if call.verb in {"offline", "add_group"}]
    removing = [call for call in calls if call.verb in REMOVALS]
    last = calls[-1] if calls else None
    there_since = max((call.ended for call in asked if call.outcome == "ok" and call.ended is not None), default=-1)
    was_there = entry_id in before.found and entry_id not in before.leaving
    if (was_there or there_since >= 0) and all(call.began < there_since for call in removing):
        journal.accepted.add(entry_id)
    if last is not None and last.verb in REMOVALS and last.outcome == "ok":
        journal.removed.add(entry_id)
    if not calls and entry_id not in before.found and not _half_added(entry_id, before):
        journal.removed.add(entry_id)
    done_at = told.completed.get(entry_id, 0 if _is(before.stays(entry_id), (State.COMPLETED, None)) else None)
    if done_at is not None and all(call.ended is not None and call.ended < done_at for call in removing):
        journal.completed.add(entry_id)
    if entry_id in told.progress and not any(call.verb in DROPPING for call in calls):
        epoch, durable, _ = told.progress[entry_id]
        journal.progress[entry_id] = (epoch, durable)


def _half_added(entry_id: str, before: Look) -> bool:
    """Of a group that is on record, members may still be asked for."""
    return group_of(entry_id) in before.groups


def _judge_entry(entry_id: str, before: Look, told: Told, after: Look) -> Iterator[str]:
    calls = told.of(entry_id)
    last = calls[-1] if calls else None
    state = after.state(entry_id)
    for verb, wanted in (("pause", (State.PAUSED, Reason.USER)), ("cancel", (State.CANCELLED, None))):
        asked_for = last is not None and (last.verb, last.outcome) == (verb, "ok")
        stays = last is None and _is(before.stays(entry_id), wanted)
        if (asked_for or stays) and not _is(state, wanted):
            yield f"P4: {entry_id} was {wanted[0].value}, and is {state}"
    if state is not None and state[0] is State.FAILED:
        error = after.found[entry_id].entry.last_error
        if error is None or error.code != "poison":
            yield f"P5: {entry_id} failed: {error}"
    if not any(call.verb in DROPPING for call in calls) and entry_id not in before.leaving:
        lost = before.held(entry_id) - after.held(entry_id)
        if lost:
            yield f"P5: {entry_id} held {len(lost)} chunks that it holds no more: {sorted(lost)[:5]}"


def _is(state: tuple[State, Reason] | None, wanted: tuple[State, Reason | None]) -> bool:
    return state is not None and state[0] is wanted[0] and wanted[1] in {None, state[1]}


def _judge_group(group: str, before: Look, told: Told, after: Look) -> Iterator[str]:
    calls = [call for call in told.calls.get(group, []) if call.outcome not in REFUSALS]
    last = calls[-1] if calls else None
    there = group in after.groups
    if last is None and there is not (group in before.groups):
        yield f"P4: nobody touched the group {group}, and it is {'there' if there else 'gone'}"
    if last is not None and last.outcome == "ok" and there is not (last.verb == "add_group"):
        yield f"P4: {last.verb} of {group} was acknowledged, and it is {'there' if there else 'gone'}"
