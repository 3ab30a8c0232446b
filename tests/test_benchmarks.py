"""The benchmark harness keeps its own promises: no ratio from few pairs, no wrong file, nothing left behind."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import __main__ as harness
from benchmarks import changes, curves, kill, machine, many, peers, results, whole_file
from benchmarks.bench import KIB, MIB, Bench, Scale
from benchmarks.cost import ContenderFailed, Cost, run
from benchmarks.facts import Fact, TooFewPairs, paired, wall_ratio
from benchmarks.origin import Origin, serving
from benchmarks.report import Curve, Report
from benchmarks.targets import TARGETS, judge
from benchmarks.turns import OUTPUT, Contender, WrongBytes, in_turns, one
from benchmarks.workspace import DISK_RESERVE_BYTES, ENGINE_RESERVE_BYTES, Interrupted, NoRoom, Workspace, workspace
from tests.support.processes import processes_with

SIZE = 4 * MIB
NAME = "big.bin"
ROOT = Path(__file__).parent.parent
SMALL = Scale(rounds=3, settled=False, whole_bytes=SIZE, files=20, parallel=4)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A small run in a workspace of its own."""
    with workspace(str(tmp_path)) as space:
        yield Bench(SMALL, space, quiet=True)


@pytest.fixture
def origin(bench: Bench) -> Iterator[Origin]:
    """A running origin with one file."""
    with serving(bench.workspace.folder("origin")) as running:
        running.add(NAME, SIZE)
        yield running


def _copying(origin: Origin, *, spoil: str = "") -> Contender:
    """A contender that copies the file, and then runs ``spoil`` on it."""
    source = os.path.join(origin.www, NAME)
    return Contender(
        "copy",
        (NAME,),
        lambda folder: ["sh", "-c", f'cp {source} "$1" && cd "$1" && {spoil or ":"}', "-", _out(folder)],
    )


def _out(folder: str) -> str:
    return os.path.join(folder, OUTPUT)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_ratio_of_fewer_than_three_pairs_is_refused(count: int) -> None:
    costs = [Cost(1.0, 1.0, 1)] * count

    with pytest.raises(TooFewPairs, match=f"3 pairs, and there are {count}"):
        wall_ratio(costs, costs)


def test_a_ratio_is_the_median_of_the_ratios_within_the_rounds() -> None:
    assert paired([2.0, 30.0, 4.0], [1.0, 10.0, 4.0]) == Fact(2.0, 1.0, 3.0, 3)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["plan", "--rounds", "2"], "at least 3"),
        (["plan", "--quick", "--write-results"], "--quick measures nothing"),
        (["speed"], "unknown benchmark 'speed'"),
    ],
)
def test_what_can_mean_nothing_is_a_usage_error(capsys: pytest.CaptureFixture[str], words: list[str], why: str) -> None:
    with pytest.raises(SystemExit) as ended:
        harness.main(words)

    assert ended.value.code == 2
    assert why in capsys.readouterr().err


def test_contenders_take_turns_after_one_warm_up_each(bench: Bench, origin: Origin) -> None:
    order = origin.www + "/order"

    def named(label: str) -> Contender:
        return Contender(label, (), lambda _folder: ["sh", "-c", f"echo {label} >> {order}"])

    outcome = in_turns(bench, origin, [named("A"), named("B")])

    assert Path(order).read_text().split() == ["A", "B"] * 4
    assert {label: len(costs) for label, costs in outcome.costs.items()} == {"A": 3, "B": 3}


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (f"printf x | dd of={NAME} bs=1 seek=77777 conv=notrunc status=none", "wrong big.bin"),
        (f"truncate -s -1 {NAME}", "wrong big.bin"),
        (f"rm {NAME}", "no big.bin"),
    ],
    ids=["one byte", "short", "gone"],
)
def test_a_file_that_is_not_what_was_served_fails_the_benchmark(
    bench: Bench, origin: Origin, spoil: str, what: str
) -> None:
    with pytest.raises(WrongBytes, match=f"copy left a?.*{what}"):
        one(bench, origin, _copying(origin, spoil=spoil))


def test_a_benchmark_that_fails_is_told_and_the_rest_goes_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def lying(_bench: Bench) -> Report:
        raise WrongBytes("copy left a wrong big.bin")

    monkeypatch.setitem(harness.BENCHMARKS, "plan", lying)

    report = harness.measured("plan", bench)

    assert report.failed == {"plan": "copy left a wrong big.bin"}
    assert harness.status_of({"plan": report}, []) == harness.FAILED


