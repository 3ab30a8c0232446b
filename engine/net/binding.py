"""Through which interface connections go: a property of the work they are made for, wherever in it they are opened.

A context variable, because an attempt opens connections in many places (the first answer, spans, redirects, mirrors):
each task of it inherits the interface, and no connection of another attempt is ever shared with it (see ``Route``).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import trio

_interface: ContextVar[str] = ContextVar("interface", default="")


def bound_interface() -> str:
    """The name of the interface that connections of this task go through; empty for any."""
    return _interface.get()


@contextmanager
def bound_to(interface: str) -> Iterator[None]:
    """Connections that the block, and tasks begun in it, open go through this interface; empty for any."""
    token = _interface.set(interface)
    try:
        yield
    finally:
        _interface.reset(token)


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
