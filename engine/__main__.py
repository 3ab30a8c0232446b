"""``python -m engine`` is the same as the command ``offline-engine``."""

import gc
import sys

from engine.cli.main import main


def program() -> None:
    """The command, to the end of its process."""
    status = main()
    # Before it ends an interpreter looks for cycles in all that is left, several times: 0.08 s for memory that the
    # process is about to give back anyway. What closes something did so in ``main``.
    gc.freeze()
    sys.exit(status)


if __name__ == "__main__":
    program()
