"""What belongs to a process that is this command and nothing else: its first descriptors, and Ctrl-C while no verb
runs."""

from __future__ import annotations

import os
import signal
from types import FrameType

from engine.cli.status import say_interrupted


def begin() -> None:
    """Fill closed standard descriptors, and let Ctrl-C end the process at once, until a verb has something to put in
    order."""
    _fill_standard_descriptors()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def hear_interrupts() -> None:
    """Ctrl-C raises KeyboardInterrupt again, as usual."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def end() -> None:
    """The status is known: nothing interrupts the process any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _leave(_number: int, _frame: FrameType | None) -> None:
    """At once: an exception raised in the middle of an import may be swallowed there, or be printed."""
    os._exit(say_interrupted())


def _fill_standard_descriptors() -> None:
    """A closed 0, 1 or 2 would be given to the next file opened: what is meant for a terminal would be written into
    the store."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free one, which is this
