"""GET over the pool: redirects followed by policy, a dead reused connection replaced once, credentials kept at home."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import trio

from engine.config import Config
from engine.errors import (
    AddressRefused,
    ConnectionLost,
    EngineClosed,
    InvalidRequest,
    NetworkError,
    ProtocolViolation,
    TlsError,
    TooManyFiles,
    TransferError,
)
from engine.net.connection import Exchange
from engine.net.dialer import Dialer
from engine.net.fields import check_host_fields
from engine.net.head import Framing
from engine.net.hosts import REFUSALS, Hosts
from engine.net.logins import Logins
from engine.net.pool import Pool
from engine.net.proxy import check_proxy_status
from engine.net.redirects import FOLLOWED, Trail
from engine.net.response import retry_after
from engine.net.trust import DEFAULT_TRUST, Trust
from engine.net.url import FOREIGN_PORTS, Origin, Url
from engine.version import __version__

# A redirect's own body is read when it is small, so that its connection can be used again; otherwise it costs less to
# close. Nor is it waited for: a server that drips it would hold the request up.
REDIRECT_BODY_BYTES_MAX = 64 * 1024
REDIRECT_BODY_WAIT_S = 1.0

# Errors that are told together with the URL that they happened at.
_OF_A_PLACE = (NetworkError, ProtocolViolation, TlsError, TooManyFiles)


class Client:
    """Fetches over HTTP/1.1. ``cafile`` counts before the one of ``trust``. Close it with :meth:`aclose`; every call
    after that raises EngineClosed. Raises InvalidRequest for a proxy or netrc file that cannot be used."""

    def __init__(
        self,
        config: Config,
        *,
        cafile: str | None = None,
        trust: Trust = DEFAULT_TRUST,
        dialer: Dialer | None = None,
    ) -> None:
        self._config = config
        if cafile is not None:
            trust = replace(trust, cafile=cafile)
        self.hosts = Hosts(config)
        self._logins = Logins(trust.netrc)
        self.pool = Pool(config, dialer or Dialer(config, trust))
        self._common = (
            ("User-Agent", f"offline-engine/{__version__}"),
            ("Accept", "*/*"),
            ("Accept-Encoding", "identity"),
        )
        self._closed = False

    @asynccontextmanager
    async def get(
        self,
        url: Url,
        *,
        range: tuple[int, int | None] | None = None,  # noqa: A002  # the field's own name
        fields: Sequence[tuple[str, str]] = (),
        if_range: str | None = None,
        home: Collection[Origin] | None = None,
        named: bool = True,
    ) -> AsyncIterator[Exchange]:
        """:meth:`open`, released at the end of the block."""
        exchange = await self.open(url, range=range, fields=fields, if_range=if_range, home=home, named=named)
        try:
            yield exchange
        finally:
            exchange.release()

    async def open(
        self,
        url: Url,
        *,
        range: tuple[int, int | None] | None = None,  # noqa: A002  # the field's own name
        fields: Sequence[tuple[str, str]] = (),
        if_range: str | None = None,
        home: Collection[Origin] | None = None,
        named: bool = True,
    ) -> Exchange:
        """Ask for ``url``, or its bytes ``range`` = ``[start, end)`` (``end`` None: to the last), and follow redirects.

        ``fields`` are the caller's: sent to the origins of ``home`` only (None: the URL's own). ``if_range`` is a
        strong ETag or a date. ``named``: the caller of the engine wrote the URL himself, so that an address in it is
        his word; False for what a server, a manifest or a list of mirrors named. The answer may have any status but a
        followed redirect: see :func:`engine.net.response.judge`. Release it. Raises InvalidRequest, NetworkError,
        TlsError, TooManyFiles, ProtocolViolation, BadRedirect, AddressRefused, EngineClosed."""
        check_host_fields(fields)
        if not named and url.port in FOREIGN_PORTS:
            raise AddressRefused(f"{url.redacted()}: port {url.port} belongs to another protocol", by_server=True)
        own = (*self._common, *_range_fields(range, if_range))
        trail = Trail(url, fields, self._config.redirects_max, home=home, named=named)
        login = self._login(url, fields) if self._logins else ()
        while True:
            given = (*trail.fields, *login) if trail.named else trail.fields
            exchange = await self._exchange(trail.url, _merge(own, given), trail.named)
            if exchange.head.status not in FOLLOWED:
                exchange.permanent_url, exchange.redirected = trail.permanent_url, trail.redirected
                exchange.sent_fields, exchange.named = trail.fields, trail.named
                return exchange
            try:
                trail.follow(exchange.head)
                await _drain(exchange)
            finally:
                exchange.release()

    def note_loss(self, host: str) -> None:
        """A connection to the host broke in the middle of a body: several in a row are a refusal."""
        self.hosts.lost(host, self.pool.borrowed(host))

    async def aclose(self) -> None:
        """Close all connections, also those in use."""
        self._closed = True
        await self.pool.aclose()

    def _login(self, url: Url, fields: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        """What the netrc file has for the URL that the caller named, unless he gave credentials himself."""
        given = any(name.lower() == "authorization" for name, _ in fields)
        return () if given else self._logins.fields_for(url.origin)

    async def _exchange(self, url: Url, fields: Sequence[tuple[str, str]], named: bool) -> Exchange:
        """:meth:`_ask`, of a host that does not rest; how it went counts for all its entries."""
        host = url.origin.host
        await self.hosts.enter(host)
        try:
            exchange = await self._ask(url, fields, named)
        except BaseException as error:
            self.hosts.failed(host, error, self.pool.borrowed)
            raise
        head = exchange.head
        rest_s = retry_after(head, self._config) if head.status in REFUSALS else None
        self.hosts.answered(host, head.status, rest_s, self.pool.borrowed)
        return exchange

    async def _ask(self, url: Url, fields: Sequence[tuple[str, str]], named: bool) -> Exchange:
        """One request and its answer's head. A reused connection that dies before the first byte of the answer is
        replaced once, by a fresh one: the server closed it while it was idle (N19)."""
        fresh = False
        while True:
            if self._closed:
                raise EngineClosed("the client was closed")
            try:
                connection = await self.pool.acquire(url.origin, fresh=fresh, named=named)
            except AddressRefused as error:
                raise AddressRefused(f"{url.redacted()}: {error}", by_server=not named) from error
            except _OF_A_PLACE as error:
                raise _with_place(error, url) from error
            try:
                head, body = await connection.get(url, fields)
                if connection.proxy is not None:
                    check_proxy_status(head.status, connection.proxy)
            except BaseException as error:
                connection.close()
                self.pool.release(connection, False)
                if isinstance(error, ConnectionLost) and connection.reused and not connection.answered:
                    fresh = True
                    continue
                if isinstance(error, _OF_A_PLACE):
                    raise _with_place(error, url) from error
                raise
            return Exchange(connection, head, body, url, self.pool.release)


def _with_place(error: TransferError, url: Url) -> TransferError:
    return type(error)(f"{url.redacted()}: {error}", status=error.status)


def _range_fields(asked: tuple[int, int | None] | None, if_range: str | None) -> tuple[tuple[str, str], ...]:
    if asked is None:
        if if_range is not None:
            raise InvalidRequest("if_range needs a range")
        return ()
    start, end = asked
    if start < 0 or (end is not None and end <= start):
        raise InvalidRequest(f"the range {asked} holds no byte")
    value = f"bytes={start}-" if end is None else f"bytes={start}-{end - 1}"
    return (("Range", value),) if if_range is None else (("Range", value), ("If-Range", if_range))


def _merge(own: Sequence[tuple[str, str]], given: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The engine's fields and the caller's; a caller's User-Agent or Accept takes the place of the engine's."""
    names = {name.lower() for name, _ in given}
    return [*(field for field in own if field[0].lower() not in names), *given]


async def _drain(exchange: Exchange) -> None:
    left = exchange.body_left
    if exchange.framing is not Framing.LENGTH or left is None or left > REDIRECT_BODY_BYTES_MAX:
        return
    with trio.move_on_after(REDIRECT_BODY_WAIT_S):
        try:
            await exchange.fill(memoryview(bytearray(left)))
        except NetworkError:
            return  # the redirect itself was complete; only its connection is lost
