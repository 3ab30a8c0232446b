"""The inbox: many processes leave commands, one engine takes each exactly once; whatever becomes of anybody."""

from __future__ import annotations

import secrets
import signal
import socket
import time
from pathlib import Path
from typing import Any

import lmdb
import pytest

from engine.config import MIB, Config
from engine.errors import BadRecord, StoreBusy, StoreUnusable
from engine.files.filesystem import FileSystem
from engine.model.commands import Command, CommandResult, Mark, Outcome, Verb
from engine.model.states import Event, Reason, State
from engine.store import inbox
from engine.store.bell import BELL_NAME, Bell, ring
from engine.store.codec import Table
from engine.store.environment import Environment
from engine.store.guest import open_guest
from engine.store.state_store import StateStore
from tests.store.helpers import child, dump, entry, open_store, read_line, run_child, spoil

MOST = 1000
KEPT_S = 3600.0


def command(entry_id: str = "a", verb: Verb = Verb.PAUSE, **fields: Any) -> Command:
    return Command(verb=verb, token=secrets.token_hex(4), id=entry_id, **fields)


def result(number: int, **fields: Any) -> CommandResult:
    return CommandResult(number=number, outcome=Outcome.DONE, **{"token": "t", "boot_id": "boot", **fields})


def leave(root: str, *commands: Command) -> list[Command]:
    with open_guest(root, FileSystem()) as guest:
        return guest.append(commands, MOST)


LEAVE = """
import sys
from engine.store.guest import open_guest
from engine.model.commands import Command, Verb
with open_guest(root, FileSystem()) as guest:
    for number in range({count}):
        guest.append([Command(verb=Verb.PAUSE, token="{name}", id=f"{name}{{number}}")], 100000)
"""


def test_commands_are_numbered_in_the_order_of_asking_and_never_twice(root: str, store: StateStore) -> None:
    store.close()
    first = leave(root, command("a"), command("b"))
    store = open_store(root)
    assert [row.number for row in store.inbox.waiting(0, 10)] == [command.number for command in first] == [1, 2]
    for one in first:
        store.inbox.finish(result(one.number), KEPT_S)
    store.close()
    [later] = leave(root, command("c"))
    assert later.number == 3


def test_another_process_writes_while_the_engine_does(root: str, store: StateStore) -> None:
    """Each transaction of both stays whole, and the map that one of them grew is adopted by the other."""
    run_count = 40
    children = [child(LEAVE.format(name=name, count=run_count), root) for name in ("x", "y")]
    added = 0
    while any(process.poll() is None for process in children):
        store.add(entry(f"e{added}"))
        added += 1
    for process in children:
        _, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
    rows = store.inbox.waiting(0, 1000)
    assert [row.number for row in rows] == list(range(1, 2 * run_count + 1))
    mine = [row.command.id for row in rows if row.command is not None and row.command.token == "x"]
    assert mine == [f"x{number}" for number in range(run_count)]
    assert len(store.list(limit=added + 1)) == added


def test_a_guest_adopts_the_map_of_the_file_and_leaves_its_size(root: str) -> None:
    store = open_store(root, Config(map_bytes=4 * MIB))
    for number in range(3):
        store.add(entry(f"e{number}", title="x" * 15_000))
    run_child(LEAVE.format(name="x", count=2), root)
    assert store._environment.map_bytes == 4 * MIB
    assert [row.number for row in store.inbox.waiting(0, 10)] == [1, 2]
    store.close()


def test_a_map_that_the_other_process_grew_is_adopted(root: str) -> None:
    store = open_store(root, Config(map_bytes=1 * MIB))
    text = "x" * 16_000
    code = LEAVE.format(name="x", count=1) + (
        f"    for n in range(150): guest.append([Command(verb=Verb.PAUSE, token='{text}', id='big')], 100000)\n"
        "print('grown')\n"
    )
    assert run_child(code, root) == "grown"
    assert len(store.inbox.waiting(0, 1000)) == 151
    store.add(entry("after"))
    with_guest = child("from engine.store.guest import open_guest\n"
        "with open_guest(root, FileSystem()) as guest:\n"
        "    print('open', flush=True); sys.stdin.readline()\n"
        "    guest.append([], 100000); print('wrote', flush=True)\n", root)  # fmt: skip
    assert read_line(with_guest) == "open"
    for number in range(300):
        store.add(entry(f"f{number}", title=text))
    assert with_guest.stdin is not None
    with_guest.stdin.write("\n")
    with_guest.stdin.flush()
    assert read_line(with_guest) == "wrote"
    assert with_guest.wait(10) == 0
    with_guest.communicate()
    store.close()


