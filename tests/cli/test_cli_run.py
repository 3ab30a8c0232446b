"""``run``, and ``get`` beside an engine of another process."""

from __future__ import annotations

import fcntl
import json
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from engine import Engine, StoreBusy, open_engine
from engine.cli import run as run_verb
from engine.cli.interrupt import until_interrupted
from engine.store.bell import BELL_NAME
from engine.store.lease import LOCK_NAME
from tests.cli.support import (
    LARGE,
    SLOW,
    TIMEOUT_S,
    Said,
    WatchedOrigin,
    downloading,
    ended,
    run,
    started,
    state_of,
    until,
)

Cli = Callable[..., Said]


def test_run_does_not_touch_what_a_user_paused(cli: Cli, root: Path, origin: WatchedOrigin) -> None:
    with downloading(root, origin, cli) as process:
        process.kill()
    origin.hang_up()
    origin.bytes_per_s = None
    cli("pause", "mine")

    said, state = cli("run"), state_of(cli, "mine")
    cli("resume", "mine")
    again = cli("run", "--json")

    assert (said, state) == (Said(0, "", ""), "paused")
    assert (again.code, again.object["state"], again.object["id"]) == (0, "completed", "mine")
    assert (root / "files" / "large.bin").read_bytes() == LARGE


def test_run_tells_what_failed_and_what_it_left(cli: Cli, origin: WatchedOrigin) -> None:
    cli("get", "--id", "bad", origin.url("/gone"))
    cli("get", "--id", "secret", "--secret-header", "X-Key: k", origin.url("/gone2"))
    cli("retry", "--all")

    said = cli("run")

    assert (said.code, said.out) == (1, "")
    assert "failed http://127.0.0.1" in said.err
    assert "left as it is: secret pending (needs_credentials)" in said.err


def test_run_tells_what_was_cancelled_as_such(cli: Cli, root: Path, origin: WatchedOrigin) -> None:
    with downloading(root, origin, cli) as process:
        process.kill()
    origin.hang_up()
    before = len(origin.heads)
    with started("--root", root, "run", "--no-progress") as process:
        until(lambda: len(origin.heads) > before or process.poll() is not None)
        assert cli("cancel", "mine").code == 0
        said = ended(process)

    assert said == Said(0, "", f"cancelled {origin.url('/large.bin')}\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_is_ended_resumable(cli: Cli, root: Path, origin: WatchedOrigin, number: signal.Signals) -> None:
    with downloading(root, origin, cli) as process:
        process.kill()
    origin.hang_up()
    with started("--root", root, "run") as process:
        assert origin.wait_sent(origin.sent + 500_000, TIMEOUT_S)
        process.send_signal(number)
        said = ended(process)
    origin.hang_up()
    origin.bytes_per_s = None

    assert said.code == 130
    assert "interrupted: 1 resumable; run the same command again" in said.err
    assert cli("run").code == 0


def test_run_for_ever_takes_what_others_ask_for(cli: Cli, root: Path, origin: WatchedOrigin) -> None:
    with started("--root", root, "run", "--forever", "--json") as process:
        until((root / BELL_NAME).exists)
        got = cli("get", "--json", "--id", "mine", origin.url("/large.bin"))
        again = cli("get", "--json", "--id", "mine", origin.url("/large.bin"))
        failed = cli("get", "--json", "--id", "bad", origin.url("/gone"))
        process.send_signal(signal.SIGTERM)
        said = ended(process)

    assert (got.code, got.object["state"], got.object["bytes_fetched"]) == (0, "completed", len(LARGE))
    assert got.object["path"] == str(root / "files" / "large.bin")
    assert f"in use by process {process.pid}; that one fetches" in got.err
    assert (again.code, again.object["attempts"], again.object["bytes_resumed"]) == (0, 0, len(LARGE))
    assert (failed.code, failed.object["error"]["code"]) == (1, "not_found")
    assert [told["id"] for told in said.objects] == ["mine", "bad"]
    assert said.code == 1  # one failed; nothing was left to do


def test_what_was_paused_and_completed_later_does_not_count_as_left(
    cli: Cli, root: Path, origin: WatchedOrigin
) -> None:
    with downloading(root, origin, cli) as process:
        process.kill()
    origin.hang_up()
    with started("--root", root, "run", "--forever", "--json") as process:
        assert origin.wait_sent(origin.sent + 500_000, TIMEOUT_S)
        assert cli("pause", "mine").code == 0
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["state"] == "paused"
        origin.bytes_per_s = None
        assert cli("resume", "mine").code == 0
        until(lambda: state_of(cli, "mine") == "completed")
        process.send_signal(signal.SIGTERM)
        said = ended(process)

    assert [told["state"] for told in said.objects] == ["completed"]
    assert said.code == 0


def test_a_get_goes_on_when_the_process_that_fetched_for_it_ends(cli: Cli, root: Path, origin: WatchedOrigin) -> None:
    with started("--root", root, "run", "--forever") as process:
        until((root / BELL_NAME).exists)
        origin.bytes_per_s = SLOW
        with started("--root", root, "get", "--json", "--id", "mine", origin.url("/large.bin")) as getting:
            until(lambda: getting.poll() is not None or state_of(cli, "mine") == "in_progress")
            assert origin.wait_sent(1_500_000, TIMEOUT_S)
            process.kill()
            process.wait(TIMEOUT_S)
            origin.hang_up()
            origin.bytes_per_s = None
            said = ended(getting)

    assert (said.code, said.object["state"]) == (0, "completed")
    assert (root / "files" / "large.bin").read_bytes() == LARGE


SECRETS = {
    "secret header": ("--secret-header", "X-Key: s3cret"),
    "credentials": ("--header", "Authorization: s3cret"),
    "authorities": ("--cacert", "{ca}"),
}


@pytest.mark.parametrize("case", SECRETS)
def test_secrets_are_not_handed_over(cli: Cli, root: Path, origin: WatchedOrigin, tmp_path: Path, case: str) -> None:
    authority = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(authority))
    option, value = SECRETS[case]
    with started("--root", root, "run", "--forever") as process:
        until((root / BELL_NAME).exists)
        said = cli("get", option, value.format(ca=authority), origin.url("/small.bin"))
        process.send_signal(signal.SIGTERM)
        ended(process)

    assert (said.code, said.out) == (2, "")
    assert "cannot be" in said.err
    assert "s3cret" not in said.err
    assert cli("list").out == ""
    assert b"s3cret" not in (root / "store" / "data.mdb").read_bytes()


