"""A real HTTP proxy on loopback: passes plain requests on, tunnels for CONNECT, asks for credentials when told to."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field

import trio

from tests.support.origin import read_request


@dataclass
class TestProxy:
    """What a test sees of the proxy. ``heads``: every request head as it came to the proxy itself."""

    __test__ = False  # not a test class for pytest

    port: int
    heads: list[bytes] = field(default_factory=list)
    connections: int = 0

    @property
    def url(self) -> str:
        """To be given to an engine."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def request_lines(self) -> list[str]:
        """``CONNECT host:port HTTP/1.1`` …"""
        return [head.split(b"\r\n", 1)[0].decode("ascii") for head in self.heads]


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """``authorization``: the value without which it answers 407. ``answer``: what it says to a CONNECT, in place of
    connecting; ``silent``: says nothing at all. ``surplus``: bytes behind its 200. ``elsewhere``: host and port that
    everything is passed on to, whatever was asked for: how a name without an address is reached."""

    authorization: str = ""
    answer: bytes = b""
    silent: bool = False
    surplus: bytes = b""
    elsewhere: tuple[str, int] | None = None


@asynccontextmanager
async def run_proxy(behaviour: Behaviour | None = None) -> AsyncIterator[TestProxy]:
    """Until the block ends."""
    listener = trio.socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    await listener.bind(("127.0.0.1", 0))
    listener.listen(64)
    proxy = TestProxy(listener.getsockname()[1])
    with listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_accept, listener, nursery, proxy, behaviour or Behaviour())
            yield proxy
            nursery.cancel_scope.cancel()


async def _accept(
    listener: trio.socket.SocketType, nursery: trio.Nursery, proxy: TestProxy, behaviour: Behaviour
) -> None:
    while True:
        sock, _ = await listener.accept()
        proxy.connections += 1
        nursery.start_soon(_serve, trio.SocketStream(sock), proxy, behaviour)


async def _serve(client: trio.SocketStream, proxy: TestProxy, behaviour: Behaviour) -> None:
    """Requests of one client until one becomes a tunnel, or it leaves."""
    async with client:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # either side leaves when it likes
            while (head := await read_request(client)) is not None:
                proxy.heads.append(head)
                if behaviour.silent:
                    await trio.sleep_forever()
                method, target, _ = head.split(b"\r\n", 1)[0].decode("ascii").split(" ")
                if behaviour.authorization and _field(head, b"proxy-authorization") != behaviour.authorization.encode():
                    await client.send_all(
                        b"HTTP/1.1 407 Proxy Authentication Required\r\n"
                        b"Proxy-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n"
                    )
                elif method == "CONNECT":
                    await _tunnel(client, target, behaviour)
                    return
                else:
                    await _pass_on(client, head, target, behaviour)


async def _tunnel(client: trio.SocketStream, target: str, behaviour: Behaviour) -> None:
    if behaviour.answer:
        await client.send_all(behaviour.answer)
        await client.receive_some(1)
        return
    host, _, port = target.rpartition(":")
    try:
        origin = await trio.open_tcp_stream(*(behaviour.elsewhere or (host.strip("[]"), int(port))))
    except OSError:
        await client.send_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
        return
    async with origin, trio.open_nursery() as nursery:
        await client.send_all(b"HTTP/1.1 200 Connection established\r\n\r\n" + behaviour.surplus)
        nursery.start_soon(_pump, client, origin, nursery)
        nursery.start_soon(_pump, origin, client, nursery)


async def _pump(source: trio.SocketStream, sink: trio.SocketStream, nursery: trio.Nursery) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async for data in source:
            await sink.send_all(data)
    nursery.cancel_scope.cancel()


async def _pass_on(client: trio.SocketStream, head: bytes, target: str, behaviour: Behaviour) -> None:
    """One request in absolute form, to the origin in origin form and without the proxy's fields; the connection ends
    with the answer."""
    authority, _, path = target.removeprefix("http://").partition("/")
    host, _, port = authority.partition(":")
    lines = [line for line in head.split(b"\r\n")[1:-2] if not line.lower().startswith((b"proxy-", b"connection"))]
    request = b"\r\n".join([f"GET /{path} HTTP/1.1".encode(), *lines, b"Connection: close"]) + b"\r\n\r\n"
    async with await trio.open_tcp_stream(*(behaviour.elsewhere or (host, int(port or 80)))) as origin:
        await origin.send_all(request)
        async for data in origin:
            await client.send_all(data)
    await client.aclose()


def _field(head: bytes, name: bytes) -> bytes:
    fields: Sequence[bytes] = head.split(b"\r\n")[1:-2]
    return next(
        (value.strip() for key, _, value in (line.partition(b":") for line in fields) if key.lower() == name), b""
    )


@contextmanager
def proxy_in_thread(behaviour: Behaviour | None = None) -> Iterator[TestProxy]:
    """The same, for who has no event loop."""
    started: queue.SimpleQueue[tuple[TestProxy, trio.lowlevel.TrioToken, trio.Event]] = queue.SimpleQueue()

    async def serve() -> None:
        async with run_proxy(behaviour) as proxy:
            stop = trio.Event()
            started.put((proxy, trio.lowlevel.current_trio_token(), stop))
            await stop.wait()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    proxy, token, stop = started.get(timeout=30)
    try:
        yield proxy
    finally:
        trio.from_thread.run_sync(stop.set, trio_token=token)
        thread.join()
