"""Whole downloads where nothing goes wrong: every size, framing, durability and number of connections."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from engine import DownloadRequest, Durability, Engine, Health, OfflineEntry, RunStats, State, open_engine
from engine.config import Config
from tests.support.library import BIG_CHUNK, CHUNK, SMALL, content, files_under, hash_of, parts_under, payload_of, small
from tests.support.nginx import Nginx
from tests.support.origin import Asked, Origin, Reply, serve


async def fetch(
    library: Path, request: DownloadRequest, config: Config = SMALL, cafile: str | None = None
) -> tuple[OfflineEntry, RunStats]:
    """One engine, one download."""
    async with open_engine(library, config=config, cafile=cafile, seed=1) as engine:
        download = await engine.offline(request)
        return await download.wait(), download.stats


def assert_whole(library: Path, offline: OfflineEntry, payload: bytes) -> None:
    """The file is the payload, by name, bytes and hash, and nothing else lies beside it."""
    assert content(offline.path) == payload
    assert offline.size == len(payload)
    assert offline.blake3 == hash_of(payload)
    assert parts_under(library) == set()


SIZES = [
    0, 1, 1023, 1024, 1025,
    CHUNK - 1, CHUNK, CHUNK + 1,
    BIG_CHUNK - 1, BIG_CHUNK, BIG_CHUNK + 1,
    10 * CHUNK + 5, 40 * CHUNK, SMALL.small_file_bytes, SMALL.small_file_bytes + 1, 90 * BIG_CHUNK + 777,
]  # fmt: skip


@pytest.mark.parametrize("durability", list(Durability))
@pytest.mark.parametrize("size", SIZES)
async def test_every_size(library: Path, size: int, durability: Durability) -> None:
    payload = payload_of(size)
    async with serve(payload) as origin:
        offline, stats = await fetch(library, DownloadRequest(url=origin.url(), durability=durability))
    assert_whole(library, offline, payload)
    assert stats.bytes_fetched == size
    assert stats.bytes_resumed == 0
    assert stats.attempts == 1
    assert offline.path == str(library / "files" / "film.bin")


@pytest.mark.parametrize("size", [0, 1, CHUNK, BIG_CHUNK, BIG_CHUNK + 1, 7 * BIG_CHUNK + 3])
@pytest.mark.parametrize(
    "reply",
    [
        Reply(ranges=False),
        Reply(framing="chunked", ranges=False),
        Reply(framing="chunked"),
        Reply(ranges=False, etag="", last_modified=""),
    ],
    ids=["no-ranges", "chunked", "chunked-ranges", "no-ranges-no-validator"],
)
async def test_other_framings(library: Path, size: int, reply: Reply) -> None:
    payload = payload_of(size)
    async with serve(payload, lambda _: reply) as origin:
        offline, stats = await fetch(library, DownloadRequest(url=origin.url()))
    assert_whole(library, offline, payload)
    assert stats.bytes_fetched == size
    if reply.framing == "length":
        assert len(origin.asked) == 1


@pytest.mark.parametrize("size", [0, 1, BIG_CHUNK - 1, BIG_CHUNK, BIG_CHUNK + 1, 5 * BIG_CHUNK + 9])
@pytest.mark.parametrize("by", ["sha256", "blake3", "length"])
async def test_a_body_that_ends_with_the_connection_counts_when_it_can_be_checked(
    library: Path, size: int, by: str
) -> None:
    """N8: length or digest shows that it is whole."""
    payload = payload_of(size)
    digests = {"sha256": hashlib.sha256(payload).hexdigest(), "blake3": hash_of(payload)}
    expect = {} if by == "length" else {by: digests[by]}
    length = size if by == "length" else None
    async with serve(payload, lambda _: Reply(framing="eof", ranges=False)) as origin:
        request = DownloadRequest(url=origin.url(), expect=expect, expected_length=length)
        offline, _ = await fetch(library, request)
    assert_whole(library, offline, payload)


@pytest.mark.parametrize("connections", [1, 2, 3, 4, 8, 16])
async def test_any_number_of_connections(library: Path, connections: int) -> None:
    payload = payload_of(150 * BIG_CHUNK + 1)
    async with serve(payload) as origin:
        origin.rate = 4e6 * 4 / connections
        offline, stats = await fetch(library, DownloadRequest(url=origin.url(), connections=connections))
        assert origin.connections == connections
    assert_whole(library, offline, payload)
    assert stats.bytes_fetched == len(payload)


async def test_many_entries_at_once_share_the_engine(library: Path) -> None:
    """More entries than slots and buffers; equal names in the library's folder all find a place."""
    payloads = [payload_of(3 * BIG_CHUNK + n, seed=n) for n in range(20)]

    def script(asked: Asked) -> Reply:
        return Reply(body=payloads[int(asked.target.split("/")[1])], etag=f'"{asked.target}"')

    async with serve(b"", script) as origin, open_engine(library, config=small(buffer_count=4)) as engine:
        downloads = [await engine.offline(DownloadRequest(url=f"{origin.base}/{n}/film.bin")) for n in range(20)]
        finished = [await download.wait() for download in downloads]
        assert len(await engine.list(state=State.COMPLETED)) == 20
        verdicts = await engine.validate_downloads()
    assert {verdict.health for verdict in verdicts} == {Health.VALID}
    assert len({offline.path for offline in finished}) == 20
    for offline, payload in zip(finished, payloads, strict=True):
        assert content(offline.path) == payload
    assert len(files_under(library / "files")) == 20


