"""``pause`` and the other verbs: through the engine of another process within a second, or done here when none runs."""

from __future__ import annotations

import errno
import gzip
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.config import DEFAULT_CONFIG
from engine.files.filesystem import FileSystem
from engine.model.groups import GroupRecord, MemberRecord
from engine.store import inbox as rows
from engine.store.bell import BELL_NAME
from engine.store.guest import open_guest
from engine.store.state_store import StateStore
from tests.cli.support import (
    LARGE,
    SMALL,
    TIMEOUT_S,
    Said,
    WatchedOrigin,
    downloading,
    ended,
    parts_in,
    started,
    state_of,
    until,
)

Cli = Callable[..., Said]
OLD_STORE = Path(__file__).parent.parent / "store" / "data" / "store_v1.mdb.gz"


def test_pause_and_resume_in_the_process_that_downloads(cli: Cli, root: Path, origin: WatchedOrigin) -> None:
    with downloading(root, origin, cli) as process:
        began = time.monotonic()
        paused = cli("pause", "mine")
        took_s = time.monotonic() - began
        state, reason = (cli("show", "--json", "mine").object[name] for name in ("state", "state_reason"))
        sent = origin.sent
        origin.bytes_per_s = None
        resumed = cli("resume", "--json", "mine")
        said = ended(process)

    assert paused == Said(0, "paused mine, now paused\n", "")
    assert took_s < 2.0
    assert (state, reason) == ("paused", "user")
    assert sent < len(LARGE)
    assert (resumed.code, resumed.object["outcome"]) == (0, "done")
    assert resumed.object["state"] in {"pending", "in_progress"}
    assert (said.code, said.object["state"]) == (0, "completed")
    assert (root / "files" / "large.bin").read_bytes() == LARGE


def test_cancel_in_the_process_that_downloads_leaves_no_bytes(cli: Cli, root: Path, origin: WatchedOrigin) -> None:
    with downloading(root, origin, cli) as process:
        assert parts_in(root)
        said = cli("cancel", "mine")
        got = ended(process)

    assert said == Said(0, "cancelled mine, now cancelled\n", "")
    assert (got.code, got.object["state"]) == (1, "cancelled")
    assert parts_in(root) == []


def test_remove_in_the_process_that_downloads(cli: Cli, root: Path, origin: WatchedOrigin) -> None:
    with downloading(root, origin, cli) as process:
        said = cli("remove", "mine")
        got = ended(process)

    assert said == Said(0, "removed mine\n", "")
    assert (got.code, got.object["error"]["code"]) == (1, "unknown_entry")
    assert cli("list").out == ""
    assert parts_in(root) == []


def test_all_verbs_without_an_engine(cli: Cli, root: Path, origin: WatchedOrigin) -> None:
    cli("get", "--id", "bad", origin.url("/gone"))
    cli("get", "--id", "good", origin.url("/small.bin"))
    asked = origin.heads.copy()

    retried = cli("retry", "bad")
    paused = cli("pause", "bad")
    raised = cli("prioritise", "bad", "--priority", "7")
    shown = cli("show", "--json", "bad").object
    resumed = cli("resume", "bad")
    cancelled = cli("cancel", "bad")
    refused = cli("pause", "good", "bad")
    removed = cli("remove", "--all", "--keep-file")

    assert retried == Said(0, "retried bad, now pending\n", "")
    assert paused == Said(0, "paused bad, now paused\n", "")
    assert raised.code == 0
    assert (shown["priority"], shown["state"]) == (7, "paused")
    assert resumed == Said(0, "resumed bad, now pending\n", "")
    assert cancelled == Said(0, "cancelled bad, now cancelled\n", "")
    assert (refused.code, refused.out) == (1, "")
    assert "pause good refused: an entry that is completed cannot pause (illegal_transition" in refused.err
    assert "pause bad refused" in refused.err
    assert removed == Said(0, "removed 2 entries\n", "")
    assert cli("list").out == ""
    assert (root / "files" / "small.bin").read_bytes() == SMALL
    assert origin.heads == asked, "a command downloads nothing"
    assert not (root / BELL_NAME).exists()


def test_remove_takes_the_file_too(cli: Cli, root: Path, origin: WatchedOrigin) -> None:
    cli("get", "--id", "good", origin.url("/small.bin"))

    said = cli("remove", "--json", "good", "good")

    assert (said.code, said.object["outcome"], said.object["state"]) == (0, "done", None)
    assert parts_in(root) == []


