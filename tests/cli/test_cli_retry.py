"""The line that tells of another try: when, why then, and which of how many."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from engine.cli.retrying import Tries, retry_text
from engine.model.records import Attempt, DownloadEntry
from tests.cli.support import Said, WatchedOrigin

Cli = Callable[..., Said]

NOW = 1_750_000_000.0  # 15 June 2025
WAITING = DownloadEntry(
    id="mine", sources=("http://h/x",), attempts=(Attempt(number=1, started_at=NOW - 5, ended_at=NOW),)
)


@pytest.mark.parametrize(
    ("wait_s", "failed", "code", "expected"),
    [
        (0.31, 1, "http_5xx", r"in 0\.3 s, try 2 of 8 \(backoff\)"),
        (30.0, 7, "http_5xx", r"in 30 s, try 8 of 8 \(backoff\)"),
        (40.0, 3, "http_5xx", r"in 40 s, try 4 of 8 \(the server asked for it: Retry-After\)"),
        (1.0, 1, "http_5xx", r"in 1\.0 s, try 2 of 8 \(the server asked for it: Retry-After\)"),
        (0.4, 2, "dns", r"in 0\.4 s, try 3 of 4 \(backoff\)"),
        (600.0, 1, "http_5xx", r"at \d\d:\d\d, try 2 of 8 \(the server asked for it: Retry-After\)"),
        (86400.0, 1, "http_5xx", r"at 2025-06-1\d \d\d:\d\d, try 2 of 8 \(the server .*\)"),
        (-3.0, 1, "http_5xx", r"in 0\.0 s, try 2 of 8 \(backoff\)"),
    ],
)
def test_when_which_and_why(wait_s: float, failed: int, code: str, expected: str) -> None:
    entry = replace(WAITING, next_retry_at=NOW + wait_s)

    assert re.fullmatch(expected, retry_text(entry, code, Tries(failed), NOW))


def test_a_try_that_has_begun_already() -> None:
    assert retry_text(WAITING, "http_5xx", Tries(1), NOW) == "now, try 2 of 8"


def test_progress_begins_the_count_anew() -> None:
    tries = Tries(bytes_done=100)
    counts = []
    for bytes_done in (100, 100, 250, 250, 0):
        tries.count(bytes_done)
        counts.append(tries.failed)

    assert counts == [1, 2, 1, 2, 3]


def test_retry_after_is_told(cli: Cli, served: dict[str, str]) -> None:
    class Busy(WatchedOrigin):
        def answer(self, connection: socket.socket, head: str) -> None:
            if not self.heads:
                self.heads.append(head)
                connection.sendall(b"HTTP/1.1 503 Busy\r\nRetry-After: 2\r\nContent-Length: 0\r\n\r\n")
                return
            super().answer(connection, head)

    with Busy(served) as origin:
        said = cli("get", origin.url("/small.bin"))

    assert said.code == 0
    assert re.search(r"/small\.bin in [12]\.\d s, try 2 of 8 \(the server asked for it: Retry-After\): ", said.err)


def test_each_try_is_counted_until_it_is_given_up(cli: Cli) -> None:
    with socket.socket() as unused:  # bound but not listening: refuses
        unused.bind(("127.0.0.1", 0))
        said = cli("get", f"http://127.0.0.1:{unused.getsockname()[1]}/x")

    assert said.code == 1
    assert re.findall(r"try (\d) of (\d)", said.err) == [("2", "4"), ("3", "4"), ("4", "4")]
    assert said.err.splitlines()[-1].startswith("failed http://127.0.0.1:")
