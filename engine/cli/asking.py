"""From the arguments of ``get`` to requests: everything is checked here, before anything is started."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterable, Iterator

from engine.cli.line_options import line_of
from engine.cli.metalinks import is_metalink, requests_of_metalink
from engine.cli.text import shown_url
from engine.cli.url_list import urls_of
from engine.config import DEFAULT_CONFIG
from engine.control.requests import entry_of
from engine.errors import InvalidRequest
from engine.model.records import DownloadEntry, DownloadRequest, Durability, OnChange

_ONE_URL_ONLY = ("id", "expect", "expect_length", "mirror")


def requests_of(arguments: argparse.Namespace) -> dict[str, DownloadRequest]:
    """Entry id to request, in the order given; the same thing asked for twice counts once.

    Raises InvalidRequest for the first thing that can never work.
    """
    places = dict.fromkeys(arguments.urls, "")  # URL to where it was read
    for place, url in urls_of(arguments.input):
        places.setdefault(url, place)
    urls = list(places)
    if not urls:
        raise InvalidRequest("no URL was given" + (f": {arguments.input} holds none" if arguments.input else ""))
    if len(urls) > 1:
        for name in _ONE_URL_ONLY:
            if getattr(arguments, name) not in (None, []):
                raise InvalidRequest(f"--{name.replace('_', '-')} is for one URL, and {len(urls)} were given")
    if arguments.cacert is not None:
        _check_authorities(arguments.cacert)
    common = {
        "id": arguments.id,
        "headers": tuple(_fields(arguments.header)),
        "secret_headers": tuple(_fields(arguments.secret_header)),
        "header_origins": tuple(arguments.header_origin),
        "destination": _destination(arguments.output, len(urls)),
        "overwrite": arguments.overwrite,
        "expect": _expectations(arguments.expect),
        "expected_length": arguments.expect_length,
        "durability": Durability(arguments.durability),
        "connections": arguments.connections,
        "rate_limit_bytes_s": arguments.limit_rate,
        "line": line_of(arguments),
        "media_types": tuple(arguments.media_type),
        "on_change": OnChange(arguments.on_change),
        "mirrors": tuple(arguments.mirror),
    }
    requests: dict[str, DownloadRequest] = {}
    for url, place in places.items():
        plain = DownloadRequest(url=url, **common)
        for request in requests_of_metalink(plain, arguments) if is_metalink(url) else (plain,):
            entry = _checked(request, place or ("the command line" if len(urls) > 1 else ""))
            requests.setdefault(entry.id, request)  # a URL spelled otherwise, but the same
    return requests


def _checked(request: DownloadRequest, place: str) -> DownloadEntry:
    """``place`` is told beside what is wrong with a URL; without one there is only one URL, and no doubt."""
    try:
        return entry_of(request, DEFAULT_CONFIG, time.time())
    except InvalidRequest as error:
        if not place:
            raise
        raise InvalidRequest(f"{place}: {shown_url(request.url)}: {error}") from error


def _fields(texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Values are not repeated in the error: they may be secret."""
    for text in texts:
        name, colon, value = text.partition(":")
        if not colon:
            raise InvalidRequest("a header is given as 'Name: value'")
        yield name.strip(), value.strip(" \t")


def _expectations(texts: Iterable[str]) -> dict[str, str]:
    expect: dict[str, str] = {}
    for text in texts:
        name, colon, value = text.partition(":")
        algorithm = name.strip().lower()
        if not colon:
            raise InvalidRequest("an expected digest is given as ALGORITHM:HEX")
        if expect.setdefault(algorithm, value.strip().lower()) != value.strip().lower():
            raise InvalidRequest(f"two different {algorithm} digests are expected")
    return expect


def _destination(output: str | None, url_count: int) -> str | None:
    """For many URLs always a folder, also before it exists, so that the same command means the same later."""
    if output is None or url_count == 1 or output.endswith("/"):
        return output
    if os.path.exists(output) and not os.path.isdir(output):
        raise InvalidRequest(f"{output} is a file, and {url_count} URLs need a folder")
    return output + "/"


def _check_authorities(path: str) -> None:
    import ssl  # noqa: PLC0415  # only to try what is seldom given

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError as error:  # ssl.SSLError is one
        raise InvalidRequest(f"the CA file {path} cannot be used: {error.strerror or error}") from error
