"""Names that servers offer: always one harmless component (fault catalogue M1, M4, D21)."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.files.names import (
    DEFAULT_NAME,
    EXTENSION_CHARS_MAX,
    FOLDERS_MAX,
    HARMLESS_EXTENSIONS,
    HARMLESS_SUFFIX,
    NAME_BYTES_MAX,
    part_name,
    safe_name,
    safe_path,
    with_tag,
)
from tests.fire.fuzz_fields import check_folder

# What a server offers, and the name that is given.
OFFERED = [
    ("song.flac", "song.flac"),
    ("Sóng 1 歌.flac", "Sóng 1 歌.flac"),
    ("../../etc/passwd", "passwd"),
    ("/etc/passwd", "passwd"),
    ("C:\\Windows\\x.mp3", "x.mp3"),
    ("C:x.mp3", "Cx.mp3"),
    ("a/b\\c.mp3", "c.mp3"),
    ("..", DEFAULT_NAME),
    (".", DEFAULT_NAME),
    ("...", DEFAULT_NAME),
    ("", DEFAULT_NAME),
    (" ", DEFAULT_NAME),
    ("/", DEFAULT_NAME),
    ("x/", DEFAULT_NAME),
    (".bashrc", "bashrc"),
    (".mp3", "mp3"),
    ("-rf.mp3", "rf.mp3"),
    ("--output=x.mp3", "output=x.mp3"),
    ("~root.mp3", "root.mp3"),
    ("name.mp3. . .", "name.mp3"),
    ("a\0b.mp3", "ab.mp3"),
    ("a\nb\r\tc.mp3", "abc.mp3"),
    ("a\x1b[31mb.mp3", "a[31mb.mp3"),
    ("gpj.\u202efdp.mp3", "gpj.fdp.mp3"),
    ("a\u200bb\ufeff.mp3", "ab.mp3"),
    ("a\u2028b.mp3", "ab.mp3"),
    ("a\uff0f..\uff0fb.mp3", "b.mp3"),
    ("a\ud800.mp3", "a.mp3"),
    ("CON.mp3", "_CON.mp3"),
    ("nul", "_nul"),
    ("Com1.tar.gz", "_Com1.tar.gz"),
    ("aux.", "_aux"),
    ('a<b>c:d"e|f?g*h.mp3', "abcdefgh.mp3"),
    ("%2e%2e%2fx.mp3", "%2e%2e%2fx.mp3"),
    ("run.desktop", "run.desktop" + HARMLESS_SUFFIX),
    ("run.url", "run.url" + HARMLESS_SUFFIX),
    ("run.webloc", "run.webloc" + HARMLESS_SUFFIX),
    ("run.lnk", "run.lnk" + HARMLESS_SUFFIX),
    ("run.exe", "run.exe" + HARMLESS_SUFFIX),
    ("run.sh", "run.sh" + HARMLESS_SUFFIX),
    ("run.mp3.EXE", "run.mp3.EXE" + HARMLESS_SUFFIX),
    ("run.html", "run.html" + HARMLESS_SUFFIX),
    ("SONG.MP3", "SONG.MP3"),
]


@pytest.mark.parametrize(("offered", "given_name"), OFFERED)
def test_offered_names(offered: str, given_name: str) -> None:
    assert safe_name(offered) == given_name


ODD = st.text(st.sampled_from("./\\-~ \0\n\u202e\u200b\uff0e\uff0f\u2024\u2025:*?aA.b\ud800é歌🎵ﬁ\u0301"), max_size=40)


@given(st.one_of(st.text(max_size=400), ODD))
@example("a" * 5000 + ".mp3")
@example("歌" * 300 + ".flac")
@example("." * 300 + "x" * 300)
@example("x." + "e" * 300)
@example("‥/‥/etc/passwd")
@example("℀.mp3")
def test_a_name_is_always_one_safe_component(offered: str) -> None:
    name = safe_name(offered)
    encoded = os.fsencode(name)
    assert 0 < len(encoded) <= NAME_BYTES_MAX
    assert os.path.basename(name) == name
    assert name not in {".", ".."}
    assert name[0] not in ".-~ "
    assert name[-1] not in ". "
    assert not set(name) & set('/\\:*?"<>|')
    assert all(unicodedata.category(char)[0] != "C" for char in name)
    assert name.encode().decode() == name
    stem, dot, extension = name.rpartition(".")
    if dot and len(extension) <= 16:
        assert extension.lower() in HARMLESS_EXTENSIONS | {HARMLESS_SUFFIX[1:]}
    assert (stem or name).split(".")[0].lower() not in {"con", "prn", "aux", "nul", "com1", "lpt9"}


@given(st.text(max_size=60), st.sampled_from(["1f2e3d4c5b6a7980", "x"]))
@example("0." + "x" * 17, "1f2e3d4c5b6a7980")
def test_a_tag_makes_another_safe_name(offered: str, tag: str) -> None:
    name = safe_name(offered)
    tagged = with_tag(name, tag)
    assert tagged != name
    assert tag in tagged
    assert len(tagged.encode()) <= NAME_BYTES_MAX
    extension = os.path.splitext(name)[1]
    assert os.path.splitext(tagged)[1] == extension or len(extension) > 1 + EXTENSION_CHARS_MAX


def test_a_name_of_every_length_can_be_made(tmp_path: Path) -> None:
    """D21: counted in bytes, cut between characters."""
    for count in range(1, 260):
        for letter in ("a", "é", "歌", "🎵"):
            name = safe_name(letter * count + ".mp3")
            assert name.endswith(".mp3")
            (tmp_path / name).write_bytes(b"")


def test_part_names_are_the_engines_own() -> None:
    assert part_name("0123456789abcdef", 7) == ".oe-0123456789abcdef-7.part"


@given(st.text(max_size=300) | st.lists(st.text(max_size=250), max_size=10).map("/".join))
@example("a/" * FOLDERS_MAX + "f.mkv")
@example("..\\x/y.mp3")
@example("x/℀.app/y.mp3")
@example("a" * 196 + ".app" + "b" * 30 + "/y.mp3")
def test_a_path_stays_below_its_folder(offered: str) -> None:
    try:
        *folders, name = safe_path(offered).split("/")
    except ValueError:
        assert len(unicodedata.normalize("NFKC", offered).replace("\\", "/").split("/")) > FOLDERS_MAX + 1
        return
    assert name == safe_name(offered)
    assert len(folders) <= FOLDERS_MAX
    for folder in folders:
        check_folder(folder)
