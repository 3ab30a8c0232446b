"""The fuzzer's command line: ``python -m tests.fire.fuzz TARGET… --seconds 3600``; ``all`` for every target.

Guided by the coverage of the engine's Python code (atheris, ``pip install atheris``), or with ``--plain`` by chance.
A finding ends it with status 1 and the input; ``--input FILE`` plays one again. New inputs of a guided run are kept in
``--corpus DIR``.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.fire.fuzz_mutate import INPUT_BYTES_MAX, corpus, words_of
from tests.fire.options import ended

_INSTRUMENTED = ("engine", "h11", "email", "idna", "urllib")


def main(arguments: list[str]) -> int:
    """Run; the exit status."""
    from tests.fire.fuzz_targets import TARGETS  # here and below: what is guided has to instrument it first

    parser = argparse.ArgumentParser(prog="python -m tests.fire.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="+", metavar="TARGET", help=f"all, or of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="of a plain run (default: the time)")
    parser.add_argument("--plain", action="store_true", help="without coverage")
    parser.add_argument("--corpus", type=Path, default=None, help="keep the inputs of a guided run here")
    parser.add_argument("--input", type=Path, default=None, help="play this file only")
    given = parser.parse_args(arguments)
    names = list(TARGETS) if given.targets == ["all"] else given.targets
    if unknown := set(names) - set(TARGETS):
        parser.error(f"there is no target {min(unknown)}: {', '.join(TARGETS)} are known")
    if given.input is not None and not given.input.is_file():
        parser.error(f"--input {given.input} is no file")
    if not given.plain and given.input is None:
        if importlib.util.find_spec("atheris") is None:
            parser.error("atheris is not installed: pip install atheris, or use --plain")
        return _guided_all(names, given)
    for name in names:
        _plain(name, given)
    return 0


def _plain(name: str, given: argparse.Namespace) -> None:
    from tests.fire.fuzz_run import fuzz, play
    from tests.fire.fuzz_targets import TARGETS

    entry = TARGETS[name]
    if given.input is not None:
        play(name, entry.play, given.input.read_bytes())
        print(f"{name}: {given.input} is stood")
        return
    seed = int(time.time()) if given.seed is None else given.seed
    print(f"{name}: seed {seed}", flush=True)
    tally = fuzz(name, entry.play, seed=seed, seconds=given.seconds, stretch_every=entry.stretch_every)
    print(f"{name}: {tally.inputs} inputs, {tally.stretched} long ones, slowest {tally.slowest_s:.3f} s, no finding")


def _guided_all(names: Sequence[str], given: argparse.Namespace) -> int:
    """Each target in a process of its own: libFuzzer ends its process."""
    worst = 0
    for name in names:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as work:
            folder = given.corpus / name if given.corpus is not None else Path(work) / "corpus"
            command = [sys.executable, "-c", _GUIDED, name, str(given.seconds), str(folder), work]
            worst = max(worst, abs(subprocess.run(command, check=False).returncode))
    return min(worst, 1)


_GUIDED = "import sys; from tests.fire.fuzz import guided; guided(*sys.argv[1:])"


def guided(name: str, seconds: str, folder: str, work: str) -> None:
    """One target under libFuzzer; it ends the process."""
    atheris = importlib.import_module("atheris")  # it ships no types

    with atheris.instrument_imports(include=list(_INSTRUMENTED)):
        from tests.fire.fuzz_targets import TARGETS
    seeds = corpus(name)
    Path(folder).mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        (Path(folder) / f"seed-{number:03}").write_bytes(seed)
    words = Path(work) / "words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in words_of(seeds) if word))
    options = [f"-max_total_time={int(float(seconds))}", f"-max_len={INPUT_BYTES_MAX}", f"-dict={words}"]
    # The time-out is wall time, and a busy machine keeps an input waiting for seconds.
    atheris.Setup(
        [name, *options, "-timeout=120", "-print_final_stats=1", f"-artifact_prefix=fuzz-{name}-", folder],
        TARGETS[name].play,
    )
    atheris.Fuzz()


def _escaped(word: bytes) -> str:
    return "".join(chr(byte) if byte < 0x80 and chr(byte).isalnum() else f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    sys.exit(ended(lambda: main(sys.argv[1:])))
