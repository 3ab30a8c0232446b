"""The two streams of the command line: results on stdout, words for people on stderr.

A stream that was closed before the program began (``>&-``) takes nothing and hinders nothing. Nothing heavy is imported
here: what a usage error needs must not wait for the engine.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import TextIO

PROGRAM = "offline-engine"


class OutputLost(Exception):
    """Stdout cannot be written (its disk is full, its terminal is gone); the message says why."""


def escape(text: str) -> str:
    """``text`` on one line with everything that is not plainly printable escaped (M25): control characters, ANSI
    sequences, writing-direction marks, undecodable bytes."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def print_line(line: str) -> None:
    """One line of text, told at once. Raises OutputLost, or BrokenPipeError when who reads it is gone."""
    print_text(line + "\n")


def print_text(text: str) -> None:
    """Text as it is, told at once. Raises OutputLost, BrokenPipeError."""
    try:
        print(text, end="", flush=True)
    except OSError as error:
        _silence(sys.stdout)
        if isinstance(error, BrokenPipeError):
            raise
        raise OutputLost(f"cannot write the output: {error.strerror or error}") from error


def print_json(value: object) -> None:
    """One object on one line, ASCII only, so that it too is safe on a terminal. Told at once to who reads it."""
    import json  # noqa: PLC0415  # not for everybody

    print_line(json.dumps(value, ensure_ascii=True, separators=(",", ":")))


def warn(line: str) -> None:
    """A line for people beside the output. When stderr cannot be written there is nobody to tell, and the work goes
    on."""
    if not sys.stderr:
        return  # print() would take stdout instead
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        _silence(sys.stderr)


def tolerate_odd_text() -> None:
    """Let both streams print what their encoding cannot hold: a file's name must not end the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _silence(stream: TextIO) -> None:
    """What is still buffered goes nowhere, or Python would fail over it once more when it ends."""
    if stream not in (sys.__stdout__, sys.__stderr__):
        return  # somebody's own object, perhaps without a descriptor
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    with suppress(OSError):  # it failed before, and what it held is lost either way
        stream.flush()
