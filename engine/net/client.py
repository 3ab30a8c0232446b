"""GET over the pool: redirects followed by policy, a dead reused connection replaced once, credentials kept at home."""

from __future__ import annotations

import importlib.metadata
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio

from engine.config import Config
from engine.errors import (
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
from engine.net.pool import Pool
from engine.net.redirects import FOLLOWED, Trail
from engine.net.url import Url

# A redirect's own body is read when it is small, so that its connection can be used again; otherwise it costs less to
# close. Nor is it waited for: a server that drips it would hold the request up.
REDIRECT_BODY_BYTES_MAX = 64 * 1024
REDIRECT_BODY_WAIT_S = 1.0

# Errors that are told together with the URL that they happened at.
_OF_A_PLACE = (NetworkError, ProtocolViolation, TlsError, TooManyFiles)


def _user_agent() -> str:
    try:
        return f"offline-engine/{importlib.metadata.version('offline-engine')}"
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "offline-engine"


class Client:
    """Fetches over HTTP/1.1. Close it with :meth:`aclose`; every call after that raises EngineClosed."""

    def __init__(self, config: Config, *, cafile: str | None = None, dialer: Dialer | None = None) -> None:
        self._config = config
        self.pool = Pool(config, dialer or Dialer(config, cafile=cafile))
        self._common = (("User-Agent", _user_agent()), ("Accept", "*/*"), ("Accept-Encoding", "identity"))
        self._closed = False

    @asynccontextmanager
    async def get(
        self,
        url: Url,
        *,
        range: tuple[int, int | None] | None = None,  # noqa: A002  # the field's own name
        fields: Sequence[tuple[str, str]] = (),
        if_range: str | None = None,
    ) -> AsyncIterator[Exchange]:
        """:meth:`open`, released at the end of the block."""
        exchange = await self.open(url, range=range, fields=fields, if_range=if_range)
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
    ) -> Exchange:
        """Ask for ``url``, or its bytes ``range`` = ``[start, end)`` (``end`` None: to the last), and follow redirects.

        ``fields`` are the caller's: sent to the URL's own origin only. ``if_range`` is a strong ETag or a date. The
        answer may have any status but a followed redirect: see :func:`engine.net.response.judge`. Release it. Raises
        InvalidRequest, NetworkError, TlsError, TooManyFiles, ProtocolViolation, BadRedirect, EngineClosed."""
        check_host_fields(fields)
        own = (*self._common, *_range_fields(range, if_range))
        trail = Trail(url, fields, self._config.redirects_max)
        while True:
            exchange = await self._exchange(trail.url, _merge(own, trail.fields))
            if exchange.head.status not in FOLLOWED:
                exchange.permanent_url, exchange.redirected = trail.permanent_url, trail.redirected
                return exchange
            try:
                trail.follow(exchange.head)
                await _drain(exchange)
            finally:
                exchange.release()

    async def aclose(self) -> None:
        """Close all connections, also those in use."""
        self._closed = True
        await self.pool.aclose()

    async def _exchange(self, url: Url, fields: Sequence[tuple[str, str]]) -> Exchange:
        """One request and its answer's head. A reused connection that dies before the first byte of the answer is
        replaced once, by a fresh one: the server closed it while it was idle (N19)."""
        fresh = False
        while True:
            if self._closed:
                raise EngineClosed("the client was closed")
            try:
                connection = await self.pool.acquire(url.origin, fresh=fresh)
            except _OF_A_PLACE as error:
                raise _with_place(error, url) from error
            try:
                head, body = await connection.get(url, fields)
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
