"""``main()``: from arguments to a verb, and from errors to a message and an exit status."""

from __future__ import annotations

import importlib
import io
import os
import sys
import traceback
from collections.abc import Callable
from typing import Final

from engine.cli import status
from engine.cli.arguments import parse
from engine.cli.text import PROGRAM, escape, fault_text, warn
from engine.errors import EngineError

TRACEBACK_VARIABLE: Final = "OFFLINE_ENGINE_TRACEBACK"

# Where each verb's ``run(arguments) -> exit status`` is; only the one that was asked for is imported.
_MODULES: Final = {verb: f"engine.cli.{verb}" for verb in ("get", "list", "show", "verify", "demo")}


def main(argv: list[str] | None = None) -> int:
    """Run the command line ``argv`` (None: the process's own) and return its exit status (see ``engine.cli.status``).

    An error nobody expected is told in one line; its traceback too when ``OFFLINE_ENGINE_TRACEBACK`` is set.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name must not end the program
    try:
        arguments = parse(argv)
        run: Callable[[object], int] = importlib.import_module(_MODULES[arguments.verb]).run
        code = run(arguments)
        sys.stdout.flush()
    except SystemExit as leaving:  # argparse has printed what there is to say
        return leaving.code if isinstance(leaving.code, int) else status.USAGE
    except BaseException as error:  # noqa: BLE001  # the outermost border: everything becomes a status here
        return _tell(error)
    return code


def _tell(error: BaseException) -> int:
    cause = status.root_cause(error)
    code = status.status_of(cause)
    if os.environ.get(TRACEBACK_VARIABLE):
        traceback.print_exception(error)
    if isinstance(cause, BrokenPipeError):
        _silence_stdout()
    elif isinstance(cause, EngineError):
        warn(f"{PROGRAM}: {fault_text(cause)}")
    elif isinstance(cause, KeyboardInterrupt):
        warn(f"{PROGRAM}: interrupted")
    else:
        warn(f"{PROGRAM}: unexpected {escape(f'{type(cause).__name__}: {cause}')}; set {TRACEBACK_VARIABLE}=1 for more")
    return status.FAILED if code is None else code


def _silence_stdout() -> None:
    """What is still buffered goes nowhere, or Python would complain about the broken pipe when it ends."""
    stdout = sys.__stdout__
    if stdout is not None and sys.stdout is stdout:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stdout.fileno())
        os.close(nowhere)
