"""The start of the command: little is imported, public names come when they are used, Ctrl-C is heeded all along."""

from __future__ import annotations

import ast
import copy
import inspect
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import engine
from engine.errors import StoreBusy
from tests.cli.support import PACKAGE_PARENT, TIMEOUT_S, Said, WatchedOrigin, command, environment, hear_interrupts

# As pip's console script, and as `python -m engine`.
STARTS = {
    "console script": "import sys; from engine.__main__ import program; sys.exit(program())",
    "module": "import runpy; runpy.run_module('engine', run_name='__main__')",
}

# Sends SIGINT to its own process when a module with this name is about to be imported.
INTERRUPTER = """
    import os, sys

    class Interrupter:
        def find_spec(self, name, path=None, target=None):
            if name == {name!r}:
                os.kill(os.getpid(), 2)

    sys.meta_path.insert(0, Interrupter())
"""


def run_code(code: str, *arguments: str | Path) -> Said:
    """Python code in a process of its own, with these arguments in ``sys.argv``."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        env=environment(),
        cwd=PACKAGE_PARENT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        preexec_fn=hear_interrupts,
    )
    return Said(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(
    ("verb", "name"),
    [
        (verb, name)
        for verb in ("get", "list")
        for name in ("engine.cli.process", "signal", "argparse", "engine.cli.arguments", "msgspec", "lmdb")
    ]
    + [("get", "trio"), ("get", "ssl"), ("verify", "engine.opening"), ("demo", "blake3")],
)
def test_an_interrupt_while_modules_are_imported(root: Path, start: str, verb: str, name: str) -> None:
    arguments = ["http://127.0.0.1:1/x"] if verb == "get" else []

    said = run_code(textwrap.dedent(INTERRUPTER.format(name=name)) + STARTS[start], "--root", root, verb, *arguments)

    assert said == Said(130, "", "offline-engine: interrupted\n")
    assert not root.exists()


def test_an_interrupt_when_all_is_done_changes_nothing() -> None:
    code = "import atexit, os, signal, sys; atexit.register(os.kill, os.getpid(), signal.SIGINT); "

    said = run_code(code + STARTS["console script"], "--version")

    assert said == Said(0, f"offline-engine {engine.__version__}\n", "")


def test_an_ignored_interrupt_stays_ignored(root: Path) -> None:
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + textwrap.dedent(
        INTERRUPTER.format(name="argparse")
    )

    said = run_code(code + STARTS["module"], "--root", root, "list")

    assert (said.code, said.out, "interrupted" in said.err) == (0, "", False)


HEAVY = {"trio", "lmdb", "rich", "h11", "ssl", "msgspec", "blake3", "idna", "asyncio"}
MODULES_AFTERWARDS = """
    import sys
    from engine.cli.main import main
    code = main()
    print(*sorted(set(sys.modules) & {heavy!r}), file=sys.stderr)
    sys.exit(code)
"""


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        (["--version"], set()),
        (["--help"], set()),
        (["get", "--help"], set()),
        (["get", "--fast"], set()),
        (["show"], set()),
        (["list"], {"lmdb", "msgspec", "blake3", "idna"}),
        (["show", "mine"], {"lmdb", "msgspec", "blake3", "idna"}),
        (["health"], {"lmdb", "msgspec", "blake3", "idna"}),
        (["groups"], {"lmdb", "msgspec", "blake3", "idna"}),
        (["pause", "mine"], {"lmdb", "msgspec", "blake3", "idna"}),
        (["verify"], HEAVY - {"rich", "asyncio"}),
    ],
)
def test_no_verb_imports_what_it_does_not_need(
    arguments: list[str], allowed: set[str], root: Path, cli: object
) -> None:
    del cli
    said = run_code(MODULES_AFTERWARDS.format(heavy=HEAVY), "--root", root, *arguments)

    assert set(said.err.splitlines()[-1].split()) <= allowed


def test_importing_the_package_imports_next_to_nothing() -> None:
    # Compared with what is there before: an editable installation's own hook imports some.
    said = run_code(
        "import sys; before = set(sys.modules); import engine; "
        f"print(*sorted((set(sys.modules) - before) & {HEAVY | {'typing', 'enum'}!r}))"
    )

    assert (said.code, said.lines) == (0, [""])


def test_the_table_of_public_names_is_what_type_checkers_are_told() -> None:
    tree = ast.parse(Path(engine.__file__).read_text(encoding="utf-8"))
    told = {
        alias.name: node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
    }

    assert vars(engine)["_HOME_OF"] == told
    assert sorted(told) == engine.__all__


def test_every_public_name_is_there_and_is_itself() -> None:
    code = "import inspect, engine; print(*(name for name, _ in inspect.getmembers(engine)))"
    names = set(run_code(code).out.split())
    star = set(run_code("from engine import *; print(*globals())").out.split())

    assert set(engine.__all__) <= names
    assert set(engine.__all__) <= set(dir(engine))
    assert set(engine.__all__) <= star
    assert engine.StoreBusy is StoreBusy
    assert inspect.isclass(engine.Engine)
    assert inspect.signature(engine.open_engine).parameters["root"].annotation == "str | os.PathLike[str]"
    for value in (getattr(engine, name) for name in engine.__all__):
        assert copy.deepcopy(value) == value
        assert pickle.loads(pickle.dumps(value)) == value


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'engine' has no attribute 'Nothing'"):
        engine.Nothing  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ImportError, match="Nothing"):
        exec("from engine import Nothing")


def test_a_real_interrupt_at_any_moment(root: Path, origin: WatchedOrigin) -> None:
    """Not at a chosen import but whenever: no moment may show a traceback. (Before `main()` Python itself answers.)"""
    del origin
    code = """
        import os, signal, sys, threading, time
        from engine.cli.main import main
        delay_s = float(sys.argv.pop(1))
        def interrupt():
            time.sleep(delay_s)
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=interrupt, daemon=True).start()
        sys.exit(main())
    """
    for step in range(12):
        said = run_code(code, str(step * 0.02), "--root", root, "verify")

        assert (said.code, said.err) in {
            (0, ""),
            (130, "offline-engine: interrupted\n"),
        } or "not all was checked" in said.err
        assert "Traceback" not in said.err


@pytest.mark.parametrize("words", [["list"], ["show", "a"], ["pause", "a"], ["get", "http://127.0.0.1:1/a"]])
def test_a_root_whose_path_is_not_utf_8_is_told_in_one_line(tmp_path: Path, words: list[str]) -> None:
    root = os.fsdecode(os.fsencode(tmp_path) + b"/music\xff")
    os.makedirs(os.path.join(root, "store"))
    done = subprocess.run(
        command("--root", root, *words),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert "is not UTF-8" in line
