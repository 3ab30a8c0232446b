"""``get`` and what a source may turn out to have: another version, another kind of thing, a URL that is spent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.cli.support import Said

Cli = Callable[..., Said]
BODY = bytes(range(256)) * 20_000
ETAG = '"v1"'


class Handler(BaseHTTPRequestHandler):
    """The body in ranges; ``good`` requests of it, then ``status``. ``/page`` is one."""

    protocol_version = "HTTP/1.1"
    good = 10**9
    status = 403
    etag = ETAG

    def do_GET(self) -> None:
        kind = type(self)
        page = self.path.startswith("/page")
        kind.good -= 1
        if not page and kind.good < 0 and "key=2" not in self.path:
            self._send(kind.status, b"", [])
            return
        body = b"<html></html>" if page else BODY
        start, end = 0, len(body)
        if asked := self.headers.get("Range"):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), min(len(body), int(last) + 1 if last else len(body))
        self._send(
            206 if asked else 200,
            body[start:end],
            [
                ("ETag", kind.etag),
                ("Content-Type", "text/html" if page else "video/mp4"),
                ("Content-Range", f"bytes {start}-{end - 1}/{len(body)}"),
            ],
        )

    def _send(self, status: int, body: bytes, fields: list[tuple[str, str]]) -> None:
        self.send_response(status)
        for name, value in [*fields, ("Content-Length", str(len(body)))]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


@contextmanager
def serving() -> Iterator[tuple[type[Handler], str]]:
    class Own(Handler):
        pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Own) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield Own, f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_a_new_url_for_the_same_id_goes_on_from_the_bytes_so_far(cli: Cli, root: Path) -> None:
    """S36, as the README tells it."""
    with serving() as (handler, base):
        handler.good = 1
        said = cli("get", "--json", "--id", "film", f"{base}/film.mp4?key=1&sig=SECRET")
        told = said.object
        assert (said.code, told["state"], told["error"]["code"]) == (1, "paused", "needs_url")
        assert "SECRET" not in told["error"]["message"] + said.err
        shown = cli("show", "film").out
        assert "needs_url" in shown
        assert "another URL" in shown
        again = cli("get", "--json", "--id", "film", f"{base}/film.mp4?key=2").object
    assert again["state"] == "completed"
    assert again["bytes_resumed"] > 0
    assert again["bytes_resumed"] + again["bytes_fetched"] == len(BODY)
    assert (root / "files" / "film.mp4").read_bytes() == BODY


def test_run_leaves_what_needs_a_url(cli: Cli) -> None:
    with serving() as (handler, base):
        handler.good = 1
        cli("get", "--id", "film", f"{base}/film.mp4")
        said = cli("run")
    assert (said.code, said.out) == (0, "")


def test_on_change(cli: Cli) -> None:
    with serving() as (handler, base):
        handler.good, handler.status = 1, 404
        assert cli("get", "--id", "film", f"{base}/film.mp4").code == 1
        handler.good, handler.etag = 10**9, '"v2"'
        told = cli("get", "--json", "--id", "film", "--on-change", "fail", f"{base}/film.mp4").object
        assert told["error"]["code"] == "change_refused"
        assert cli("show", "film", "--json").object["on_change"] == "fail"
        assert cli("get", "--json", "--id", "film", f"{base}/film.mp4").object["state"] == "completed"


def test_media_types(cli: Cli) -> None:
    with serving() as (_, base):
        assert cli("get", f"{base}/page").code == 0
        wrong = cli("get", "--json", "--media-type", "video/*", "--media-type", "audio/flac", f"{base}/page2").object
        assert wrong["error"]["code"] == "wrong_type"
        assert cli("show", wrong["id"], "--json").object["media_types"] == ["video/*", "audio/flac"]
        assert cli("get", "--media-type", "VIDEO/MP4", f"{base}/film").code == 0
        assert cli("get", f"{base}/page.mp4").code == 1


@pytest.mark.parametrize("arguments", [("--media-type", "video"), ("--on-change", "ignore")])
def test_what_cannot_be_understood_is_a_usage_error(cli: Cli, arguments: tuple[str, str]) -> None:
    assert cli("get", *arguments, "http://127.0.0.1:1/film").code == 2
