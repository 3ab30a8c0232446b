"""The command line as processes: signals, two at once, a reader that goes away, a terminal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.cli.library import runs
from engine.config import DEFAULT_CONFIG
from tests.cli.support import LARGE, SMALL, TIMEOUT_S, Said, WatchedOrigin, command, ended, environment, run, started

SLOW = 3e6  # bytes a second: the large file takes four seconds


def wait_held(root: Path, entry_id: str, cli: Callable[..., Said]) -> int:
    """Look from this process until the other one has committed something; returns the bytes held."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        if (root / "store").exists():
            said = cli("show", "--json", entry_id)
            held = [span for part in said.objects[0]["parts"] for span in part["held"]] if said.code == 0 else []
            if held:
                return sum(end - start for start, end in held)
        time.sleep(0.02)
    pytest.fail("nothing was committed")


@pytest.mark.parametrize(("number", "times"), [(signal.SIGINT, 1), (signal.SIGTERM, 1), (signal.SIGINT, 3)])
def test_an_interrupted_get_resumes(
    cli: Callable[..., Said], root: Path, origin: WatchedOrigin, number: signal.Signals, times: int
) -> None:
    arguments = ("--root", root, "get", "--json", "--id", "mine", origin.url("/large.bin"))
    origin.bytes_per_s = SLOW
    with started(*arguments) as process:
        wait_held(root, "mine", cli)
        asked_at = time.monotonic()
        for _ in range(times):
            process.send_signal(number)
        said = ended(process)
        took_s = time.monotonic() - asked_at
    origin.hang_up()
    origin.bytes_per_s = None

    assert said.code == 130
    assert took_s < DEFAULT_CONFIG.close_timeout_s  # the last commit was made, not given up
    assert said.err == "interrupted: 1 of 1 are resumable; run the same command again\n"
    assert (said.object["state"], said.object["error"]) == ("pending", None)
    assert said.object["bytes_total"] == len(LARGE)
    listed = cli("list", "--json").object
    assert (listed["state"], listed["reason"], listed["bytes_total"]) == ("pending", "shutdown", len(LARGE))
    assert 0 < listed["bytes_done"] < len(LARGE)
    assert "was running when its engine was closed" in cli("show", "mine").out

    again = run(*arguments).object
    assert (again["state"], again["bytes_resumed"]) == ("completed", listed["bytes_done"])
    assert again["bytes_fetched"] == len(LARGE) - listed["bytes_done"]
    assert (root / "files" / "large.bin").read_bytes() == LARGE


def test_an_interrupted_list_of_urls_counts_what_is_left(
    cli: Callable[..., Said], root: Path, origin: WatchedOrigin
) -> None:
    done = cli("get", origin.url("/small.bin"))
    origin.bytes_per_s = SLOW
    urls = [origin.url("/small.bin"), origin.url("/large.bin"), origin.url("/large.bin?2")]
    with started("--root", root, "get", *urls) as process:
        assert origin.wait_sent(len(SMALL) + 1_000_000, TIMEOUT_S)
        process.send_signal(signal.SIGINT)
        said = ended(process)

    assert done.code == 0
    assert (said.code, len(said.lines)) == (130, 1)
    assert "interrupted: 2 of 3 are resumable" in said.err


def test_looking_while_another_process_downloads(cli: Callable[..., Said], root: Path, origin: WatchedOrigin) -> None:
    origin.bytes_per_s = SLOW / 4
    with started("--root", root, "get", "--json", "--id", "mine", origin.url("/large.bin")) as process:
        held = wait_held(root, "mine", cli)
        listed = cli("list", "--json").object
        shown = cli("show", "mine")
        busy = run("--root", root, "get", origin.url("/small.bin"))
        assert process.poll() is None
        origin.bytes_per_s = None
        said = ended(process)

    assert (listed["state"], listed["bytes_done"] >= held) == ("in_progress", True)
    assert f"engine      process {process.pid}\n" in shown.out
    assert (busy.code, len(busy.lines)) == (0, 1)
    assert f"in use by process {process.pid}; that one fetches what is asked for here" in busy.err
    assert (said.code, said.object["state"], said.object["bytes_total"]) == (0, "completed", len(LARGE))


def test_a_process_that_nobody_waits_for_runs_no_more() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        alive = runs(process.pid)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie

        assert (alive, runs(process.pid), os.path.exists(f"/proc/{process.pid}")) == (True, False, True)
    assert not runs(process.pid)


