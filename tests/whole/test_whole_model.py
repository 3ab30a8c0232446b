"""Random sequences of requests, verbs, crashes and new starts against a model (DESIGN sections 5 and 6).

What an entry does by itself between two steps is open: the model is the set of states that it may be in. Whatever is
said to it has to be answered as one of them allows; and whenever everything has come to rest, the states, the files and
the records are exactly those of the model.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from engine import DownloadRequest, Engine, Event, State, open_engine
from engine.control.verbs import FOR_ALL
from engine.errors import IllegalTransition, StoreUnusable, UnknownEntry
from engine.store.environment import Environment
from engine.transfer.setup_part import entry_tag
from tests.support.library import CHUNK, content, files_under, payload_of, small
from tests.support.origin import Asked, End, Origin, Reply, serve
from tests.support.verbs import manager_of

PAYLOAD = payload_of(6 * CHUNK + 9, seed=431)
CONFIG = small(commit_interval_s=0.01, first_span_bytes=CHUNK, chunk_bytes=CHUNK, entries_at_once=4)

# What the server does with each entry, and where that leads.
KINDS = {"good": State.COMPLETED, "bad": State.FAILED, "slow": None}
ON_ITS_WAY = frozenset({State.PENDING, State.IN_PROGRESS})
VERBS = ("pause", "resume", "cancel", "retry", "remove")
VERBS_FOR_ALL = {
    "pause_all": Event.PAUSE,
    "resume_all": Event.RESUME,
    "cancel_all": Event.CANCEL,
    "retry_all": Event.RETRY,
}
OF_ALL = ("moment", "moment", "rest", "rest", "reopen", "crash", "remove_all", *VERBS_FOR_ALL)
# From which states a verb leads to which; an absent state refuses it. GO stands for "on its way, or at its end".
GO = None
RULES: dict[str, dict[State, State | None]] = {
    "pause": {State.PENDING: State.PAUSED, State.IN_PROGRESS: State.PAUSED, State.PAUSED: State.PAUSED},
    "resume": {State.PENDING: GO, State.IN_PROGRESS: GO, State.PAUSED: GO},
    "retry": {State.PENDING: GO, State.IN_PROGRESS: GO, State.FAILED: GO},
    "cancel": {state: State.CANCELLED for state in State if state is not State.COMPLETED},
    "add": {state: GO for state in State if state is not State.COMPLETED} | {State.COMPLETED: State.COMPLETED},
}

steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(("add", "add", *VERBS)), st.sampled_from(sorted(KINDS))),
        st.tuples(st.sampled_from(VERBS), st.sampled_from(sorted(KINDS))),
        st.tuples(st.sampled_from(OF_ALL), st.just("")),
    ),
    min_size=8,
    max_size=30,
)


class Crash(BaseException):
    """The process ends here: nothing more is recorded."""


@dataclass
class Model:
    """The states that each entry may be in; an entry that is not there is absent."""

    states: dict[str, set[State]] = field(default_factory=dict)

    def going(self, name: str) -> set[State]:
        """Where an entry may be that was told to go."""
        end = KINDS[name]
        return {*ON_ITS_WAY, end} if end is not None else set(ON_ITS_WAY)

    def say(self, verb: str, name: str) -> set[str]:
        """Apply the verb; returns the answers that are right."""
        now = self.states.get(name)
        if verb == "remove":
            self.states.pop(name, None)
            return {"unknown"} if now is None else {"done"}
        if now is None:
            if verb != "add":
                return {"unknown"}
            self.states[name] = self.going(name)
            return {"done"}
        answers: set[str] = set()
        after: set[State] = set()
        for state in now:
            if state not in RULES[verb]:
                answers.add("illegal")
                after.add(state)
                continue
            answers.add("done")
            target = RULES[verb][state]
            after |= self.going(name) if target is None else {target}
        self.states[name] = after
        return answers

    def answered(self, verb: str, name: str, answer: str, before: set[State]) -> None:
        """Now it is known which of them it was."""
        if not before or verb == "remove":
            return
        allowed = {state for state in before if (state in RULES[verb]) == (answer == "done")}
        if answer == "illegal":
            self.states[name] = allowed
        else:
            targets = [RULES[verb][state] for state in allowed]
            self.states[name] = set().union(*({one} if one is not None else self.going(name) for one in targets))

    def said_to_all(self, event: Event) -> None:
        """A verb for all was said: what it is meant for has followed, the rest is as it was."""
        for name, states in self.states.items():
            after: set[State] = set()
            for state in states:
                if state not in FOR_ALL[event]:
                    after.add(state)
                else:
                    target = RULES[event.value][state]
                    after |= self.going(name) if target is None else {target}
            self.states[name] = after

    def restarted(self) -> None:
        """What was on its way is so again."""
        for name, states in self.states.items():
            if states & ON_ITS_WAY:
                self.states[name] = states | self.going(name)


def script(asked: Asked) -> Reply:
    """The server."""
    if asked.target == "/bad":
        return Reply(status=404)
    if asked.target == "/slow":  # its second half never comes
        return Reply(rate=2e6, send=max(0, 3 * CHUNK - (asked.start or 0)), end=End.HANG)
    return Reply()


class Life:
    """One library through a sequence."""

    def __init__(self, library: Path, origin: Origin) -> None:
        self.library = library
        self.origin = origin
        self.model = Model()

    async def run(self, sequence: list[tuple[str, str]]) -> None:
        """All of it; a crash or a new start ends one engine and begins the next."""
        left = [*sequence, ("rest", "")]
        while left:
            with suppress(Crash):
                left = await self._one_engine(left)
                continue
            left = left[1 + next(at for at, step in enumerate(left) if step[0] == "crash") :]
        shutil.rmtree(self.library)

    async def _one_engine(self, left: list[tuple[str, str]]) -> list[tuple[str, str]]:
        with _may_crash() as crash:
            try:
                async with open_engine(self.library, config=CONFIG, seed=1) as engine:
                    self.model.restarted()
                    while left:
                        verb, name = left[0]
                        if verb == "crash":
                            crash()
                        left = left[1:]
                        if verb == "reopen":
                            break
                        with trio.fail_after(20):
                            await self._step(engine, verb, name)
            except BaseExceptionGroup as group:
                if group.subgroup(Crash) is None:
                    raise
                raise Crash from group
        return left

    async def _step(self, engine: Engine, verb: str, name: str) -> None:
        manager = manager_of(engine)
        if verb == "moment":
            await trio.sleep(0.02)
        elif verb == "rest":
            await self._check(engine)
        elif verb == "remove_all":
            await manager.remove_all()
            self.model.states.clear()
        elif verb in VERBS_FOR_ALL:
            await manager.for_all(VERBS_FOR_ALL[verb])
            self.model.said_to_all(VERBS_FOR_ALL[verb])
        else:
            before = set(self.model.states.get(name, ()))
            right = self.model.say(verb, name)
            answer = await self._say(engine, verb, name)
            assert answer in right, f"{verb} {name}: {answer}, it may be {before}"
            self.model.answered(verb, name, answer, before)

    async def _say(self, engine: Engine, verb: str, name: str) -> str:
        try:
            if verb == "add":
                await engine.offline(DownloadRequest(url=self.origin.url(name), id=name))
            else:
                await getattr(manager_of(engine), verb)(name)
        except UnknownEntry:
            return "unknown"
        except IllegalTransition:
            return "illegal"
        return "done"

    async def _check(self, engine: Engine) -> None:
        """Everything comes to rest, and is as the model says."""
        for name, states in self.model.states.items():
            while True:
                state = (await engine.get(name)).state
                assert state in states, f"{name} is {state}, it may be {states}"
                if state not in ON_ITS_WAY or KINDS[name] is None:
                    break
                await trio.sleep(0.005)
        found = {entry.id: entry.state for entry in await engine.list()}
        assert found.keys() == self.model.states.keys()
        names = files_under(self.library / "files") if (self.library / "files").exists() else set()
        for name in KINDS:
            unfinished = {one for one in names if one.startswith(f".oe-{entry_tag(name)}-")}
            there = found.get(name)
            if there in {None, State.CANCELLED, State.COMPLETED}:
                assert not unfinished, f"{name} is {there} and left {unfinished}"
            assert (name in names) == (there is State.COMPLETED), f"{name} is {there}: {names}"
            if there is State.COMPLETED:
                assert content(self.library / "files" / name) == PAYLOAD
        assert engine._services.store.tombstones.all() == []
        assert engine._services.store.indexes_sound()


@contextmanager
def _may_crash() -> Iterator[Any]:
    """Gives a function that ends all writing at once and raises Crash."""
    write = Environment.write
    dead: list[bool] = []

    def guarded(self: Environment, work: Any) -> Any:
        if dead:
            raise StoreUnusable("the process has ended")
        return write(self, work)

    def crash() -> None:
        dead.append(True)
        raise Crash

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Environment, "write", guarded)
        yield crash


async def _run_all(sequence: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with serve(PAYLOAD, script) as origin:
            await Life(Path(folder) / "library", origin).run(sequence)


# No shrinking: each try costs engines and waits, and the sequence that failed is told anyway.
COMMON: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "derandomize": True,
    "phases": (Phase.generate,),
}


@settings(max_examples=100, **COMMON)
@given(steps)
def test_random_lives(sequence: list[tuple[str, str]]) -> None:
    trio.run(_run_all, sequence)


@pytest.mark.long
@settings(max_examples=1000, **COMMON)
@given(steps)
def test_a_thousand_random_lives(sequence: list[tuple[str, str]]) -> None:
    trio.run(_run_all, sequence)
