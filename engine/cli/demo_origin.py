"""A small HTTP/1.1 origin on loopback for the demo: files with ranges, ETag and keep-alive, sent by ``sendfile``.

Not a server for anything else: it believes its client to be the engine, and serves only the files it is given.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self

HEAD_BYTES_MAX: Final = 16 * 1024
STEP_BYTES: Final = 128 * 1024  # sent at once while the rate is limited, so that it is even
SEND_BUFFER_BYTES: Final = 256 * 1024  # what the kernel may hold unsent: it counts as sent here
_RANGE = re.compile(r"bytes=([0-9]{1,18})-([0-9]{0,18})", re.ASCII)


class DemoOrigin:
    """Serves ``files`` (URL path to file) from entering its ``with`` block to leaving it.

    ``bytes_per_s``: how fast all connections together may send; None is as fast as it goes. May be changed at any time.
    """

    def __init__(self, files: Mapping[str, str], *, bytes_per_s: float | None = None) -> None:
        self._files = dict(files)
        self.bytes_per_s = bytes_per_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._changed = threading.Condition()
        self._connections: dict[threading.Thread, socket.socket] = {}
        self._sent = 0
        self._next_step_at = 0.0
        self._closing = threading.Event()
        self._acceptor = threading.Thread(target=self._accept, name="demo origin", daemon=True)

    def __enter__(self) -> Self:
        self._acceptor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept(); close() alone does not
        self._acceptor.join()
        self._listener.close()
        self.hang_up()

    @property
    def port(self) -> int:
        """The TCP port."""
        return int(self._listener.getsockname()[1])

    @property
    def sent(self) -> int:
        """Body bytes given to the kernel so far, over all connections."""
        with self._changed:
            return self._sent

    def url(self, path: str) -> str:
        """The URL of one of the files."""
        return f"http://127.0.0.1:{self.port}{path}"

    def wait_sent(self, count: int, timeout_s: float) -> bool:
        """Wait until ``count`` body bytes were sent in all; False when that took longer."""
        with self._changed:
            return self._changed.wait_for(lambda: self._sent >= count, timeout_s)

    def hang_up(self) -> None:
        """End all connections and wait until nothing is sent any more."""
        with self._changed:
            connections = dict(self._connections)
        for thread, connection in connections.items():
            with contextlib.suppress(OSError):  # its peer may have ended it already
                connection.shutdown(socket.SHUT_RDWR)
            thread.join()

    def prepare(self, connection: socket.socket) -> socket.socket:
        """A new connection, as it is served. A seam: TLS may begin here."""
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        return connection

    def send_file(self, connection: socket.socket, fd: int, offset: int, count: int) -> int:
        """Send some of the file and return how much."""
        return os.sendfile(connection.fileno(), fd, offset, count)

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed
            thread = threading.Thread(target=self._serve, args=(connection,), name="demo connection", daemon=True)
            with self._changed:
                self._connections[thread] = connection
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            # The engine may be killed, or leave, at any moment: then the connection just ends.
            with contextlib.suppress(OSError), self.prepare(connection) as prepared:
                with self._changed:
                    self._connections[threading.current_thread()] = prepared
                while head := _read_head(prepared):
                    self.answer(prepared, head)
        finally:
            connection.close()
            with self._changed:
                del self._connections[threading.current_thread()]

    def answer(self, connection: socket.socket, head: str) -> None:
        """Answer one request. A seam: a test may look at the head, or answer otherwise."""
        request, *lines = head.split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        path = self._files.get(request.split(" ")[1].partition("?")[0])
        if path is None:
            connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            info = os.fstat(fd)
            etag = f'"{info.st_ino:x}-{info.st_mtime_ns:x}-{info.st_size:x}"'
            asked = fields.get("range", "") if fields.get("if-range", etag) == etag else ""
            answer, start, end = _head_of_answer(asked, info.st_size, etag)
            connection.sendall(answer)
            if not request.startswith("HEAD "):
                self._send(connection, fd, start, end)
        finally:
            os.close(fd)

    def _send(self, connection: socket.socket, fd: int, start: int, end: int) -> None:
        while start < end:
            count = end - start
            if self.bytes_per_s is not None:
                count = min(count, STEP_BYTES)
                self._wait_turn(count, self.bytes_per_s)
            sent = self.send_file(connection, fd, start, count)
            start += sent
            with self._changed:
                self._sent += sent
                self._changed.notify_all()

    def _wait_turn(self, count: int, bytes_per_s: float) -> None:
        """Until the rate allows ``count`` more bytes; each step of any connection takes its place in one line."""
        with self._changed:
            now = time.monotonic()
            turn = max(now, self._next_step_at)
            self._next_step_at = turn + count / bytes_per_s
        self._closing.wait(turn - now)


def _read_head(connection: socket.socket) -> str:
    """The next request's head without its blank line; empty when the client is done."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(HEAD_BYTES_MAX)
        data += more
        if not more or len(data) > HEAD_BYTES_MAX:
            return ""
    return data.partition(b"\r\n\r\n")[0].decode("latin-1")


def _head_of_answer(asked: str, length: int, etag: str) -> tuple[bytes, int, int]:
    """The head, and the bytes ``[start, end)`` to send after it."""
    status, extra, start, end = "200 OK", "", 0, length
    match = _RANGE.fullmatch(asked)
    if match is not None:
        start = int(match[1])
        end = min(length, int(match[2]) + 1) if match[2] else length
        if start >= length or start >= end:
            status, extra, start, end = "416 Range Not Satisfiable", f"Content-Range: bytes */{length}\r\n", 0, 0
        else:
            status, extra = "206 Partial Content", f"Content-Range: bytes {start}-{end - 1}/{length}\r\n"
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/octet-stream\r\nAccept-Ranges: bytes\r\n"
        f"ETag: {etag}\r\nContent-Length: {end - start}\r\n{extra}\r\n"
    )
    return head.encode("latin-1"), start, end