def test_a_guest_writes_nothing_but_the_inbox(root: str) -> None:
    store = open_store(root)
    store.add(entry("a"))
    store.close()
    before = dump(root)
    [left] = leave(root, command())
    with open_guest(root, FileSystem()) as guest:
        guest.withdraw([left])
    changed = {place for place, value in dump(root).items() if before.get(place) != value} | (
        before.keys() - dump(root)
    )
    assert {table for table, _ in changed} == {Table.INBOX.name}
    with open_guest(root, FileSystem()) as guest, pytest.raises(AttributeError):
        guest.add(entry("b"))  # type: ignore[attr-defined]


def test_a_guest_is_not_stopped_while_it_keeps_others_from_writing(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    open_store(root).close()
    blocked: list[set[int]] = []

    def append(txn: Any, new: Any, most: int) -> list[Command]:
        blocked.append({int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())})
        return []

    monkeypatch.setattr(inbox, "append", append)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    leave(root, command())
    assert signal.SIGTSTP in blocked[0]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_in_the_process_of_the_engine_itself_it_is_refused(root: str, store: StateStore) -> None:
    with pytest.raises(StoreBusy), open_guest(root, FileSystem()):
        pytest.fail("two environments of one process")


def test_no_store_is_told_and_none_is_made(root: str) -> None:
    with pytest.raises(StoreUnusable, match="there is no store"), open_guest(root, FileSystem()):
        pytest.fail("opened")
    assert not Path(root).exists()


def test_a_full_inbox_refuses_and_changes_nothing(root: str, store: StateStore) -> None:
    store.close()
    with open_guest(root, FileSystem()) as guest:
        guest.append([command("a"), command("b")], 2)
        with pytest.raises(StoreUnusable, match="full: 2 commands wait"):
            guest.append([command("c")], 2)
    store = open_store(root)
    assert len(store.inbox.waiting(0, 10)) == 2
    store.close()


def test_what_was_begun_is_not_taken_back(root: str) -> None:
    store = open_store(root)
    store.add(entry("a"))
    store.close()
    one, two = leave(root, command("a"), command("a"))
    store = open_store(root)
    [begun] = store.inbox.begin([one.number])
    store.close()
    assert (begun.again, begun.entry and begun.entry.id) == (False, "a")
    assert begun.command.mark == Mark(sequence=1, epoch=1, state=State.PENDING, updated_at=0.0)
    with open_guest(root, FileSystem()) as guest:
        assert guest.withdraw([one, two]) == [two.number]
    store = open_store(root)
    [again] = store.inbox.begin([one.number, two.number])
    assert (again.again, again.command.mark) == (True, begun.command.mark)
    store.close()


def test_a_result_is_its_senders_alone_and_goes_after_its_time(root: str) -> None:
    store = open_store(root)
    store.close()
    first, second, third = leave(root, command("a"), command("b"), command("c"))
    store = open_store(root)
    store.inbox.finish(result(first.number, token=first.token, uptime_s=100.0), KEPT_S)
    store.inbox.finish(result(second.number, token="another's", uptime_s=200.0), KEPT_S)
    store.close()
    with open_guest(root, FileSystem()) as guest:
        assert list(guest.results([first, second, third])) == [first.number]
    store = open_store(root)
    store.inbox.finish(result(third.number, token=third.token, uptime_s=100.0 + KEPT_S + 1), KEPT_S)
    store.close()
    with open_guest(root, FileSystem()) as guest:
        assert list(guest.results([first, third])) == [third.number]


def test_results_from_before_a_reboot_go(root: str) -> None:
    store = open_store(root)
    store.inbox.finish(result(1, boot_id="old", uptime_s=1e9), KEPT_S)
    store.inbox.finish(result(2, boot_id="new", uptime_s=1.0), KEPT_S)
    store.close()
    with open_guest(root, FileSystem()) as guest:
        found = guest.results(
            [
                command(
                    number=1,
                ),
                command(number=2),
            ]
        )
    assert found == {}
    assert {key for table, key in dump(root) if table == "INBOX"} == {(1 << 63 | 2).to_bytes(8, "big")}


def test_a_damaged_command_is_found_and_does_not_hide_the_others(root: str) -> None:
    store = open_store(root)
    store.close()
    leave(root, command("a"), command("b"), command("c"))
    spoil(root, Table.INBOX, lambda key: key == (2).to_bytes(8, "big"))
    store = open_store(root)
    rows = store.inbox.waiting(0, 10)
    assert [(row.number, row.command is None) for row in rows] == [(1, False), (2, True), (3, False)]
    with pytest.raises(BadRecord):
        store.inbox.begin([2])
    store.inbox.finish(result(2), KEPT_S)
    assert [row.number for row in store.inbox.waiting(0, 10)] == [1, 3]
    store.close()