def test_every_run_has_a_fresh_folder_and_its_files_stay(
    bench: Bench, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Workspace, "_free", lambda _self: 1 << 50)  # whatever this machine's disk holds
    folders: list[str] = []

    def command(folder: str) -> list[str]:
        assert os.listdir(_out(folder)) == []
        folders.append(folder)
        return ["cp", os.path.join(origin.www, NAME), _out(folder)]

    in_turns(bench, origin, [Contender("copy", (NAME,), command)])

    assert len(set(folders)) == 4
    assert all(os.path.getsize(os.path.join(_out(folder), NAME)) == SIZE for folder in folders)


def test_a_contender_that_fails_takes_no_further_part(bench: Bench, origin: Origin) -> None:
    broken = Contender("broken", (NAME,), lambda _folder: ["sh", "-c", "echo why >&2; exit 7"])

    outcome = in_turns(bench, origin, [broken, _copying(origin)])

    assert list(outcome.costs) == ["copy"]
    assert "ended with 7" in outcome.failed["broken"]
    assert "why" in outcome.failed["broken"]


def test_a_contender_that_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    command = ["sh", "-c", 'tail -f "$1" & wait', "-", str(tmp_path / "log")]

    with pytest.raises(ContenderFailed, match="ended with -9"):
        run(command, str(tmp_path), timeout_s=0.5)

    deadline = time.monotonic() + 10
    while left := processes_with(str(tmp_path)):
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def test_what_a_run_cost_is_its_own(tmp_path: Path) -> None:
    """Peak memory is that of the contender, not what its starters had; CPU counts its children."""
    hog = bytearray(200 * MIB)
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'sum(range(10**7))'])"

    small = run(["true"], str(tmp_path))
    busy = run([sys.executable, "-c", child], str(tmp_path))

    assert len(hog) == 200 * MIB
    assert small.rss_kib < 32 * KIB
    assert busy.cpu_s > 0.05
    assert busy.wall_s >= small.wall_s


def test_no_setting_of_the_user_reaches_a_contender(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")

    told = run(["env"], str(tmp_path)).printed

    assert "http_proxy" not in told
    assert f"HOME={tmp_path}\n" in told


def test_a_missing_peer_is_named_with_its_installation_and_the_rest_is_measured(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = {name: peers.Peer(f"absent-{name}", peer.install) for name, peer in peers.BY_NAME.items()}
    monkeypatch.setattr(peers, "BY_NAME", absent)

    report = whole_file.measure(bench)

    assert list(report.rows) == ["ours, relaxed", "ours, strict"]
    assert "absent-wget2 is missing: apt-get install wget2" in report.missing
    assert "absent-httpx is missing: pip install -e '.[bench]'" in report.missing
    assert len(report.missing) == len(set(report.missing)) == len(peers.ALL)
    assert harness.status_of({"whole-file": report}, report.missing) == harness.PEER_MISSING


def test_a_missing_nginx_ends_the_run_saying_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_arguments, **_options: None)

    with pytest.raises(peers.PeerMissing, match="apt-get install nginx"), serving(str(tmp_path)):
        pytest.fail("there is no nginx")


def test_older_results_go_only_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = Workspace(str(tmp_path))
    free = [DISK_RESERVE_BYTES + 10]
    monkeypatch.setattr(space, "_free", lambda: free[-1])
    first = space.fresh("run", 10)
    space.retire(first)
    second = space.fresh("run", 10)
    kept = os.path.exists(first)
    free.append(ENGINE_RESERVE_BYTES + 20)
    third = space.fresh("run", 10)

    assert kept
    assert [os.path.exists(folder) for folder in (first, second, third)] == [False, True, True]
    with pytest.raises(NoRoom, match="--folder"):
        space.fresh("run", 21)


def test_a_signal_ends_the_block_and_the_old_handler_is_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)

    with pytest.raises(Interrupted) as ended, workspace(str(tmp_path)):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    assert ended.value.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    assert list(tmp_path.iterdir()) == []


HTTP = ["ours, relaxed", "C floor", "ours, strict", "C floor, fdatasync"]
SMALL_RUNS = {
    "http": (whole_file, "http_contenders", 4, whole_file.measure, HTTP, 3),
    "https": (whole_file, "https_contenders", 1, whole_file.measure_https, ["ours, relaxed"], 0),
    "many": (many, "contenders", 1, many.measure_tiny, ["ours", "ours, inside the process"], 2),
}