def test_two_runs_are_one_too_many(root: Path, cli: Cli) -> None:
    with started("--root", root, "run", "--forever") as process:
        until((root / BELL_NAME).exists)
        said = run("--root", root, "run")
        process.send_signal(signal.SIGINT)
        first = ended(process)

    assert (said.code, said.out) == (3, "")
    assert f"process {process.pid}" in said.err
    assert (first.code, first.out, first.err) == (0, "", "")


def test_a_copied_root_is_refused_until_it_is_adopted(cli: Cli, root: Path, origin: WatchedOrigin) -> None:
    cli("get", "--id", "inside", origin.url("/small.bin"))
    cli("get", "--id", "outside", "--output", str(root.parent / "own.bin"), origin.url("/small.bin"))
    copy = root.parent / "copy"
    shutil.copytree(root, copy)

    refused = cli("--root", str(copy), "run")
    adopted = cli("--root", str(copy), "run", "--adopt")
    listed = cli("--root", str(copy), "list", "--json")
    again = cli("--root", str(copy), "run")

    assert (refused.code, refused.out) == (3, "")
    assert "is a copy of" in refused.err
    assert "--adopt" in refused.err
    assert (adopted.code, again.code) == (0, 0)
    assert [each["id"] for each in listed.objects] == ["inside"]
    assert listed.objects[0]["path"] == str(copy / "files" / "small.bin")
    assert len(cli("list", "--json").objects) == 2


def test_asked_for_again_by_a_url_with_a_fragment(cli: Cli, origin: WatchedOrigin) -> None:
    first = cli("get", "--json", origin.url("/small.bin"))
    again = cli("get", "--json", origin.url("/small.bin") + "#part")

    assert first.object["id"] == again.object["id"]
    assert again.object["bytes_fetched"] == 0


def test_a_verb_that_has_the_store_for_a_moment_is_waited_for(
    cli: Cli, root: Path, origin: WatchedOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("get", "--id", "mine", origin.url("/small.bin")).code == 0
    with (root / LOCK_NAME).open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        @asynccontextmanager
        async def opened(path: str, **named: Any) -> AsyncIterator[Engine]:
            try:
                async with open_engine(path, **named) as engine:
                    yield engine
            except StoreBusy:
                fcntl.flock(lock, fcntl.LOCK_UN)
                raise

        monkeypatch.setattr(run_verb, "open_engine", opened)
        assert cli("run").code == 0
        monkeypatch.setattr(run_verb, "open_engine", open_engine)
        monkeypatch.setattr(run_verb, "PASSING_S", 0.1)
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert cli("run").code == 3


def test_an_error_of_interrupted_work_keeps_its_kind() -> None:
    """A verb that meets another one's engine waits for it: it has to see that it is `StoreBusy`."""

    async def work() -> None:
        raise StoreBusy("busy", 1)

    with pytest.raises(StoreBusy, match="busy"):
        trio.run(until_interrupted, work)
