"""``get --mirror`` and Metalinks: other places of the same bytes, and who is named when they are not the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.support import LARGE, SMALL, Said, WatchedOrigin

Cli = Callable[..., Said]
PIECE = 1 << 20


def metalink(*urls: str, data: bytes = LARGE, name: str = "../film.mp4", pieces: bool = True) -> str:
    hashes = [hashlib.sha256(data[at : at + PIECE]).hexdigest() for at in range(0, len(data), PIECE)]
    told = f'<pieces type="sha-256" length="{PIECE}">{"".join(f"<hash>{one}</hash>" for one in hashes)}</pieces>'
    where = "".join(f'<url priority="{number}">{url}</url>' for number, url in enumerate(urls, 1))
    return (
        '<?xml version="1.0"?><metalink xmlns="urn:ietf:params:xml:ns:metalink">'
        f'<file name="{name}"><size>{len(data)}</size>{told if pieces else ""}{where}</file></metalink>'
    )


def test_a_mirror_takes_over(cli: Cli, origin: WatchedOrigin, root: Path) -> None:
    missing, there = origin.url("/none.bin"), origin.url("/small.bin")
    said = cli("get", "--json", missing, "--mirror", origin.url("/nor.bin"), "--mirror", there).object
    assert (said["state"], said["url"], said["attempts"]) == ("completed", missing, 1)
    assert Path(str(said["path"])).read_bytes() == SMALL
    shown = cli("show", str(said["id"]))
    assert f"mirror      {there}" in shown.lines


@pytest.mark.parametrize("remote", [False, True], ids=["file", "URL"])
def test_a_metalink_names_the_bad_one(
    cli: Cli, origin: WatchedOrigin, served: dict[str, str], tmp_path: Path, remote: bool
) -> None:
    bad = bytearray(LARGE)
    bad[700_000] ^= 1
    (tmp_path / "bad").write_bytes(bad)
    origin_files = {**served, "/bad.bin": str(tmp_path / "bad"), "/film.meta4": str(tmp_path / "film.meta4")}
    with WatchedOrigin(origin_files) as running:
        urls = running.url("/bad.bin"), running.url("/large.bin")
        (tmp_path / "film.meta4").write_text(metalink(*urls))
        document = running.url("/film.meta4") if remote else str(tmp_path / "film.meta4")
        said = cli("get", "--json", "--output", f"{tmp_path}/out/", document).object
        assert (said["state"], said["path"]) == ("completed", f"{tmp_path}/out/film.mp4")
        assert (tmp_path / "out" / "film.mp4").read_bytes() == LARGE
        shown = cli("show", str(said["id"]))
    assert any(line.startswith(f"bad source  {urls[0]} sent wrong bytes") for line in shown.lines)
    [entry] = cli("show", "--json", str(said["id"])).objects
    assert [blame["url"] for blame in entry["blamed"]] == [urls[0]]
    assert entry["sources"] == list(urls)


def test_two_files_of_a_metalink_with_one_url_are_both_had(cli: Cli, origin: WatchedOrigin, tmp_path: Path) -> None:
    """Into a folder each has its own name; in the library, where a URL is a file, they are one."""
    url = origin.url("/small.bin")
    one, two = (metalink(url, data=SMALL, name=name, pieces=False) for name in ("one.bin", "two.bin"))
    (tmp_path / "both.meta4").write_text(one.replace("</metalink>", two[two.index("<file") :]))
    said = cli("get", "--json", "--output", f"{tmp_path}/out/", tmp_path / "both.meta4")
    assert {said["path"] for said in said.objects} == {f"{tmp_path}/out/one.bin", f"{tmp_path}/out/two.bin"}
    assert [(tmp_path / "out" / name).read_bytes() for name in ("one.bin", "two.bin")] == [SMALL, SMALL]
    assert [said["state"] for said in cli("get", "--json", tmp_path / "both.meta4").objects] == ["completed"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["{good}", "{good}2", "--mirror", "{good}"], "--mirror is for one URL"),
        (["{good}", "--mirror", "ftp://h/f"], "http"),
        (["{meta}", "--mirror", "{good}"], "names its mirrors itself"),
        (["{meta}", "--header", "A: b"], "origins"),
        (["{good}.meta4", "--hours", "noon"], "hours are given as"),
        (["{here}/none.meta4"], "cannot read the Metalink"),
        (["{here}/odd.meta4"], "no Metalink"),
    ],
)
def test_what_can_never_work(cli: Cli, origin: WatchedOrigin, tmp_path: Path, arguments: list[str], word: str) -> None:
    (tmp_path / "odd.meta4").write_text("<html>")
    (tmp_path / "film.meta4").write_text(metalink(origin.url("/large.bin")))
    places = {"good": origin.url("/small.bin"), "meta": f"{tmp_path}/film.meta4", "here": str(tmp_path)}
    said = cli("get", *(argument.format(**places) for argument in arguments))
    assert (said.code, said.out) == (2, "")
    assert word in said.err
