"""Exit statuses. Imports nothing: the command must know how to end before anything else is there."""

import os

COMPLETE = 0  # everything asked for is there and right
FAILED = 1  # something is not, or the output could not be written
USAGE = 2  # what was asked can never work; nothing was started
STORE = 3  # the store is busy or cannot be used
INTERRUPTED = 130  # by Ctrl-C or SIGTERM, and resumable
BROKEN_PIPE = 141  # who reads the output is gone, as if SIGPIPE had ended the process


def say_interrupted() -> int:
    """Tell it by the one system call, which nothing interrupts half-way; returns the status."""
    try:
        os.write(2, b"offline-engine: interrupted\n")
    except OSError:
        return INTERRUPTED  # there is nobody to tell
    return INTERRUPTED