def test_what_is_held_is_on_disk_after_a_kill(cli: Callable[..., Said], root: Path, origin: WatchedOrigin) -> None:
    origin.bytes_per_s = SLOW
    with started("--root", root, "get", "--id", "mine", origin.url("/large.bin")) as process:
        wait_held(root, "mine", cli)
        beside = cli("list")
        process.kill()
    origin.hang_up()

    alone = cli("list")
    assert ("in_progress" in alone.out, "was cut off" in beside.err, "was cut off" in alone.err) == (True, False, True)
    shown, [part] = cli("show", "mine"), cli("show", "--json", "mine").object["parts"]
    data = Path(part["path"]).read_bytes()
    assert "its process is gone, what was committed is kept" in shown.out
    assert part["path"] != part["final_path"]
    assert part["held"]
    assert all(data[start:end] == LARGE[start:end] for start, end in part["held"])


def test_a_recovered_entry_is_noted(cli: Callable[..., Said], root: Path, origin: WatchedOrigin) -> None:
    origin.bytes_per_s = SLOW
    with started("--root", root, "get", "--id", "mine", origin.url("/large.bin")) as process:
        wait_held(root, "mine", cli)
        process.kill()
    origin.hang_up()
    origin.bytes_per_s = None

    said = cli("get", "--id", "mine", origin.url("/large.bin"))

    assert said.code == 0
    assert "offline-engine: mine: was running when the process ended" in said.err
    assert " resumed)" in said.out


def test_a_reader_that_goes_away(cli: Callable[..., Said], root: Path, origin: WatchedOrigin) -> None:
    cli("get", origin.url("/small.bin"))
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            command("--root", root, "list"),
            env=environment(),
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    finally:
        os.close(writing)

    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(("option", "drawn"), [("--json", True), ("--no-progress", False)])
def test_bars_are_drawn_on_a_terminal_only(root: Path, origin: WatchedOrigin, option: str, drawn: bool) -> None:
    origin.bytes_per_s = 2 * SLOW
    screen, terminal = pty.openpty()
    process = subprocess.Popen(
        command("--root", root, "get", option, origin.url("/large.bin")),
        env={**environment(), "TERM": "xterm", "COLUMNS": "120"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
    )
    os.close(terminal)
    seen = b""
    while more := read_screen(screen):
        seen += more
    os.close(screen)
    out, _ = process.communicate(timeout=TIMEOUT_S)

    assert process.returncode == 0
    assert len(out.splitlines()) == 1
    assert "\x1b" not in out
    assert (b"large.bin" in seen and b"iB/s" in seen) == drawn
    assert bool(seen) == drawn


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_a_line_above_the_bars_is_not_broken(root: Path, origin: WatchedOrigin, term: str) -> None:
    origin.bytes_per_s = 4 * SLOW
    screen, terminal = pty.openpty()
    process = subprocess.Popen(
        command("--root", root, "get", origin.url("/large.bin")),
        env={**environment(), "TERM": term, "COLUMNS": "40"},
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    seen = b""
    while more := read_screen(screen):
        seen += more
    os.close(screen)

    assert process.wait(TIMEOUT_S) == 0
    path = root / "files" / "large.bin"
    assert f"done {path}  12.0 MiB (12.0 MiB in ".encode() in seen


def read_screen(screen: int) -> bytes:
    """What was drawn next; empty when the other end was closed."""
    try:
        return os.read(screen, 65536)
    except OSError:  # EIO is how Linux says that nobody has the terminal open any more
        return b""


def test_demo_passes_and_leaves_nothing(tmp_path: Path) -> None:
    said = run("demo", "--size", "16", "--root", tmp_path)

    assert (said.code, said.err, said.lines[-1]) == (0, "", "PASS")
    assert "FAIL" not in said.out
    for word in ("fetched", "trusted", "lost", "blake3", "sha256", "second run"):
        assert f"\n   {word} " in said.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_no_file_and_no_process(tmp_path: Path, number: signal.Signals) -> None:
    with started("demo", "--size", "16", "--root", tmp_path) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("2."):
            assert process.poll() is None
        process.send_signal(number)
        said = ended(process)

    assert said.code == 130
    assert list(tmp_path.iterdir()) == []
    assert processes_naming(str(tmp_path)) == []


def processes_naming(text: str) -> list[str]:
    """Ids of the processes with ``text`` in their command line."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path(f"/proc/{name}/cmdline").read_bytes()
        except OSError:  # it ended meanwhile
            continue
        if text.encode() in line:
            found.append(name)
    return found
