"""Streams that are closed, full, or gone: no verb stumbles, and nothing meant for them goes elsewhere."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.support import SMALL, TIMEOUT_S, Said, WatchedOrigin, command, environment

Cli = Callable[..., Said]


def shell(redirection: str, *arguments: str | Path) -> Said:
    """The command line as a shell runs it with this redirection."""
    done = subprocess.run(
        ["sh", "-c", f"exec {shlex.join(command(*arguments))} {redirection}"],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return Said(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def arguments(cli: Cli, root: Path, origin: WatchedOrigin, request: pytest.FixtureRequest) -> list[str]:
    """A run of each verb on a library with one complete entry."""
    cli("get", "--id", "mine", origin.url("/small.bin"))
    of_verb = {
        "get": ["get", "--id", "mine", origin.url("/small.bin")],
        "get new": ["get", origin.url("/small.bin?new")],
        "get json": ["get", "--json", origin.url("/small.bin?new")],
        "get failing": ["get", origin.url("/gone.bin")],
        "list": ["list"],
        "show": ["show", "mine"],
        "verify": ["verify"],
        "demo": ["demo", "--size", "8"],
        "help": ["--help"],
        "version": ["--version"],
        "usage": ["get"],
        "unknown option": ["get", "--fast"],
    }
    return ["--root", str(root), *of_verb[request.param]]


ENDS = {"get failing": 1, "usage": 2, "unknown option": 2}
EVERY_VERB = ("get", "get new", "get json", "get failing", "list", "show", "verify", "demo", "help", "version", "usage")


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(name, ENDS.get(name, 0)) for name in (*EVERY_VERB, "unknown option")],
    indirect=["arguments"],
)
def test_closed_streams_change_no_status(arguments: list[str], status: int, root: Path, cli: Cli) -> None:
    no_output, no_words = shell(">&-", *arguments), shell("2>&-", *arguments)

    assert (no_output.code, no_output.out) == (status, "")
    assert (no_words.code, no_words.err) == (status, "")
    assert "Traceback" not in no_output.err + no_words.out
    if status:
        assert no_output.err
        assert no_words.out == ""
    else:
        assert no_words.out
    assert shell("<&- >&- 2>&-", *arguments) == Said(status, "", "")
    assert root.exists()
    assert [one["health"] for one in cli("verify", "--json", "mine").objects] == [
        "valid"
    ]  # nothing was written into it


@pytest.mark.parametrize(
    "arguments", ["get", "get new", "get json", "list", "show", "verify", "demo", "help", "version"], indirect=True
)
def test_a_full_disk_under_stdout_is_one_line_and_status_1(arguments: list[str]) -> None:
    said = shell("> /dev/full", *arguments)

    assert said == Said(1, "", "offline-engine: cannot write the output: No space left on device\n")


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(name, ENDS.get(name, 0)) for name in EVERY_VERB if name != "demo"],
    indirect=["arguments"],
)
def test_a_full_disk_under_stderr_stops_nothing(arguments: list[str], status: int) -> None:
    said = shell("2> /dev/full", *arguments)

    assert (said.code, said.err) == (status, "")
    assert shell("> /dev/full 2>&1", *arguments) == Said(status or 1, "", "")


def test_what_was_downloaded_before_the_output_was_lost_is_kept(root: Path, origin: WatchedOrigin, cli: Cli) -> None:
    said = shell("> /dev/full", "--root", root, "get", origin.url("/small.bin"))

    assert said.code == 1
    assert (root / "files" / "small.bin").read_bytes() == SMALL
    assert cli("list", "--json").object["state"] == "completed"


def test_a_reader_of_stderr_that_goes_away_stops_nothing(root: Path, origin: WatchedOrigin) -> None:
    origin.busy = 1
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            command("--root", root, "get", origin.url("/small.bin")),
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=writing,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    finally:
        os.close(writing)

    assert done.returncode == 0
    assert done.stdout.startswith("done ")
