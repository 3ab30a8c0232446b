"""The document of a Metalink, fetched over the line that its files may use, and at their hours: it waits as they do."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec
import trio

from engine.config import DEFAULT_CONFIG
from engine.errors import MeteredLine, NetworkError, Stalled, sole_error
from engine.media.metalink import DOCUMENT_BYTES_MAX
from engine.model.line_policy import ANY_LINE, LinePolicy
from engine.model.lines import Line
from engine.model.records import DownloadRequest
from engine.net.binding import bound_to
from engine.net.client import Client
from engine.net.connection import Exchange
from engine.net.response import judge
from engine.net.trust import Trust, parse_origin
from engine.net.url import Url, parse_url
from engine.network.monitor import NetworkMonitor
from engine.opening import gate_of

# From asking to the last byte: the timeouts of single reads let a server drip 8 MiB for years. A line of 14 KiB/s
# brings them within it.
DOCUMENT_WITHIN_S: Final = 600.0


class Fetched(NamedTuple):
    """A document as it came (of one that is too long, more than ``DOCUMENT_BYTES_MAX`` bytes), and ``url``: from where
    in the end. ``named``: that is still the caller's word; ``at_home``: no redirect on the way left the origins that
    his header fields are for."""

    content: bytes
    url: Url
    named: bool
    at_home: bool


class _Document(msgspec.Struct, frozen=True):
    """What the gate wants to know of an entry."""

    sources: tuple[str, ...]
    line: LinePolicy
    id: str = ""
    bytes_total: int | None = None
    expected_length: int | None = None


class MetalinkFetch:
    """One fetch, of ``template.url``. ``waits`` is told what the line keeps it waiting for, whenever that changed.
    Raises InvalidRequest for what can never work."""

    def __init__(self, template: DownloadRequest, trust: Trust, waits: Callable[[str], None]) -> None:
        template.line.check()
        self._url = parse_url(template.url)
        self._template = template
        self._trust = trust
        self._waits = waits
        self._document = _Document((str(self._url),), template.line)
        self._gate = gate_of(DEFAULT_CONFIG, ANY_LINE, random.Random())  # noqa: S311  # jitter
        self._changed = trio.Event()
        self._told = ""

    async def run(self, monitor: NetworkMonitor) -> Fetched:
        """The document. Raises Stalled when it is not here within ``DOCUMENT_WITHIN_S``, not counting what it waits for
        the line, and what :meth:`Client.open` and :func:`judge` raise."""
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(monitor.follow, self._tell)
                while (document := await self._begin()) is None:
                    continue
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            error = sole_error(group)
            raise error from error.__cause__
        return document

    def _tell(self, line: Line) -> None:
        self._gate.update(line)
        self._changed.set()

    async def _begin(self) -> Fetched | None:
        """Wait for the line, and fetch; None when the line has to be waited for again."""
        await self._turn()
        document: Fetched | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_when_held, nursery.cancel_scope)
            document = await self._try()
            nursery.cancel_scope.cancel()
        return document

    async def _turn(self) -> None:
        while not (verdict := self._gate.held(self._document)).allowed:
            known = self._gate.line.metered is not None  # until then there is more to come at once
            if known and verdict.why != self._told:
                self._told = verdict.why
                self._waits(verdict.why)
            await self._change()

    async def _change(self) -> None:
        """The line, or the time, is another one."""
        with trio.move_on_after(self._gate.next_look_s()):
            await self._changed.wait()
        self._changed = trio.Event()
        self._gate.look()

    async def _end_when_held(self, scope: trio.CancelScope) -> None:
        while self._gate.held(self._document).allowed:
            await self._change()
        scope.cancel()

    async def _try(self) -> Fetched | None:
        """The document; None when what went wrong is the line's doing."""
        interface, leave = self._gate.held(self._document).interface, self._gate.leave_of(self._document)
        try:
            with bound_to(interface, leave), trio.move_on_after(DOCUMENT_WITHIN_S):
                return await self._ask()
            raise Stalled(f"{self._url.redacted()}: the Metalink was not here within {DOCUMENT_WITHIN_S:g} s")
        except NetworkError:
            if self._gate.held(self._document).allowed:
                raise
            return None

    async def _ask(self) -> Fetched:
        client = Client(DEFAULT_CONFIG, trust=self._trust)
        template = self._template
        fields = template.headers + template.secret_headers
        home = (self._url.origin, *map(parse_origin, template.header_origins))
        try:
            async with client.get(self._url, fields=fields, home=home, named=template.named) as exchange:
                judge(exchange.head, None, None)
                self._admit(exchange.body_left)
                content = await _content(exchange)
                return Fetched(content, exchange.url, exchange.named, exchange.sent_fields == fields)
        finally:
            await client.aclose()

    def _admit(self, length: int | None) -> None:
        """A metered line may be for small files only."""
        self._gate.learn(self._document, float("inf") if length is None else length)
        verdict = self._gate.held(self._document)
        if not verdict.allowed:
            raise MeteredLine(f"the Metalink waits {verdict.why}")


async def _content(exchange: Exchange) -> bytes:
    room = bytearray(DOCUMENT_BYTES_MAX + 1)
    with memoryview(room) as view:
        return bytes(view[: await exchange.fill(view)])
