"""S1-S11: ranges, lengths and versions that are not what was asked for."""

from __future__ import annotations

from tests.hostile.answers import End, Play, Step, Truth, told
from tests.hostile.row import ALL, FROM_THE_START, RESUMED, Pass, Row
from tests.hostile.rows_answers import ranged, status

VALIDATORS = ("ETag", "Last-Modified")
OTHER = bytes(byte ^ 0x55 for byte in range(256)) * 81


def other(payload: bytes) -> bytes:
    """Another version of the file, of another length."""
    return OTHER


def flipped(payload: bytes) -> bytes:
    """Another version of the same length."""
    return bytes(byte ^ 1 for byte in payload)


def bad_range(row_id: str, name: str, play: Play, status: int = 206, passes: frozenset[Pass] = ALL) -> Row:
    return Row(id=row_id, name=name, play=play, code="bad_range", status=status, attempts_max=3, passes=passes)


def version(make, etag: str = '"another"', **options) -> Play:  # type: ignore[no-untyped-def]
    """An honest server of another version."""

    def play(truth: Truth) -> list[Step]:
        now = Truth.of(truth.asked, make(truth.payload), truth.serial)
        return [told(now, etag=etag, **options)]

    return play


def ever_new(truth: Truth) -> list[Step]:
    """Each answer is of another version."""
    return list(version(lambda p: bytes([truth.serial]) * len(p), f'"{truth.serial}"')(truth))


def ever_longer(truth: Truth) -> list[Step]:
    return [told(truth, range_text=f"bytes {truth.start}-{truth.end - 1}/{truth.total + truth.serial}")]


def unsatisfied(text: str, whole: Play | None) -> Play:
    """Every range is refused with this Content-Range; without one the whole is served."""

    def play(truth: Truth) -> list[Step]:
        if truth.ranged or whole is None:
            return list(status(416, f"Content-Range: {text.format(t=truth.total)}", body=b"no such range")(truth))
        return list(whole(truth))

    return play


RANGES = [
    bad_range("S1", "starts a byte later", ranged("bytes {later}-{e}/{t}")),
    bad_range(
        "S1",
        "starts later, as long as asked",
        lambda t: [told(t, range_text=f"bytes {t.start + 1024}-{t.end + 1023}/{t.total + 9999}")],
    ),
    Row(
        id="S1",
        name="starts earlier: skipped, not written",
        killed=False,
        passes=RESUMED,
        play=lambda t: [told(t, range_text=f"bytes 0-{t.end - 1}/{t.total}", body=t.payload[: t.end])],
    ),
    bad_range("S2", "range and length disagree", ranged("bytes {s}-{less}/{t}")),
    bad_range(
        "S2",
        "reaches further than asked",
        lambda t: [told(t, range_text=f"bytes {t.start}-{t.end}/{t.total + 1}", body=t.body + b"x")],
    ),
    bad_range(
        "S2", "reaches beyond its total", lambda t: [told(t, range_text=f"bytes {t.start}-{t.end - 1}/{t.end - 1}")]
    ),
    bad_range("S2", "ends before it starts", ranged("bytes 5-4/{t}")),
    bad_range("S3", "without a range", lambda t: [told(t, drop=("Content-Range",))]),
    bad_range("S3", "a malformed range", ranged("bytes {s}-x/{t}")),
    bad_range("S3", "another unit", ranged("octets {s}-{e}/{t}")),
    bad_range("S3", "an overflowing range", ranged("bytes {s}-" + "9" * 5000 + "/{t}")),
    bad_range("S3", "a range beyond 2^63", ranged("bytes {s}-{e}/9999999999999999999")),
    bad_range("S3", "two ranges", lambda t: [told(t, "Content-Range: bytes 0-6/7")]),
    Row(
        id="S4",
        name="the total grows with every answer",
        play=ever_longer,
        code="changed",
        attempts_max=3,
        mends=True,
        killed=False,
    ),
    bad_range("S5", "multipart", lambda t: [told(t, "Content-Type: multipart/byteranges; boundary=x")]),
    Row(id="S6", name="the whole to a range", play=lambda t: [told(t, whole=True)], killed=False),
    Row(
        id="S6",
        name="another whole without validators",
        passes=RESUMED,
        final=other,
        killed=False,
        play=version(other, whole=True, drop=VALIDATORS),
    ),
    Row(
        id="S7",
        name="no range is satisfiable, the whole is",
        play=unsatisfied("bytes */{t}", lambda t: [told(t)]),
        killed=False,
        passes=FROM_THE_START,
    ),
    bad_range("S7", "no range is satisfiable, of our size", unsatisfied("bytes */{t}", None), 416, RESUMED),
    Row(
        id="S7",
        name="nothing is satisfiable",
        play=unsatisfied("bytes */{t}", None),
        code="http_4xx",
        status=416,
        attempts_max=1,
        passes=FROM_THE_START,
        killed=False,
    ),
    Row(
        id="S7",
        name="no range is satisfiable, it is shorter now",
        play=unsatisfied("bytes */20736", version(other)),
        final=other,
        killed=False,
    ),
    Row(id="S8", name="no validator", play=lambda t: [told(t, drop=VALIDATORS)], killed=False),
    Row(
        id="S8",
        name="no validator and other bytes",
        play=version(flipped, drop=VALIDATORS),
        final=flipped,
        killed=False,
        passes=RESUMED,
    ),
    Row(
        id="S8",
        name="a weak validator and other bytes",
        play=version(flipped, 'W/"w"', drop=VALIDATORS[1:]),
        final=flipped,
        killed=False,
        passes=RESUMED,
    ),
    Row(id="S9", name="another version", play=version(other), final=other, killed=False, passes=RESUMED),
    Row(
        id="S9",
        name="another version of the same length",
        play=version(flipped),
        final=flipped,
        killed=False,
        passes=RESUMED,
    ),
    Row(
        id="S9",
        name="a precondition fails",
        play=status(412),
        code="http_4xx",
        status=412,
        attempts_max=1,
        killed=False,
    ),
    Row(
        id="S9",
        name="another version with every answer",
        play=ever_new,
        code="changed",
        attempts_max=3,
        killed=False,
        one_version=False,
    ),
    Row(
        id="S11",
        name="a length that is too long",
        play=lambda t: [told(t, whole=True, length=t.total + 10), End.CLOSE],
        code="connection_lost",
        passes=FROM_THE_START,
        attempts_max=12,
        seconds=600,
    ),
    Row(
        id="S11",
        name="a range that ends early",
        play=lambda t: [told(t, body=t.body[:1500], length=len(t.body)), End.CLOSE],
        seconds=600,
        attempts_max=25,
        killed=True,
    ),
]
