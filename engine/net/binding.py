"""Through which interface connections go, and whether they may leave this machine: a property of the work they are made
for, wherever in it they are opened.

A context variable, because an attempt opens connections in many places (the first answer, spans, redirects, mirrors):
each task of it inherits the interface, and no connection of another attempt is ever shared with it (see ``Route``).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import trio

# Asked before work that needs no line leaves this machine: the interface to go through, or a NetworkError raised.
Leave = Callable[[], str]


@dataclass(slots=True)
class _Way:
    interface: str = ""
    leave: Leave | None = None


_way: ContextVar[_Way | None] = ContextVar("way", default=None)


def bound_interface() -> str:
    """The name of the interface that connections of this task go through; empty for any."""
    way = _way.get()
    return "" if way is None else way.interface


def leave_machine() -> None:
    """A connection of this task is about to lead beyond this machine. Raises what the work's ``leave`` does."""
    way = _way.get()
    if way is not None and way.leave is not None:
        way.interface = way.leave()


@contextmanager
def bound_to(interface: str, leave: Leave | None = None) -> Iterator[None]:
    """Connections that the block, and tasks begun in it, open go through this interface; empty for any. ``leave``: of
    work that was let begin as this machine's own affair; it says whether, and how, a connection may lead elsewhere."""
    token = _way.set(_Way(interface, leave))
    try:
        yield
    finally:
        _way.reset(token)


async def open_stream(address: str, port: int) -> trio.SocketStream:
    """A TCP connection to an address (not a name), through the bound interface; this machine itself is reached without
    one. Raises OSError."""
    interface = bound_interface()
    at, _, scope = address.partition("%")
    if not interface or ipaddress.ip_address(at).is_loopback:
        return await trio.open_tcp_stream(address, port)
    version = ipaddress.ip_address(at).version
    sock = trio.socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
        await sock.connect(
            (address, port) if version == 4 or not scope else (at, port, 0, socket.if_nametoindex(interface))
        )
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)