BAD_COMMANDS = {
    "nothing": (("pause",), "needs ids, or --all"),
    "both": (("pause", "a", "--all"), "needs ids, or --all"),
    "scope of an id": (("pause", "a", "--scope", "x"), "--scope is for --all"),
    "no priority": (("prioritise", "a"), "--priority"),
    "huge priority": (("prioritise", "a", "--priority", "99999999999"), "32 bits"),
    "no time": (("pause", "a", "--timeout", "0"), "--timeout must be"),
    "no end": (("pause", "a", "--timeout", "inf"), "--timeout must be"),
    "no number": (("pause", "a", "--timeout", "nan"), "--timeout must be"),
}


@pytest.mark.parametrize("case", BAD_COMMANDS)
def test_a_command_that_means_nothing_is_a_usage_error(cli: Cli, root: Path, case: str) -> None:
    arguments, expected = BAD_COMMANDS[case]

    said = cli(*arguments)

    assert (said.code, said.out) == (2, "")
    assert expected in said.err
    assert "Traceback" not in said.err
    assert not root.exists()


@pytest.mark.parametrize("verb", ["pause", "resume", "cancel", "retry", "remove", "health"])
def test_without_a_store_it_is_said_and_none_is_made(cli: Cli, root: Path, verb: str) -> None:
    said = cli(verb, *(["a"] if verb != "health" else []))

    assert (said.code, said.out, len(said.err.splitlines())) == (3, "", 1)
    assert f"there is no store in {root}" in said.err
    assert not root.exists()


def test_an_unknown_id_is_refused(cli: Cli, origin: WatchedOrigin) -> None:
    cli("get", "--id", "good", origin.url("/small.bin"))

    said, as_json = cli("remove", "none\x1b[31m"), cli("pause", "--json", "none")

    assert (said.code, said.out) == (1, "")
    assert "unknown_entry" in said.err
    assert "\x1b" not in said.err
    assert (as_json.code, as_json.object["outcome"], as_json.object["error"]["code"]) == (1, "refused", "unknown_entry")


def test_an_engine_that_hangs_is_told_and_the_command_is_taken_back(
    cli: Cli, root: Path, origin: WatchedOrigin
) -> None:
    with downloading(root, origin, cli) as process:
        process.send_signal(signal.SIGSTOP)
        said = cli("pause", "--json", "--timeout", "0.5", "mine")
        origin.bytes_per_s = None
        process.send_signal(signal.SIGCONT)
        got = ended(process)

    assert (said.code, said.object["outcome"]) == (3, "withdrawn")
    assert "did not answer within 0.5 s: 1 taken back, nothing was changed" in said.err
    assert (got.code, got.object["state"]) == (0, "completed")


def test_an_interrupted_command_is_taken_back(cli: Cli, root: Path, origin: WatchedOrigin) -> None:
    with downloading(root, origin, cli) as process:
        process.send_signal(signal.SIGSTOP)
        with started("--root", root, "pause", "mine") as pausing:
            with open_guest(str(root), FileSystem()) as guest:
                until(lambda: guest._environment.read(lambda txn: rows.waiting(txn, 0, 1)))
            pausing.send_signal(signal.SIGINT)
            interrupted = ended(pausing)
        origin.bytes_per_s = None
        process.send_signal(signal.SIGCONT)
        got = ended(process)

    assert interrupted == Said(130, "", "offline-engine: interrupted\n")
    assert (got.code, got.object["state"]) == (0, "completed")


def test_a_killed_engine_does_not_keep_the_command(cli: Cli, root: Path, origin: WatchedOrigin) -> None:
    """Its bell hangs there still, and its session was never closed: the command is done here."""
    with downloading(root, origin, cli) as process:
        process.kill()
        process.wait(TIMEOUT_S)
        assert (root / BELL_NAME).exists()
        said = cli("pause", "mine")
    origin.hang_up()

    assert said == Said(0, "paused mine, now paused\n", "")
    assert state_of(cli, "mine") == "paused"


