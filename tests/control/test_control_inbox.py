"""The engine's side of the inbox: every command carried out once, in order, whatever ends in between."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import trio
import trio.testing

from engine.config import Config
from engine.control.inbox import Inbox, command_of
from engine.control.inbox_verbs import Carry, CarryAll
from engine.control.maintenance import MaintenanceReport
from engine.control.verify import Health, Validation
from engine.errors import (
    EngineClosed,
    EngineError,
    IllegalTransition,
    InvalidRequest,
    NoSpace,
    StoreUnusable,
    UnknownEntry,
)
from engine.files.filesystem import FileSystem
from engine.model.commands import Command, CommandResult, Outcome, Verb
from engine.model.records import DownloadRequest
from engine.model.states import Event, Reason
from engine.store import inbox as rows
from engine.store.bell import BELL_NAME, ring
from engine.store.state_store import StateStore
from engine.transfer.services import Services
from tests.store.helpers import entry, open_store, run_child

FOR_ALL_AT_ONCE = (Verb.PAUSE, Verb.RESUME, Verb.CANCEL, Verb.RETRY)


@dataclass
class Desk:
    """An inbox on a store, with verbs that only write down what they were asked."""

    root: str
    store: StateStore
    done: list[tuple[str, str]] = field(default_factory=list)
    wall: float = 1000.0
    uptime: float = 50.0
    fail: list[Exception] = field(default_factory=list)
    config: Config = field(default_factory=Config)
    boot_id: str = "boot"
    files: FileSystem = field(default_factory=FileSystem)

    def now(self) -> float:
        return self.wall

    async def write(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        await trio.lowlevel.checkpoint()
        if self.fail and call == self.store.inbox.finish:
            raise self.fail.pop()
        return call(*args, **kwargs)

    async def work(self, call: Callable[..., Any], *args: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return call(*args)

    def carry(self, verb: Verb) -> Carry:
        async def carried(command: Command, entry_id: str) -> None:
            await trio.lowlevel.checkpoint()
            self.done.append((verb.value, entry_id))

        return carried

    def carry_all(self, carry: Carry) -> CarryAll:
        async def carried(command: Command, newest: int) -> tuple[int, list[EngineError]]:
            errors: list[EngineError] = []
            those = [one for one in self.store.list() if one.sequence <= newest]
            for one in those:
                try:
                    await carry(command, one.id)
                except EngineError as error:
                    errors.append(error)
            if closed := [error for error in errors if isinstance(error, EngineClosed)]:
                raise closed[0]
            return len(those) - len(errors), errors

        return carried

    def inbox(self, **verbs: Callable[[Command, str], Awaitable[object]]) -> Inbox:
        table = {verb: verbs.get(verb.value, self.carry(verb)) for verb in Verb}
        for_all = {verb: self.carry_all(table[verb]) for verb in FOR_ALL_AT_ONCE}
        return Inbox(cast(Services, self), self.root, table, for_all, lambda: self.uptime)

    def leave(self, *commands: Command) -> list[Command]:
        return self.store._environment.write(lambda txn: rows.append(txn, commands, 10_000))

    def result(self, command: Command) -> CommandResult | None:
        return self.store._environment.read(lambda txn: rows.result_of(txn, command.number))

    def results(self, *commands: Command) -> list[CommandResult]:
        found = [self.result(command) for command in commands]
        assert all(found), found
        return [one for one in found if one is not None]


@pytest.fixture
def desk(tmp_path: Path) -> Any:
    root = str(tmp_path / "library")
    store = open_store(root)
    for name in ("a", "b", "c"):
        store.add(entry(name))
    yield Desk(root, store)
    store.close()


def command(verb: Verb, entry_id: str = "a", **fields: Any) -> Command:
    return Command(verb=verb, token=secrets.token_hex(4), id=entry_id, **fields)


@asynccontextmanager
async def running(inbox: Inbox) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inbox.run)
        yield
        nursery.cancel_scope.cancel()


async def catch_up(inbox: Inbox) -> None:
    """Have done what waits."""
    async with trio.open_nursery() as nursery:
        await nursery.start(inbox.run)
        nursery.cancel_scope.cancel()


async def until(true: Callable[[], object], seconds: float = 5.0) -> float:
    """Wait until it is so; how long that took."""
    began = trio.current_time()
    with trio.fail_after(seconds):
        while not true():  # noqa: ASYNC110  # what another thread or process changes tells nobody
            await trio.sleep(0.005)
    return trio.current_time() - began


async def test_what_was_left_while_no_engine_ran_is_done_in_order(desk: Desk) -> None:
    left = desk.leave(*(command(verb) for verb in (Verb.PAUSE, Verb.RESUME, Verb.PAUSE, Verb.CANCEL)))
    await catch_up(desk.inbox())
    assert [verb for verb, _ in desk.done] == ["pause", "resume", "pause", "cancel"]
    assert [result.outcome for result in desk.results(*left)] == [Outcome.DONE] * 4
    assert desk.results(left[0])[0].state == "pending"
    assert desk.store.inbox.waiting(0, 10) == []


async def test_another_process_is_heard_at_once(desk: Desk) -> None:
    config = Config(inbox_look_interval_s=60.0)
    desk.config = config
    async with running(desk.inbox()):
        await until(lambda: Path(desk.root, BELL_NAME).exists())
        code = (
            "from engine.store.guest import open_guest\nfrom engine.store.bell import ring\n"
            "from engine.model.commands import Command, Verb\n"
            "with open_guest(root, FileSystem()) as guest:\n"
            "    guest.append([Command(verb=Verb.PAUSE, token='t', id='a')], 10)\n"
            "assert ring(root, FileSystem())\n"
        )
        await trio.to_thread.run_sync(run_child, code, desk.root)
        await until(lambda: desk.done == [("pause", "a")])
    assert not Path(desk.root, BELL_NAME).exists()


async def test_without_a_bell_it_is_done_within_a_second(desk: Desk) -> None:
    async with running(desk.inbox()):
        await until(lambda: Path(desk.root, BELL_NAME).exists())
        Path(desk.root, BELL_NAME).unlink()  # somebody cleans up
        [left] = desk.leave(command(Verb.PAUSE))
        assert not ring(desk.root, FileSystem())
        assert await until(lambda: desk.result(left)) < 1.5


async def test_a_folder_that_takes_no_socket_hinders_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("engine.control.inbox.Bell", refuse)
    async with running(desk.inbox()):
        [left] = desk.leave(command(Verb.PAUSE))
        await until(lambda: desk.result(left))


async def test_commands_of_one_entry_wait_for_each_other_and_others_do_not(desk: Desk) -> None:
    gate = trio.Event()
    order: list[str] = []

    async def slow(command: Command, entry_id: str) -> None:
        if entry_id == "a":
            await gate.wait()
        order.append(f"pause {entry_id}")

    async def resume(command: Command, entry_id: str) -> None:
        order.append(f"resume {entry_id}")

    async with running(desk.inbox(pause=slow, resume=resume)):
        desk.leave(command(Verb.PAUSE), command(Verb.RESUME), command(Verb.PAUSE, "b"), command(Verb.RESUME, "b"))
        await until(lambda: len(order) == 2)
        assert order == ["pause b", "resume b"]
        gate.set()
        await until(lambda: len(order) == 4)
    assert order[2:] == ["pause a", "resume a"]


async def test_a_command_for_all_keeps_its_place(desk: Desk) -> None:
    desk.leave(command(Verb.PAUSE, "b"), command(Verb.CANCEL, "", every=True), command(Verb.RETRY, "c"))
    await catch_up(desk.inbox())
    assert desk.done[0] == ("pause", "b")
    assert sorted(desk.done[1:4]) == [("cancel", "a"), ("cancel", "b"), ("cancel", "c")]
    assert desk.done[4:] == [("retry", "c")]


async def test_a_command_for_all_leaves_out_what_does_not_allow_it(desk: Desk) -> None:
    async def pause(command: Command, entry_id: str) -> None:
        if entry_id != "b":
            raise IllegalTransition("no") if entry_id == "a" else UnknownEntry("gone")

    async def cancel(command: Command, entry_id: str) -> None:
        if entry_id == "b":
            raise NoSpace("full")

    left = desk.leave(command(Verb.PAUSE, "", every=True), command(Verb.CANCEL, "", every=True))
    await catch_up(desk.inbox(pause=pause, cancel=cancel))
    paused, cancelled = desk.results(*left)
    assert (paused.outcome, paused.count, paused.error) == (Outcome.DONE, 1, None)
    assert (cancelled.outcome, cancelled.count) == (Outcome.REFUSED, 2)
    assert cancelled.error is not None
    assert cancelled.error.code == NoSpace.code


async def test_refusals_are_told_and_bugs_end_only_their_command(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    async def pause(command: Command, entry_id: str) -> None:
        raise UnknownEntry("there is no entry x")

    async def cancel(command: Command, entry_id: str) -> None:
        raise ZeroDivisionError("oops")

    left = desk.leave(
        command(Verb.PAUSE, "x"),
        command(Verb.CANCEL),
        command(Verb.PAUSE, ""),
        command(Verb("transmogrify")),
        command(Verb.PAUSE, form=99),
        command(Verb.RESUME),
    )
    await catch_up(desk.inbox(pause=pause, cancel=cancel))
    results = desk.results(*left)
    assert [result.outcome.value for result in results] == [
        *("refused", "refused", "refused", "unsupported", "unsupported", "done"),
    ]
    assert [result.error.code for result in results[:3] if result.error] == [
        *("unknown_entry", "internal", "invalid_request"),
    ]
    assert "ZeroDivisionError" in caplog.text


async def test_what_the_closing_engine_did_not_do_waits_for_the_next(desk: Desk) -> None:
    async def closed(command: Command, entry_id: str) -> None:
        raise EngineClosed("the engine is closed")

    left = desk.leave(command(Verb.PAUSE), command(Verb.PAUSE, "", every=True))
    await catch_up(desk.inbox(pause=closed))
    assert desk.result(left[0]) is None
    await catch_up(desk.inbox())
    assert [result.outcome for result in desk.results(*left)] == [Outcome.DONE] * 2
    assert desk.done[0] == ("pause", "a")
    assert sorted(desk.done[1:]) == [("pause", "a"), ("pause", "b"), ("pause", "c")]


@pytest.mark.parametrize("error", [NoSpace("full"), StoreUnusable("read-only")])
async def test_a_result_that_cannot_be_written_is_written_later_and_nothing_is_done_twice(
    desk: Desk, error: Exception
) -> None:
    async def pause(command: Command, entry_id: str) -> None:
        desk.done.append(("pause", entry_id))
        desk.store.transition(entry_id, Event.PAUSE, epoch=1, now=5.0, reason=Reason.USER)

    desk.fail.append(error)
    async with running(desk.inbox(pause=pause)):
        [left] = desk.leave(command(Verb.PAUSE))
        await until(lambda: desk.result(left))
    assert desk.done == [("pause", "a")]
    assert desk.results(left)[0].outcome is Outcome.DONE


@pytest.mark.parametrize("jump", [-1e9, 1e9])
async def test_a_clock_that_jumps_loses_no_command_and_no_result(desk: Desk, jump: float) -> None:
    first, second = desk.leave(command(Verb.PAUSE, created_at=1000.0), command(Verb.PAUSE, "b", created_at=9e9))
    desk.wall += jump
    await catch_up(desk.inbox())
    [third] = desk.leave(command(Verb.PAUSE, "c"))
    desk.wall -= jump
    desk.uptime += 10.0
    await catch_up(desk.inbox())
    assert [result.outcome for result in desk.results(first, second, third)] == [Outcome.DONE] * 3


async def test_old_results_are_dropped(desk: Desk) -> None:
    left = desk.leave(command(Verb.PAUSE))
    await catch_up(desk.inbox())
    desk.uptime += 3601.0
    [later] = desk.leave(command(Verb.RESUME))
    await catch_up(desk.inbox())
    assert desk.result(left[0]) is None
    assert desk.result(later) is not None


async def test_many_commands_are_a_bounded_number_at_once(desk: Desk) -> None:
    at_once = most = 0

    async def pause(command: Command, entry_id: str) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await trio.lowlevel.checkpoint()
        at_once -= 1

    left = desk.leave(*(command(Verb.PAUSE, f"e{number}") for number in range(500)))
    await catch_up(desk.inbox(pause=pause))
    assert most == desk.config.inbox_at_once
    assert len(desk.results(*left)) == 500


@pytest.mark.parametrize("field_name", ["Authorization", "COOKIE", "X-Mine"])
def test_credentials_never_come_into_the_inbox(field_name: str) -> None:
    fields = ((field_name, "s3cret"),)
    secret: dict[str, Any] = {"secret_headers": fields} if field_name == "X-Mine" else {"headers": fields}
    with pytest.raises(InvalidRequest, match=f"{field_name}: secrets cannot be handed") as raised:
        command_of(DownloadRequest(url="http://h/x", **secret), "x", token="t", now=1.0)
    assert "s3cret" not in str(raised.value)


async def test_a_clean_up_keeps_nobody_waiting_and_tells_what_it_found(desk: Desk) -> None:
    done = trio.Event()
    report = MaintenanceReport(
        dry_run=True, findings=(), files_removed=0, entries_removed=0, bytes_reclaimed=7, seconds=0.5
    )

    async def gc(command: Command, entry_id: str) -> MaintenanceReport:
        assert (command.dry_run, entry_id) == (True, "")
        await done.wait()
        return report

    cleaning, every = desk.leave(command(Verb.GC, "", dry_run=True), command(Verb.PAUSE, "", every=True))
    async with running(desk.inbox(gc=gc)):
        await until(lambda: desk.result(every))
        assert desk.result(cleaning) is None
        done.set()
        await until(lambda: desk.result(cleaning))
    [result] = desk.results(cleaning)
    assert (result.outcome, result.state) == (Outcome.DONE, "")
    assert msgspec.json.decode(result.report, type=MaintenanceReport) == report


async def test_what_was_found_of_a_file_is_told(desk: Desk) -> None:
    found = Validation(id="a", health=Health.CORRUPT, bad_ranges=((0, 5),))

    async def verify(command: Command, entry_id: str) -> Validation:
        if entry_id == "b":
            raise UnknownEntry("gone")
        return found

    left = desk.leave(command(Verb.VERIFY, "a"), command(Verb.VERIFY, "b"), command(Verb.PAUSE, "a"))
    await catch_up(desk.inbox(verify=verify))
    results = desk.results(*left)
    assert msgspec.json.decode(results[0].report, type=Validation) == found
    assert [(one.outcome, one.report) for one in results[1:]] == [(Outcome.REFUSED, b""), (Outcome.DONE, b"")]
