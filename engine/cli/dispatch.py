"""From arguments to a verb, and from how that ended to an exit status."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Final

from engine.cli import status
from engine.cli.arguments import COMMANDS, parse
from engine.cli.console import print_text, tolerate_odd_text
from engine.cli.ending import tell

# Where each verb's ``run(arguments) -> exit status`` is; only the one that was asked for is imported.
_VERBS: Final = ("get", "run", "list", "groups", "show", "verify", "gc", "health", "network", "demo")
_MODULES: Final = {
    **{verb: f"engine.cli.{verb}" for verb in _VERBS},
    **dict.fromkeys(COMMANDS, "engine.cli.command"),
}


def dispatch(argv: list[str] | None, ready: Callable[[], None]) -> int:
    """Run the command line ``argv`` (None: the process's own) and return its exit status. ``ready`` is called once
    everything is imported, before the verb does anything."""
    tolerate_odd_text()
    try:
        arguments = parse(argv)
        run: Callable[[object], int] = importlib.import_module(_MODULES[arguments.verb]).run
        ready()
        code = run(arguments)
        print_text("")  # what a library may have left in the buffer
    except SystemExit as leaving:  # --help and --version, or what was wrong has been said
        return leaving.code if isinstance(leaving.code, int) else status.USAGE
    except BaseException as error:  # noqa: BLE001  # the outermost border: everything becomes a status here
        return tell(error)
    return code