def test_many_ids_at_once(cli: Cli, root: Path, origin: WatchedOrigin) -> None:
    urls = [origin.url(f"/small.bin?{number}") for number in range(40)]
    cli("get", "--durability", "relaxed", *urls)
    ids = [told["id"] for told in cli("list", "--json").objects]

    said = cli("remove", "--json", *ids)

    assert (said.code, [told["id"] for told in said.objects]) == (0, ids)
    assert {told["outcome"] for told in said.objects} == {"done"}
    assert parts_in(root) == []


def test_list_of_a_scope_and_health(cli: Cli, origin: WatchedOrigin) -> None:
    cli("get", "--id", "good", origin.url("/small.bin"))
    cli("get", "--id", "bad", origin.url("/gone"))

    health = cli("health", "--json").object

    assert cli("list", "--scope", "other").out == ""
    assert len(cli("list", "--scope", "").lines) == 2
    assert len(cli("list", "--scope", "", "--state", "failed").lines) == 1
    assert (health["entries"], health["success_rate"]) == (2, 0.5)
    assert "entries         2: 1 completed, 1 failed\n" in cli("health").out
    assert cli("groups").out == ""
    assert (cli("groups", "none").code, cli("list", "--group", "none").code) == (1, 1)


def test_a_store_of_an_older_version_is_brought_up_to_date_first(cli: Cli, root: Path) -> None:
    (root / "store").mkdir(parents=True)
    (root / "store" / "data.mdb").write_bytes(gzip.decompress(OLD_STORE.read_bytes()))

    listed = cli("list")
    removed = cli("remove", "--all", "--keep-file", "--json")

    assert (listed.code, "older version" in listed.err) == (3, True)
    # What it holds is made up, on a disk that this machine does not have: all is removed, and the rest waits for it.
    assert (removed.code, removed.object["error"]["code"]) == (1, "not_mounted")
    assert removed.object["count"] > 0
    assert cli("list") == Said(0, "", "")


def test_groups_and_their_members(cli: Cli, root: Path, origin: WatchedOrigin) -> None:
    for name in ("one", "two"):
        cli("get", "--id", name, origin.url("/small.bin?" + name))
    store = StateStore.open(str(root), DEFAULT_CONFIG, FileSystem(), now=1.0)
    members = [MemberRecord(entry_id=name, position=at) for at, name in enumerate(("two", "one", "gone"))]
    store.groups.put(GroupRecord(id="album", kind="album", title="First\x1b"), members, replace=True)
    store.close()

    said = cli("groups")

    assert (said.code, said.err) == (0, "")
    assert said.out.startswith(f"{'album':<32}  partial       2 of 3 ")
    assert said.out.endswith("  album First\\x1b\n")
    assert cli("groups", "album", "--json").object["counts"] == {"completed": 2}
    assert [told["id"] for told in cli("list", "--group", "album", "--json").objects] == ["two", "one"]
    assert "gone is a member, and there is no such entry" in cli("list", "--group", "album").err
    assert cli("list", "--group", "album", "--scope", "x").code == 1


def test_what_a_group_holds_stays_unless_all_is_removed(cli: Cli, root: Path, origin: WatchedOrigin) -> None:
    cli("get", "--id", "one", origin.url("/small.bin"))
    store = StateStore.open(str(root), DEFAULT_CONFIG, FileSystem(), now=1.0)
    store.groups.put(GroupRecord(id="album"), [MemberRecord(entry_id="one")], replace=True)
    store.groups.own(["one"])
    store.close()

    one, all_of_it = cli("remove", "one"), cli("remove", "--all")

    assert one == Said(0, "removed one, which stays completed for the groups that hold it\n", "")
    assert all_of_it == Said(0, "removed 1 entry\n", "")
    assert parts_in(root) == []


@pytest.mark.parametrize("which", ["mine", "--all"])
def test_a_removal_whose_file_cannot_be_deleted_yet_says_so(
    cli: Cli, root: Path, origin: WatchedOrigin, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    def refuse(*_: object) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    cli("get", "--id", "mine", origin.url("/small.bin"))
    with monkeypatch.context() as patched:
        patched.setattr(FileSystem, "unlink", refuse)
        said = cli("remove", which)
    left, listed = (root / "files" / "small.bin").exists(), cli("list").out
    cli("gc")

    assert (said.code, said.out, left, listed) == (1, "", True, "")
    assert "not finished: what mine left in" in said.err
    assert not (root / "files" / "small.bin").exists()
