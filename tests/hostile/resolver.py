"""Names without a resolver: answered at once, in this task, so that a jumping clock cannot come between."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import trio

LOCAL = "localhost"  # a name by which the caller may mean this machine
FOREIGN = "media.test"


class Resolver(trio.abc.HostnameResolver):
    """Knows one name."""

    def __init__(self, name: str, addresses: list[str], error: int) -> None:
        self._name = name
        self._addresses = addresses
        self._error = error

    async def getaddrinfo(  # type: ignore[no-untyped-def]
        self,
        host,
        port,
        family=0,
        type=0,  # noqa: A002
        proto=0,
        flags=0,
    ):
        await trio.lowlevel.checkpoint()
        if self._error:
            raise socket.gaierror(self._error, "so it is")
        found = [*self._addresses] if (host.decode() if isinstance(host, bytes) else host) == self._name else [host]
        infos = [socket.getaddrinfo(each, port, family, type, proto, flags | socket.AI_NUMERICHOST) for each in found]
        return [info for each in infos for info in each]

    async def getnameinfo(self, sockaddr, flags):  # type: ignore[no-untyped-def]
        raise NotImplementedError


def named(name: str, *addresses: str, error: int = 0) -> Callable[[str], AbstractContextManager[str]]:
    """The host is called by a name, which is answered with these addresses or this error."""

    @contextmanager
    def line(base: str) -> Iterator[str]:
        before = trio.socket.set_custom_hostname_resolver(Resolver(name, list(addresses), error))
        try:
            yield base.replace("127.0.0.1", name)
        finally:
            trio.socket.set_custom_hostname_resolver(before)

    return line
