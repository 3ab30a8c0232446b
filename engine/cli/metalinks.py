"""Metalinks among what is to be fetched: a file, or a URL whose document is fetched first."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from engine.errors import InvalidRequest

if TYPE_CHECKING:  # with all that fetching needs: only when there is one
    from engine.model.records import DownloadRequest
    from engine.net.trust import Trust

SUFFIX = ".meta4"
_REMOTE = ("http://", "https://")


def is_metalink(text: str) -> bool:
    """Whether the argument stands for a Metalink, by its name."""
    path = text.partition("#")[0].partition("?")[0] if text.lower().startswith(_REMOTE) else text
    return path.lower().endswith(SUFFIX)


def requests_of_metalink(template: DownloadRequest, arguments: argparse.Namespace) -> tuple[DownloadRequest, ...]:
    """The requests that the document at ``template.url`` (a URL, or a file's path) stands for. Raises InvalidRequest,
    and what fetching it raises."""
    from engine.cli.trusting import trust_of  # noqa: PLC0415
    from engine.media.metalink import requests_from_metalink  # noqa: PLC0415

    if template.mirrors:
        raise InvalidRequest("a Metalink names its mirrors itself: --mirror is for a plain URL")
    if template.url.lower().startswith(_REMOTE):
        document = _fetched(template, trust_of(arguments))
        return requests_from_metalink(document, template=template, source=template.url)
    return requests_from_metalink(_read(template.url), template=template)


def _read(path: str) -> bytes:
    from engine.media.metalink import DOCUMENT_BYTES_MAX  # noqa: PLC0415

    try:
        with open(path, "rb") as file:
            return file.read(DOCUMENT_BYTES_MAX + 1)
    except OSError as error:
        raise InvalidRequest(f"cannot read the Metalink {path}: {error.strerror or error}") from error


def _fetched(template: DownloadRequest, trust: Trust) -> bytes:
    import trio  # noqa: PLC0415

    from engine.config import DEFAULT_CONFIG  # noqa: PLC0415
    from engine.media.metalink import DOCUMENT_BYTES_MAX  # noqa: PLC0415
    from engine.net.client import Client  # noqa: PLC0415
    from engine.net.response import judge  # noqa: PLC0415
    from engine.net.url import parse_url  # noqa: PLC0415

    async def fetch() -> bytes:
        client = Client(DEFAULT_CONFIG, trust=trust)
        try:
            fields = template.headers + template.secret_headers
            async with client.get(parse_url(template.url), fields=fields) as exchange:
                judge(exchange.head, None, None)
                room = bytearray(DOCUMENT_BYTES_MAX + 1)
                with memoryview(room) as view:
                    return bytes(view[: await exchange.fill(view)])
        finally:
            await client.aclose()

    return trio.run(fetch)
