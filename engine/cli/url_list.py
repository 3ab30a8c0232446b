"""The URLs in a file: one a line, with the place of each, so that what is wrong can be found."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from typing import BinaryIO, Final

from engine.errors import InvalidRequest
from engine.net.url import URL_BYTES_MAX

STDIN: Final = "-"
LINE_BYTES_MAX: Final = 2 * URL_BYTES_MAX  # a URL, and blanks around it; comments too are no novels


def urls_of(path: str | None) -> Iterator[tuple[str, str]]:
    """``(place, URL)`` for each line of the file, ``-`` being stdin, that is neither empty nor a comment; the place
    reads ``FILE:LINE``. Raises InvalidRequest for a file that cannot be read or is not a list of URLs."""
    if path is None:
        return
    name = "stdin" if path == STDIN else path
    try:
        with _opened(path) as file:
            yield from _entries(name, file)
    except OSError as error:
        raise InvalidRequest(f"cannot read the list of URLs {name}: {error.strerror or error}") from error


def _opened(path: str) -> nullcontext[BinaryIO] | BinaryIO:
    if path != STDIN:
        return open(path, "rb")  # closed by the `with` it is made for
    if not sys.stdin:
        raise InvalidRequest("cannot read the list of URLs: stdin is closed")
    return nullcontext(sys.stdin.buffer)


def _entries(name: str, file: BinaryIO) -> Iterator[tuple[str, str]]:
    number = 0
    while line := file.readline(LINE_BYTES_MAX + 1):
        number += 1
        place = f"{name}:{number}"
        if len(line) > LINE_BYTES_MAX:
            raise InvalidRequest(f"{place}: the line is longer than {LINE_BYTES_MAX} bytes: is it a list of URLs?")
        if b"\0" in line:
            raise InvalidRequest(f"{place}: the line holds a zero byte: a list of URLs is text, in UTF-8")
        try:
            text = line.removeprefix(codecs.BOM_UTF8 if number == 1 else b"").decode().strip()
        except UnicodeDecodeError:
            raise InvalidRequest(f"{place}: the line is not UTF-8: a list of URLs is text") from None
        if text and not text.startswith("#"):
            yield place, text