def test_a_damaged_counter_does_not_give_a_number_twice(root: str) -> None:
    store = open_store(root)
    store.inbox.finish(result(7), KEPT_S)
    store.close()
    leave(root, command("a"))
    spoil(root, Table.INBOX, lambda key: key == bytes(8))
    [placed] = leave(root, command("b"))
    assert placed.number == 8


def test_a_verb_of_a_newer_version_is_kept_and_not_understood(root: str) -> None:
    store = open_store(root)
    store.close()
    leave(root, command("a", Verb("transmogrify")), command("a", form=2))
    store = open_store(root)
    rows = store.inbox.waiting(0, 10)
    assert [row.command is not None and row.command.understood for row in rows] == [False, False]
    assert rows[0].command is not None
    assert rows[0].command.verb.value == "transmogrify"
    store.close()


def test_a_guests_transaction_is_not_taken_for_one_of_the_owners(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """L9: a commit that reported an error did not land, and the next that did, a guest's, has its number."""
    store = open_store(root)
    environment = store._environment
    fail = [True]
    reopen = Environment._reopen

    class Failing:
        def __init__(self, raw: Any) -> None:
            self._raw = raw

        def __getattr__(self, name: str) -> Any:
            return getattr(self._raw, name)

        def commit(self) -> None:
            if not fail:
                self._raw.commit()
                return
            fail.clear()
            self._raw.abort()
            raise lmdb.Error("made up")

    class Beginning:
        def __init__(self, raw: Any) -> None:
            self._raw = raw

        def __getattr__(self, name: str) -> Any:
            return getattr(self._raw, name)

        def begin(self, **options: Any) -> Any:
            begun = self._raw.begin(**options)
            return Failing(begun) if fail and options.get("write") else begun

    def reopened_behind_a_guest(self: Environment, seen: int) -> None:
        run_child(LEAVE.format(name="x", count=1), root)
        reopen(self, seen)

    monkeypatch.setattr(environment, "_raw", Beginning(environment._raw))
    monkeypatch.setattr(Environment, "_reopen", reopened_behind_a_guest)
    with pytest.raises(StoreUnusable, match="made up"):
        store.add(entry("lost"))
    assert store.get("lost") is None
    store.close()


def test_the_entries_of_a_command_for_all_are_those_that_were_there(root: str) -> None:
    store = open_store(root)
    for name in ("a", "b", "c"):
        store.add(entry(name, scope="x" if name == "b" else ""))
    store.transition("c", Event.PAUSE, epoch=1, now=1.0, reason=Reason.USER)
    store.close()
    every, scoped = leave(
        root, command("", Verb.REMOVE, every=True), command("", Verb.PRIORITISE, every=True, scope="x")
    )
    store = open_store(root)
    begun = [one.command for one in store.inbox.begin([every.number, scoped.number])]
    store.add(entry("later"))
    assert store.inbox.targets(begun[0]) == ["a", "b", "c"]
    assert store.inbox.targets(begun[1]) == ["b"]
    store.close()


def test_a_bell_is_private_and_heard_and_a_dead_ones_name_is_silent(tmp_path: Path) -> None:
    root = tmp_path / ("deep" * 40)  # longer than a socket's path may be
    root.mkdir()
    files = FileSystem()
    assert not ring(str(root), files)
    assert not ring(str(root / "gone"), files)
    bell = Bell(str(root), files)
    info = (root / BELL_NAME).stat()
    assert info.st_mode & 0o777 == 0o600
    for _ in range(5000):  # a full mailbox is no trouble
        assert ring(str(root), files)
    bell.clear()
    bell.clear()
    with pytest.raises(BlockingIOError):
        bell.socket.recv(1)
    bell.take_down()
    assert not (root / BELL_NAME).exists()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as left:
        left.bind(str(tmp_path / "left"))
    (tmp_path / "left").rename(root / BELL_NAME)
    assert not ring(str(root), files), "a name that nobody listens at"
    again = Bell(str(root), files)
    assert ring(str(root), files)
    again.take_down()


def test_a_killed_guest_holds_nobody_up(root: str) -> None:
    store = open_store(root)
    process = child(LEAVE.format(name="x", count=100_000) + "print('done')", root)
    deadline = time.monotonic() + 20
    while len(store.inbox.waiting(0, 50)) < 20:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
    process.kill()
    process.communicate()
    store.add(entry("after"))
    rows = store.inbox.waiting(0, 100_000)
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    store.close()
