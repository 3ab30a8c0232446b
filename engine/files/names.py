"""Names for files: from what servers say to what may stand on a disk (fault catalogue M1, M4, D21).

Paths the caller names are the caller's; only names that come from a server or a URL are sanitised here.
"""

from __future__ import annotations

import re
import unicodedata

NAME_BYTES_MAX = 200  # of 255 on common file systems: room for a suffix that makes it unique
EXTENSION_CHARS_MAX = 16
DEFAULT_NAME = "download"
FOLDERS_MAX = 8

# A desktop acts on some extensions when a file is opened. A server may only choose among those that are plain content;
# any other keeps its name and gets HARMLESS_SUFFIX behind it. An allow-list, because yt-dlp's deny-list had to grow
# with every release (CVE-2024-38519, CVE-2026-50023).
HARMLESS_SUFFIX = ".download"
HARMLESS_EXTENSIONS = frozenset(
    [
        "3gp",
        "aac",
        "ac3",
        "aif",
        "aiff",
        "alac",
        "amr",
        "ape",
        "asf",
        "au",
        "avi",
        "caf",
        "dff",
        "dsf",
        "dts",
        "eac3",
        "f4v",
        "flac",
        "flv",
        "h264",
        "hevc",
        "ivf",
        "m2ts",
        "m4a",
        "m4b",
        "m4s",
        "m4v",
        "mka",
        "mkv",
        "mov",
        "mp2",
        "mp3",
        "mp4",
        "mpc",
        "mpeg",
        "mpg",
        "mts",
        "mxf",
        "oga",
        "ogg",
        "ogm",
        "ogv",
        "opus",
        "ra",
        "spx",
        "tak",
        "ts",
        "tta",
        "vob",
        "wav",
        "weba",
        "webm",
        "wma",
        "wmv",
        "wv",
        "m3u",
        "m3u8",
        "mpd",
        "pls",
        "xspf",
        "cue",
        "lrc",
        "srt",
        "vtt",
        "ass",
        "ssa",
        "sub",
        "sup",
        "ttml",
        "avif",
        "bmp",
        "gif",
        "heic",
        "heif",
        "ico",
        "jpeg",
        "jpg",
        "jxl",
        "png",
        "svgz",
        "tif",
        "tiff",
        "webp",
        "7z",
        "bin",
        "br",
        "bz2",
        "cpio",
        "dat",
        "deb",
        "dmg",
        "epub",
        "gz",
        "img",
        "iso",
        "lz",
        "lz4",
        "lzma",
        "pdf",
        "rar",
        "raw",
        "rpm",
        "tar",
        "tbz2",
        "tgz",
        "txz",
        "txt",
        "whl",
        "xz",
        "zip",
        "zst",
        "csv",
        "json",
        "log",
        "md",
        "parquet",
        "sha1",
        "sha256",
        "sha512",
        "sig",
        "toml",
        "tsv",
        "xml",
        "yaml",
        "yml",
        "key",
        "lic",
    ]
)
_RESERVED = frozenset(["con", "prn", "aux", "nul", *(f"com{i}" for i in range(10)), *(f"lpt{i}" for i in range(10))])
_FORBIDDEN = frozenset('/\\:*?"<>|')


def _keep(char: str) -> bool:
    # Control, format (zero-width, right-to-left marks), surrogate, private and unassigned characters hide what a name
    # is.
    return (
        char not in _FORBIDDEN
        and unicodedata.category(char)[0] != "C"
        and unicodedata.category(char) not in {"Zl", "Zp"}
    )


def _parted(name: str) -> tuple[str, str]:
    """The name and its extension with the dot; what is longer than any extension is none."""
    stem, dot, extension = name.rpartition(".")
    return (stem, dot + extension) if stem and 0 < len(extension) <= EXTENSION_CHARS_MAX else (name, "")


def _shorten(stem: str, extension: str) -> str:
    room = NAME_BYTES_MAX - len(extension.encode())
    return stem.encode()[:room].decode(errors="ignore").rstrip(" .") + extension


def _harmless(stem: str, ending: str) -> str:
    """The name, cut to size, on which no desktop acts. Judged by what is left of it: in a long name without an
    extension the cut can make one."""
    name = _shorten(stem, ending)
    suffix = _parted(name)[1]
    harmless = not suffix or suffix == HARMLESS_SUFFIX or suffix[1:].lower() in HARMLESS_EXTENSIONS
    return name if harmless else _shorten(stem, ending + HARMLESS_SUFFIX)


def safe_name(offered: str) -> str:
    """A file name that is safe in any folder, from one that a server offered; ``download`` when nothing is left.

    Only what follows the last slash or backslash counts. The result is one component without control, format or
    separator characters, does not begin with ``.`` or ``-``, is no device name, is at most 200 bytes of UTF-8, and has
    an extension from the list of plain content or ends in ``.download``.
    """
    text = _plain(_components(offered)[-1])
    if not text:
        return DEFAULT_NAME
    stem, suffix = _parted(text)
    return _harmless(stem, suffix) or DEFAULT_NAME


def safe_path(offered: str) -> str:
    """:func:`safe_name` below the folders that are offered with it: ``CD 1/01.flac``. Each of them is one safe
    component; none has an extension that could make it a program (``.app``): its dot becomes ``_``.

    A path that is absolute or climbs (``..``) has none of its folders. Raises ValueError for more than FOLDERS_MAX.
    """
    *folders, name = components = _components(offered)
    if ".." in components or not components[0]:
        folders = []
    found = [folder for each in folders if (folder := _safe_folder(each))]
    if len(found) > FOLDERS_MAX:
        raise ValueError(f"a file lies at most {FOLDERS_MAX} folders deep")
    return "/".join([*found, safe_name(name)])


def _components(path: str) -> list[str]:
    return unicodedata.normalize("NFKC", path).replace("\\", "/").split("/")


def _safe_folder(offered: str) -> str:
    name = _shorten(_plain(offered), "")
    stem, suffix = _parted(name)
    return f"{stem}_{suffix[1:]}" if suffix[1:].isalnum() and not suffix[1:].isdecimal() else name


def _plain(component: str) -> str:
    """One that hides nothing, and is the name of no device."""
    text = "".join(char for char in component if _keep(char)).strip(" .").lstrip("-~ .")
    return f"_{text}" if text.split(".")[0].lower() in _RESERVED else text


def with_tag(name: str, tag: str) -> str:
    """``name`` made unique by ``tag`` before its extension: ``track.flac`` and ``1f2e`` give ``track-1f2e.flac``."""
    stem, suffix = _parted(name)
    return _harmless(stem, f"-{tag}{suffix}")


_PART_NAME = re.compile(r"\.oe-([0-9a-f]{16})-[0-9]+\.part")


def tag_of_part(name: str) -> str | None:
    """The tag of the entry that an unfinished file of the engine's own belongs to; None for any other name."""
    found = _PART_NAME.fullmatch(name)
    return found[1] if found is not None else None


def part_name(entry_tag: str, generation: int) -> str:
    """The engine's own name of an unfinished file, hidden beside the final one so that publishing is one rename."""
    return f".oe-{entry_tag}-{generation}.part"
