"""Metalinks among what is to be fetched: a file, or a URL whose document is fetched first, over the line that its files
may use."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from engine.errors import InvalidRequest

if TYPE_CHECKING:  # with all that fetching needs: only when there is one
    from engine.cli.metalink_fetch import Fetched
    from engine.model.records import DownloadRequest

SUFFIX = ".meta4"
_REMOTE = ("http://", "https://")


def is_metalink(text: str) -> bool:
    """Whether the argument stands for a Metalink, by its name."""
    path = text.partition("#")[0].partition("?")[0] if text.lower().startswith(_REMOTE) else text
    return path.lower().endswith(SUFFIX)


def requests_of_metalink(template: DownloadRequest, arguments: argparse.Namespace) -> tuple[DownloadRequest, ...]:
    """The requests that the document at ``template.url`` (a URL, or a file's path) stands for. Raises InvalidRequest,
    and what fetching it raises; KeyboardInterrupt when a signal ended that."""
    from engine.media.metalink import requests_from_metalink  # noqa: PLC0415

    if template.mirrors:
        raise InvalidRequest("a Metalink names its mirrors itself: --mirror is for a plain URL")
    if template.url.lower().startswith(_REMOTE):
        fetched = _fetched(template, arguments)
        common, source = _with_whom(template, fetched)
        return requests_from_metalink(fetched.content, template=common, source=source)
    return requests_from_metalink(_read(template.url), template=template)


def _read(path: str) -> bytes:
    from engine.media.metalink import DOCUMENT_BYTES_MAX  # noqa: PLC0415

    try:
        with open(path, "rb") as file:
            return file.read(DOCUMENT_BYTES_MAX + 1)
    except OSError as error:
        raise InvalidRequest(f"cannot read the Metalink {path}: {error.strerror or error}") from error


def _with_whom(template: DownloadRequest, fetched: Fetched) -> tuple[DownloadRequest, str | None]:
    """What the files have in common, and whose word the document is: a redirect off its origin makes it a stranger's,
    who may neither name addresses nor choose what header fields are used for at the origin that redirected to him."""
    from msgspec.structs import replace  # noqa: PLC0415

    if not fetched.at_home and not template.header_origins:
        to = fetched.url.origin
        raise InvalidRequest(
            f"the Metalink is redirected to {to}: name with --header-origin whom header fields are for"
        )
    common = replace(template, named=template.named and fetched.named)
    return common, template.url if fetched.at_home else None


def _fetched(template: DownloadRequest, arguments: argparse.Namespace) -> Fetched:
    import trio  # noqa: PLC0415

    from engine.cli.console import warn  # noqa: PLC0415
    from engine.cli.interrupt import until_interrupted  # noqa: PLC0415
    from engine.cli.metalink_fetch import MetalinkFetch  # noqa: PLC0415
    from engine.cli.text import shown_url  # noqa: PLC0415
    from engine.cli.trusting import trust_of  # noqa: PLC0415
    from engine.network.auto import AutoMonitor  # noqa: PLC0415

    def waits(why: str) -> None:
        if not arguments.no_progress:
            warn(f"waiting {why}: {shown_url(template.url)}")

    trust = trust_of(arguments)
    found: list[Fetched] = []

    async def fetch() -> None:
        found.append(await MetalinkFetch(template, trust, waits).run(AutoMonitor()))

    if trio.run(until_interrupted, fetch):
        raise KeyboardInterrupt
    return found[0]
