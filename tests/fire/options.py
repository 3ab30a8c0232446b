"""What the command lines of the harnesses share: numbers that mean some work, and how a run ends.

A harness ends with 0 when nothing was found, 1 with findings, 2 when it was asked for what it cannot do or when nothing
was tried, and 130 when it was interrupted, which is no finding.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from typing import Final

NOTHING_TRIED: Final = 2
INTERRUPTED: Final = 130


def counted(text: str) -> int:
    """At least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"at least 1, not {number}")
    return number


def shared(text: str) -> float:
    """Of all there is: more than 0, at most 1."""
    share = float(text)
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"more than 0 and at most 1, not {text}")
    return share


def parted(text: str) -> tuple[int, int]:
    """``1/2``: the first half."""
    part, _, of = text.partition("/")
    if not 1 <= int(part) <= int(of):
        raise argparse.ArgumentTypeError(f"like 1/2, not {text}")
    return int(part), int(of)


def is_interrupt(error: BaseException) -> bool:
    """Whether it is Ctrl-C, also in what a nursery makes of it."""
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(KeyboardInterrupt) is not None
    return isinstance(error, KeyboardInterrupt)


def interrupted_between() -> Callable[[], None]:
    """From now on Ctrl-C is only noted; what is returned raises it. For what would take an exception out of nowhere for
    something that it found."""
    asked: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: asked.append(number))

    def check() -> None:
        if asked:
            raise KeyboardInterrupt

    return check


def ended(main: Callable[[], int]) -> int:
    """Run ``main``; its status, or INTERRUPTED. SIGTERM is taken for Ctrl-C, so that servers end and folders go."""
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        return main()
    except BaseException as error:
        if not is_interrupt(error):
            raise
        print("interrupted: what was asked for was not tried to the end", file=sys.stderr)
        return INTERRUPTED