@pytest.mark.parametrize(("module", "table", "count", "measure", "rows", "facts"), SMALL_RUNS.values(), ids=SMALL_RUNS)
def test_ours_is_measured_beside_the_floor(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    table: str,
    count: int,
    measure: Callable[[Bench], Report],
    rows: list[str],
    facts: int,
) -> None:
    everyone = getattr(module, table)
    monkeypatch.setattr(module, table, lambda *given: everyone(*given)[:count])

    report = measure(bench)

    assert report.failed == {}
    assert list(report.rows) == rows
    assert len(report.facts) == facts
    assert all(fact.count == 3 for fact in report.facts.values())


def test_a_killed_run_is_taken_up(bench: Bench) -> None:
    report = kill.measure(bench)

    (row,) = report.rows.values()
    assert row["kills"] == 3
    assert row["sum_is_size"] is True
    assert report.facts["lost_over_bound_mib"].high <= 0


def test_every_target_names_a_benchmark_and_has_a_bound() -> None:
    assert {target.benchmark for target in TARGETS} <= set(harness.BENCHMARKS)
    assert all(target.at_least is not None or target.at_most is not None for target in TARGETS)


def test_targets_are_judged_by_the_median() -> None:
    facts = {"wall_over_floor": Fact(1.25, 1.0, 9.0, 5), "times_curl": Fact(1.99, 1.0, 9.0, 5)}

    words = {verdict.target.fact: verdict.word for verdict in judge({"whole-file": Report(facts=facts)})[:4]}

    assert words == {
        "wall_over_floor": "pass",
        "cpu_over_floor_s": "not measured",
        "times_curl": "SHORT",
        "times_aria2c": "not measured",
    }


def test_the_results_hold_machine_versions_command_numbers_and_verdicts(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    reports = {
        "whole-file": Report(
            rows={"curl -o": {"wall_s": Fact(1.5, 1.25, 2.0, 5), "rss_mib": 11.0}, "C | floor": {"cpu_s": 0.5}},
            facts={"times_curl": Fact(2.5, 2.0, 3.0, 5)},
            missing=["wget2 is missing: apt-get install wget2"],
            failed={"aria2c": "ended with 1:\nwhy"},
            notes=["a note"],
        )
    }
    about = results.Run(
        began="2026-01-02T03:04:05+00:00",
        command="python -m benchmarks --rounds 5",
        took_s=600.0,
        settled=True,
        machine=machine.describe(str(tmp_path)),
        versions=machine.versions(),
    )

    results.write(str(path), about, reports, judge(reports))

    text = path.read_text(encoding="utf-8")
    assert os.listdir(tmp_path) == ["RESULTS.md"]
    for expected in (
        "`python -m benchmarks --rounds 5`, 2026-01-02T03:04:05+00:00, 10 min.",
        f"| kernel | Linux {os.uname().release} |",
        "| CPU flags |",
        f"| Python | CPython {sys.version.split()[0]} |",
        "| 1 GiB, times as fast as curl | at least 2 | 2.5 (2..3) | pass |",
        "| 1 GiB, times as fast as wget2 | at least 1.2 |  | not measured |",
        "|  | wall_s | rss_mib | cpu_s |",
        "| curl -o | 1.5 (1.25..2) | 11 |  |",
        "| C \\| floor |  |  | 0.5 |",
        "- **failed**, aria2c: ended with 1: why",
        "- not measured: wget2 is missing: apt-get install wget2",
        "- a note",
    ):
        assert expected in text
    assert all(f"| {peer.name} |" in text for peer in peers.ALL)


def test_one_benchmark_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = tmp_path / "results.md"
    words = ["plan", "--quick", "--rounds", "3", "--json", "--write-results", str(written), "--folder", str(tmp_path)]

    status = harness.main(words)

    told = json.loads(capsys.readouterr().out)
    assert status == harness.OK
    assert told["benchmarks"]["plan"]["facts"]["ready_ms"]["median"] > 0
    assert "its numbers mean nothing" in written.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [written]


def test_a_curve_is_drawn(tmp_path: Path) -> None:
    curve = Curve("Rate", "connections", "MiB/s", {"ours": [(1, 10.0), (1000, 9.0)], "theirs": [(1, 5.0)]})

    paths = curves.draw({"plan": Report(), "connections": Report(curve=curve)}, str(tmp_path / "new"))

    assert paths == [str(tmp_path / "new" / "connections.svg")]
    assert "connections" in Path(paths[0]).read_text(encoding="utf-8")


def test_state_changes_are_counted_for_every_verb(bench: Bench) -> None:
    report = changes.measure(Bench(dataclasses.replace(SMALL, changed_entries=20), bench.workspace, quiet=True))

    verbs = {"pause_all", "resume_all", "retry_failed", "cancel_all", "pause", "resume"}
    assert set(report.rows) == verbs
    assert all(report.facts[f"{verb}_per_s"].low > 0 for verb in verbs)
