"""From a host to a connected TCP socket: resolved once, judged by the address policy; only what passed is dialed."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Sequence

import trio

from engine.errors import (
    AddressRefused,
    ConnectRefused,
    ConnectTimeout,
    DnsError,
    NetworkError,
    NoRoute,
    ResolverDown,
    TooManyFiles,
    TransferError,
)
from engine.net.addresses import is_here
from engine.net.binding import leave_machine, open_stream

# Why an address may not be connected to; None when it may.
Judge = Callable[[str], str | None]

# How much later each further address is tried beside the ones before (RFC 8305 section 8; N5).
NEXT_ADDRESS_DELAY_S = 0.25
ADDRESSES_MAX = 16  # a name with more would have us knock at as many doors

# This side ran out of something (N21, N22): not the host's fault.
_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})
_OWN_LIMITS = frozenset({errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
# No network at all, and a host that nobody on its network has heard of: it may be the host's fault.
_NO_NETWORK = frozenset({errno.ENETUNREACH, errno.ENETDOWN})
_NO_ANSWER = frozenset({errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.EHOSTDOWN})


async def connect_tcp(host: str, port: int, judge: Judge, timeout_s: float) -> socket.socket:
    """A connected, non-blocking socket. Raises AddressRefused when ``judge`` lets no address of the host pass,
    DnsError, ConnectRefused, ConnectTimeout, NoRoute; TooManyFiles or NetworkError when this side is out of descriptors
    or ports; MeteredLine or NoRoute for work that may not leave this machine."""
    with trio.move_on_after(timeout_s):
        passed = _passed(host, await _resolve(host, port), judge)
        if not all(map(is_here, passed)):
            leave_machine()
        try:
            stream = await _race(passed, port)
        except OSError as error:
            raise _connect_error(error) from error
        sock = socket.socket(fileno=stream.socket.detach())
        sock.setblocking(False)
        return sock
    raise ConnectTimeout(f"no connection within {timeout_s:g} s")


async def _resolve(host: str, port: int) -> list[str]:
    """The host's addresses as texts, the resolver's preferred one first. A literal is its own, and asks nobody."""
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        kind = ResolverDown if getattr(error, "errno", None) == socket.EAI_AGAIN else DnsError
        raise kind(f"the host name {host} could not be resolved: {_reason(error)}") from error
    except OSError as error:
        raise _connect_error(error) from error
    return [_text(info[4]) for info in found if info[0] in (socket.AF_INET, socket.AF_INET6)]


def _text(address: tuple[str | int | bytes, ...]) -> str:
    """The address of a socket address; a link-local one with its interface, without which it leads nowhere."""
    host = str(address[0])
    scope = address[3] if len(address) > 3 else 0
    return f"{host}%{scope!s}" if scope and "%" not in host else host


def _passed(host: str, addresses: Sequence[str], judge: Judge) -> list[str]:
    """What may be dialed, in the resolver's order, but with the other family second: one that is broken costs a head
    start, not all of them."""
    refusals = {address: judge(address) for address in addresses}
    passed = [address for address, refusal in refusals.items() if refusal is None]
    if not passed:
        why = "; ".join(refusal for refusal in refusals.values() if refusal)
        raise AddressRefused(f"{host} is not connected to: {why or 'it has no address'}")
    first_is_v6 = ":" in passed[0]
    other = next((place for place, address in enumerate(passed) if (":" in address) != first_is_v6), 0)
    if other > 1:
        passed.insert(1, passed.pop(other))
    return passed[:ADDRESSES_MAX]


async def _race(addresses: Sequence[str], port: int) -> trio.SocketStream:
    """The first connection that stands; each address gets a head start before the next one. Raises OSError, with those
    of all attempts as its cause."""
    if len(addresses) == 1:
        return await open_stream(addresses[0], port)
    won: list[trio.SocketStream] = []
    lost: list[OSError] = []
    try:
        async with trio.open_nursery() as nursery:

            async def attempt(address: str, ended: trio.Event) -> None:
                try:
                    won.append(await open_stream(address, port))
                    nursery.cancel_scope.cancel()
                except OSError as error:
                    lost.append(error)
                    ended.set()

            for address in addresses:
                ended = trio.Event()
                nursery.start_soon(attempt, address, ended)
                with trio.move_on_after(NEXT_ADDRESS_DELAY_S):
                    await ended.wait()
    except BaseException:
        _close(won)
        raise
    _close(won[1:])  # two may stand in the same turn of the loop
    if won:
        return won[0]
    raise OSError("no address could be connected to") from ExceptionGroup("attempts", lost)


def _close(streams: Sequence[trio.SocketStream]) -> None:
    for stream in streams:
        stream.socket.close()


def _reason(error: OSError | UnicodeError) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _words(attempt: OSError) -> str:
    """The system's words alone: trio's begin with the address."""
    return os.strerror(attempt.errno) if attempt.errno else str(attempt)


def _attempts(error: BaseException) -> list[OSError]:
    """The attempts that an error stands for; trio groups them as its cause."""
    grouped = error.__cause__ if isinstance(error.__cause__, BaseExceptionGroup) else error
    if isinstance(grouped, BaseExceptionGroup):
        return [attempt for member in grouped.exceptions for attempt in _attempts(member)]
    return [error] if isinstance(error, OSError) else []


def _connect_error(error: OSError) -> TransferError:
    """What the failed attempts to all addresses of a host amount to."""
    attempts = _attempts(error)
    numbers = {attempt.errno for attempt in attempts}
    reasons = "; ".join(sorted({_words(attempt) for attempt in attempts}))
    message = f"no connection: {reasons or error}"
    if numbers & _NO_DESCRIPTORS:
        return TooManyFiles(message)
    if numbers & _OWN_LIMITS:
        return NetworkError(message)
    if numbers and numbers <= _NO_NETWORK:
        return NoRoute(message)
    if numbers and numbers <= _NO_ANSWER | _NO_NETWORK:
        return ConnectTimeout(message)
    return ConnectRefused(message)
