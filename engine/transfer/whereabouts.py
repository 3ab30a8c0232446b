"""Where a source is asked just now: its own URL, the one that the host gave for it, or the one it redirected to.

The URL behind a redirect is kept in memory for a while, so that not every span walks the whole chain. When it is
refused, or is about to expire, the chain is walked again from its start; when the start itself is refused, the host is
asked for another URL. Fetchers that run into it at the same time do it once.
"""

from __future__ import annotations

import logging

import trio
from msgspec.structs import replace

from engine.errors import HttpStatus, NeedsUrl, RefreshFailed, TransferError, WrongType
from engine.model.records import DownloadEntry, Representation
from engine.model.resolve import Resolve
from engine.net.body_digest import BodyDigest
from engine.net.connection import Exchange
from engine.net.fields import strong_etag
from engine.net.media_type import Wanted, check_media_type, names_media
from engine.net.response import SPENT_STATUSES
from engine.net.trust import parse_origin
from engine.net.url import Url
from engine.transfer.refresh import Fields, Place, ask_host
from engine.transfer.services import Services

log = logging.getLogger("engine")

# Access that is refused, though the thing is there.
WITHDRAWN_STATUSES = frozenset({401, 403})

Range = tuple[int, int | None] | None


class Whereabouts:
    """Opens exchanges with one source of an entry. ``wanted``: what kind of thing it should be; ``if_range``: a strong
    ETag that the next range is asked with, once."""

    def __init__(
        self, services: Services, entry: DownloadEntry, url: Url, fields: Fields, *, named: bool = True
    ) -> None:
        self._client = services.client
        self._config = services.config
        self._now = services.now
        self._pacing = services.pacing
        # The host knows its own URL of the entry, not the mirrors of it.
        self._resolver = services.resolver if str(url) == entry.url else None
        self._entry = entry
        self._own = Place.at(url, fields, named=named)
        self._bound = tuple(parse_origin(text) for text in entry.header_origins)
        self._memories = services.memories
        self._memory = services.memories.of(entry.id, self._own)
        self.wanted = Wanted(types=entry.media_types, named=names_media(url))
        self.if_range: str | None = None

    @property
    def current(self) -> Place:
        """Where the next request begins."""
        return self._memory.behind or self._start

    @property
    def _start(self) -> Place:
        return self._memory.given or self._own

    def expect_like(self, before: Representation) -> None:
        """The answers should be of the same kind as this one."""
        self.wanted = replace(self.wanted, before=before.content_type)

    def is_spent(self, error: HttpStatus, *, begun: bool) -> bool:
        """Whether the URL worked once and does not any more: it says itself that it has ended, or its access was
        withdrawn while the download was under way (``begun``)."""
        if error.retryable or error.status not in SPENT_STATUSES:
            return False
        ends_at = self._start.ends_at
        return (begun and error.status in WITHDRAWN_STATUSES) or (ends_at is not None and ends_at <= self._now())

    def needs_url(self, error: HttpStatus) -> NeedsUrl:
        """What to raise then."""
        url = self._start.url.redacted()
        return NeedsUrl(f"{url}: {error}; it worked before, or says that it has ended", status=error.status)

    async def open(self, asked: Range) -> Exchange:
        """Ask for the range, or for the whole with None; from somewhere else when the present place is spent.

        Raises what :meth:`Client.open` raises, CaptivePortal, WrongType, RefreshFailed, NeedsUrl.
        """
        exchange, behind, version = await self._ask_or_walk(asked)
        if exchange.head.status not in SPENT_STATUSES:
            return exchange
        exchange.release()  # its head tells all, and renewing may take a while
        if not await self._renew(behind, version):
            return exchange
        return (await self._ask_or_walk(asked))[0]

    async def _ask_or_walk(self, asked: Range) -> tuple[Exchange, bool, int]:
        """An answer, whether it is of the place behind the redirects, and the memory's version when that was asked.
        While one walks them, others wait for where it comes out: a new walk may make the URL of the one before
        invalid."""
        memory = self._memory
        place = await self._place()
        if place is not memory.behind and memory.redirects and not memory.walks:
            async with memory.walking:
                place = self.current
                if place is not memory.behind:
                    version = memory.version
                    return await self._ask(place, asked), False, version
        behind, version = place is memory.behind, memory.version
        try:
            return await self._ask(place, asked), behind, version
        except WrongType:
            if not behind:
                raise
        version = memory.version  # a spent URL may lead to a page: the walk leads elsewhere
        return await self._ask(self._start, asked), False, version

    async def _place(self) -> Place:
        """The place to ask, renewed ahead of its end."""
        memory = self._memory
        why = self._why_fresh()
        if why is not None:
            await self._refresh_ahead(why)
        behind = memory.behind
        if behind is not None and (trio.current_time() >= memory.behind_until or self._ends_soon(behind)):
            memory.drop_behind()
        return self.current

    def _why_fresh(self) -> Resolve | None:
        memory = self._memory
        if self._resolver is None:
            return None
        if memory.given is None and _lacks_credentials(self._entry, self._own.fields):
            return Resolve.CREDENTIALS
        soon = trio.current_time() < memory.asked_at + self._config.resolve_interval_s
        return None if soon or not self._ends_soon(self._start) else Resolve.EXPIRING

    def _ends_soon(self, place: Place) -> bool:
        return place.ends_at is not None and place.ends_at - self._now() <= self._config.url_expiry_lead_s

    async def _refresh_ahead(self, why: Resolve) -> None:
        try:
            await self._refresh(why, self._memory.version)
        except (RefreshFailed, NeedsUrl) as error:
            ends_at = self._start.ends_at
            if why is not Resolve.EXPIRING or ends_at is None or ends_at <= self._now():
                raise
            log.warning("entry %s: %s; the present URL is used to its end", self._entry.id, error)

    async def _renew(self, behind: bool, version: int) -> bool:
        """The place was refused. Whether there is another to ask now."""
        memory = self._memory
        if not behind:
            return await self._refresh(Resolve.REFUSED, version)
        async with memory.lock:
            if memory.version == version:
                await trio.sleep_until(memory.walked_at + self._config.resolve_interval_s)
                memory.walked_at = trio.current_time()
                memory.drop_behind(spent=True)
            return True

    async def _refresh(self, why: Resolve, version: int) -> bool:
        """Ask the host, unless somebody did since ``version``. Whether there is another place now."""
        memory = self._memory
        if self._resolver is None:
            return memory.version != version
        async with memory.lock:
            if memory.version != version:
                return True
            await trio.sleep_until(memory.asked_at + self._config.resolve_interval_s)
            memory.asked_at = trio.current_time()
            before = self._start
            memory.given = await ask_host(self._resolver, self._entry, why, self._own, self._config)
            if memory.given.asks_like(before):
                return False
            memory.behind, memory.walks = None, False
            memory.version += 1
            return True

    async def _ask(self, place: Place, asked: Range) -> Exchange:
        memory = self._memory
        behind = place is memory.behind
        try:
            exchange = await self._exchange(place, asked)
            try:
                check_media_type(exchange.head, place.url, exchange.url, self.wanted)
            except BaseException:
                exchange.release()
                raise
        except TransferError:
            if place is memory.behind:  # another walk may lead past what failed here
                memory.drop_behind()
            raise
        exchange.digest = BodyDigest.of(exchange.head, exchange.url.redacted())
        status = exchange.head.status
        if behind:
            exchange.redirected = True
            memory.served += status < 400
            if status >= 500 and place is memory.behind:
                memory.drop_behind()
        elif exchange.redirected and status in (200, 206) and not memory.walks and place is self._start:
            memory.behind = Place.at(exchange.url, exchange.sent_fields, named=exchange.named)
            memory.behind_until = trio.current_time() + self._config.redirect_kept_s
            memory.served = 0
            memory.redirects = True
        return exchange

    def note_end(self, exchange: Exchange, host: str) -> None:
        """How the body of an exchange with the source at ``host`` went, for all entries of that: what came with its
        head counts there already, but a server may answer well and then break every body off."""
        enough = exchange.received >= self._config.chunk_bytes
        if exchange.broken:
            if not enough:
                self._client.hosts.body_failed(host, self._entry.id)
        elif exchange.received and (enough or not exchange.body_left):
            self._client.hosts.body_came(host)

    async def _exchange(self, place: Place, asked: Range) -> Exchange:
        if_range = None
        if asked is not None:
            if_range, self.if_range = self.if_range, None
        if if_range is not None and not self._memories.understands_if_range(place.url.origin):
            if_range = None
        url, fields, named = place.url, place.fields, place.named
        home = (url.origin, *self._bound) if self._bound else None
        pace = self._pacing.of(self._entry.id)
        await pace.begin()
        exchange = await self._client.open(url, range=asked, fields=fields, if_range=if_range, home=home, named=named)
        exchange.set_pace(pace)
        if if_range is None or exchange.head.status != 200 or strong_etag(exchange.head.get("etag")) != if_range:
            return exchange
        exchange.release()  # it has what was asked for, and does not understand the question
        self._memories.no_if_range(place.url.origin)
        exchange = await self._client.open(url, range=asked, fields=fields, home=home, named=named)
        exchange.set_pace(pace)
        return exchange


def _lacks_credentials(entry: DownloadEntry, fields: Fields) -> bool:
    return not {name.lower() for name, _ in fields}.issuperset(entry.secret_header_names)
