"""Heads made by chance: what is believed, h11 reads in the same way, and how it is cut into pieces changes nothing."""

from __future__ import annotations

import random

import h11
import pytest

from engine.config import Config
from engine.errors import ProtocolViolation
from engine.net.head import Framing, Head, HeadReader, scan_head
from tests.hostile.mutations import a_head, cuts

CONFIG = Config()
HEADS = 4000


def codec() -> h11.Connection:
    """One whose request is sent."""
    fresh = h11.Connection(h11.CLIENT)
    fresh.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    fresh.send(h11.EndOfMessage())
    return fresh


def scanned(head: bytes) -> Head | None:
    try:
        return scan_head(head, CONFIG)
    except ProtocolViolation:
        return None


def framing_by_h11(connection: h11.Connection, behind: bytes) -> list[bytes] | None:
    """The body that h11 reads from ``behind`` and the end of the connection; None when that is no proper end."""
    body = []
    connection.receive_data(behind)
    try:
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(b"")
            elif isinstance(event, h11.Data):
                body.append(bytes(event.data))
            else:
                return body
    except h11.RemoteProtocolError:
        return None


BEHIND = b"5\r\nhello\r\n0\r\n\r\n"
BODIES = {Framing.LENGTH: BEHIND[:5], Framing.CHUNKED: b"hello", Framing.EOF: BEHIND}


@pytest.mark.parametrize("seed", range(5))
def test_what_is_believed_is_what_h11_reads(seed: int) -> None:
    rng = random.Random(seed)
    believed = 0
    for _ in range(HEADS):
        raw = a_head(rng)
        head = scanned(raw)
        if head is None or b"\r\n\r\n" in raw[:-4]:
            continue
        connection = codec()
        connection.receive_data(raw)
        event = connection.next_event()
        assert isinstance(event, h11.Response | h11.InformationalResponse), raw
        believed += 1
        assert event.status_code == head.status, raw
        fields = [(bytes(name), bytes(value)) for name, value in event.headers]
        ours = [(name.encode(), value.encode("latin-1")) for name, value in head.fields]
        # h11 makes "chunked" lower case
        assert [(n, v.lower() if n == b"transfer-encoding" else v) for n, v in ours] == fields, raw
        if head.status >= 200 and head.status not in {204, 304} and head.length in {None, 5}:
            body = framing_by_h11(connection, BEHIND)
            assert body is not None, raw
            assert b"".join(body) == BODIES[head.framing], raw
    assert believed > HEADS // 10


def outcome(pieces: list[bytes]) -> tuple[Head | None, bytes] | str:
    reader = HeadReader(CONFIG, codec())
    try:
        for number, piece in enumerate(pieces):
            head = reader.feed(piece)
            if head is not None:
                return head, reader.leftover + b"".join(pieces[number + 1 :])
    except ProtocolViolation:
        return "refused"
    return None, b""


@pytest.mark.parametrize("seed", range(5))
def test_pieces_change_nothing(seed: int) -> None:
    rng = random.Random(100 + seed)
    seen = set()
    for _ in range(HEADS):
        raw = a_head(rng) + rng.choice([b"", a_head(rng), b"body"])
        whole = outcome([raw])
        seen.add(type(whole))
        assert outcome(cuts(rng, raw)) == whole, raw
    assert seen == {str, tuple}