async def _ask(engine: Engine, origin: Origin, **options: object) -> OfflineEntry:
    download = await engine.offline(DownloadRequest(url=origin.url(), **options))  # type: ignore[arg-type]
    return await download.wait()


async def test_where_the_file_goes(library: Path, tmp_path: Path) -> None:
    """Without a wish into the library; into a folder under the server's name; to exactly the path that was named."""
    payload = payload_of(1000)
    (tmp_path / "music").mkdir()
    named = Reply(fields=(("Content-Disposition", "attachment; filename=song.flac"),))
    async with serve(payload, lambda _: named) as origin, open_engine(library, config=SMALL) as engine:
        paths = {
            (await _ask(engine, origin)).path: library / "files" / "song.flac",
            (await _ask(engine, origin, destination=str(tmp_path / "music"))).path: tmp_path / "music" / "song.flac",
            (await _ask(engine, origin, destination=f"{tmp_path}/new/deep/")).path: tmp_path / "new/deep/song.flac",
            (await _ask(engine, origin, destination=str(tmp_path / "x.exe"))).path: tmp_path / "x.exe",
        }
    for path, expected in paths.items():
        assert path == str(expected)
        assert content(path) == payload
        assert expected.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "new" / "deep").stat().st_mode & 0o777 == 0o700
    assert library.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("offered", "name"),
    [
        ('attachment; filename="../../../etc/cron.d/evil"', "evil"),
        ('attachment; filename="..%2f..%2fevil.mp3"', "%2f..%2fevil.mp3"),
        ("attachment; filename*=UTF-8''%2e%2e%2f%2e%2e%2fevil.mp3", "evil.mp3"),
        ("attachment; filename*=UTF-8''a%00b%0a%e2%80%ae.mp3", "ab.mp3"),
        ('attachment; filename=".bashrc"', "bashrc"),
        ('attachment; filename="run.desktop"', "run.desktop.download"),
        ('attachment; filename=""', "film.bin"),
        ("attachment", "film.bin"),
    ],
)
async def test_a_name_from_a_server_stays_in_its_folder(library: Path, tmp_path: Path, offered: str, name: str) -> None:
    """M1, M4."""
    (tmp_path / "music").mkdir()
    payload = payload_of(1000)
    reply = Reply(fields=(("Content-Disposition", offered),))
    async with serve(payload, lambda _: reply) as origin:
        offline, _ = await fetch(library, DownloadRequest(url=origin.url(), destination=str(tmp_path / "music")))
    assert files_under(tmp_path / "music") == {Path(offline.path).name}
    assert Path(offline.path).parent == tmp_path / "music"
    assert Path(offline.path).name == name
    assert Path(offline.path).stat().st_mode & 0o111 == 0


async def test_other_digests_are_checked_too(library: Path) -> None:
    payload = payload_of(3 * BIG_CHUNK)
    names = ["sha256", "sha384", "sha512", "sha1", "md5"]
    expect = {name: hashlib.new(name, payload).hexdigest().upper() for name in names}
    async with serve(payload) as origin:
        offline, _ = await fetch(library, DownloadRequest(url=origin.url(), expect=expect))
    assert offline.digests == {name: value.lower() for name, value in expect.items()}


@pytest.mark.parametrize("folder", ["", "plain/", "moved/"])
@pytest.mark.parametrize("tls", [False, True])
async def test_from_nginx(library: Path, nginx: Nginx, folder: str, tls: bool) -> None:
    payload = payload_of(8 * 1024 * 1024 + 123, seed=7)
    nginx.put("film.bin", payload)
    base = nginx.https if tls else nginx.http
    offline, stats = await fetch(library, DownloadRequest(url=f"{base}/{folder}film.bin"), cafile=nginx.cafile)
    assert_whole(library, offline, payload)
    assert stats.bytes_fetched == len(payload)
