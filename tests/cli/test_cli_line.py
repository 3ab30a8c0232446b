"""``network``, the options of ``get`` about the line, and what ``show`` and ``run`` make of a policy."""

from __future__ import annotations

import signal
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.cli.support import SMALL, Said, WatchedOrigin, ended, started, state_of, until

Cli = Callable[..., Said]


def other_hours() -> str:
    """An hour that is half a day away."""
    later = datetime.now().astimezone() + timedelta(hours=12)
    return f"{later:%H}:00-{later:%H}:59"


def test_network_shows_the_line(cli: Cli) -> None:
    facts = cli("network", "--json").object
    text = cli("network").out

    assert {"connected", "metered", "connectivity", "interfaces"} == set(facts)
    assert f"connected     {'yes' if facts['connected'] else 'no'}\n" in text
    for interface in facts["interfaces"]:
        assert interface["name"] != "lo"
        assert f"interface     {interface['name']}: {interface['kind']}, " in text
    assert any(interface["usable"] for interface in facts["interfaces"]) == facts["connected"]


def test_a_policy_is_kept_and_shown_and_this_machine_needs_no_line(cli: Cli, root: Path, origin: WatchedOrigin) -> None:
    options = ("--metered", "deny", "--metered-max", "1.5M", "--interface", "none0", "--interface", "wifi")
    said = cli("get", "--json", "--id", "mine", *options, "--hours", "00:00-24:00", origin.url("/small.bin"))

    assert (said.code, said.object["state"]) == (0, "completed")
    assert (root / "files" / "small.bin").read_bytes() == SMALL
    assert cli("show", "--json", "mine").object["line"] == {
        "allow_metered": False,
        "metered_bytes_max": 1536 * 1024,
        "interfaces": ["none0", "wifi"],
        "hours": "00:00-24:00",
    }
    expected = "line        metered denied, at most 1.5 MiB metered, only through none0 or wifi, only at 00:00-24:00\n"
    assert expected in cli("show", "mine").out
    cli("get", "--id", "other", origin.url("/large.bin"))
    assert "\nline  " not in cli("show", "other").out
    assert cli("show", "--json", "other").object["line"]["allow_metered"] is None


@pytest.mark.parametrize(
    "options",
    [
        ["--hours", "noon"],
        ["--metered-max", "-1"],
        ["--metered-max", "much"],
        ["--metered", "perhaps"],
        ["--interface", "a/b"],
    ],
)
def test_what_no_line_can_meet_is_a_wrong_usage(
    cli: Cli, origin: WatchedOrigin, root: Path, options: list[str]
) -> None:
    said = cli("get", *options, origin.url("/small.bin"))

    assert said.code == 2
    assert not root.exists()
    assert origin.heads == []


def test_get_waits_for_its_hours_and_run_does_too(cli: Cli, root: Path, origin: WatchedOrigin) -> None:
    url = origin.url("/small.bin")
    with started("--root", root, "get", "--id", "mine", "--hours", other_hours(), url) as process:
        until(lambda: process.poll() is not None or state_of(cli, "mine") == "pending")
        process.send_signal(signal.SIGINT)
        said = ended(process)
        assert said.code == 130
        assert f"waiting for its hours, {other_hours()}: {url}\n" in said.err
    assert f"It waits for its hours, {other_hours()}, since" in cli("show", "mine").out
    assert f"for its hours, {other_hours()}" == cli("show", "--json", "mine").object["explanation"]["waits_for"]
    with started("--root", root, "run") as process:
        until(lambda: process.poll() is not None or "engine      process" in cli("show", "mine").out)
        assert state_of(cli, "mine") == "pending"
        process.send_signal(signal.SIGINT)
        assert ended(process).code == 130
    assert origin.heads == []

    assert cli("get", "--id", "mine", url).code == 0, "asked without hours, it has none"
    assert (root / "files" / "small.bin").read_bytes() == SMALL
