"""What can be typed: verbs and their options."""

from __future__ import annotations

import argparse
import os
from typing import NoReturn

from engine import __version__
from engine.cli import status
from engine.cli.console import PROGRAM, escape, print_text, warn
from engine.cli.line_options import add_line_options
from engine.cli.trust_options import add_trust_options
from engine.config import DEFAULT_CONFIG, RATE_LIMIT_MIN
from engine.model.states import State

# The values of Durability, whose module takes longer to import than all the rest of this one.
DURABILITIES = ("strict", "relaxed")
ON_CHANGE = ("restart", "fail")
GROUP_SORTS = ("title", "added")  # the values of GroupSort, for the same reason
COMMANDS = {
    "pause": "stop, keeping every byte, until resumed",
    "resume": "let paused entries go on",
    "cancel": "give up, and drop what is unfinished",
    "retry": "try failed entries again",
    "remove": "drop entries and their files",
    "prioritise": "let entries run before or behind others",
}
ANSWER_TIMEOUT_S = 30.0
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

_ADOPT = "make the root, a copy of another one, a library of its own, without what the other has outside of its root"
_EPILOG = """exit status: 0 all complete, 1 some failed or the output could not be written, 2 usage,
3 store busy or unusable, 130 interrupted (and resumable), 141 the reader of the output is gone"""


class _Parser(argparse.ArgumentParser):
    """Escapes what it repeats of the arguments, and prints as all of the command does: errors never on stdout, and what
    cannot be printed is an error."""

    def error(self, message: str) -> NoReturn:
        warn(f"{self.format_usage()}{self.prog}: error: {escape(message)}")
        raise SystemExit(status.USAGE)

    def _print_message(self, message: str, file: object = None) -> None:  # noqa: ARG002  # always stdout here
        print_text(message)


def _size(text: str) -> int:
    """Bytes, with K, M or G for 1024, 1024^2, 1024^3 of them."""
    number, unit = (text[:-1], text[-1].upper()) if text and text[-1].upper() in _UNITS else (text, "")
    try:
        return int(float(number) * _UNITS[unit])
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not like 500K or 2.5M") from error


def _rate(text: str) -> int:
    """Bytes a second."""
    rate = _size(text)
    if rate < RATE_LIMIT_MIN:
        raise argparse.ArgumentTypeError(f"must be at least {RATE_LIMIT_MIN} bytes a second, not {rate}")
    return rate


def _path(text: str) -> str:
    """A path as it was given. Not an empty one, which an unset variable in a script leaves, and none that begins in a
    folder that is gone."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    try:
        os.path.abspath(text)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"the current folder cannot be used: {error.strerror}") from error
    return text


def default_root() -> str:
    """The user's data folder: ``$XDG_DATA_HOME/offline-engine``, or ``~/.local/share/offline-engine``."""
    data = os.environ.get("XDG_DATA_HOME", "")
    if not os.path.isabs(data):  # the XDG rules: relative paths are to be ignored
        data = os.path.expanduser("~/.local/share")
    return os.path.join(data, "offline-engine")


def _escaped_root() -> str:
    return default_root().replace("%", "%%")  # argparse formats help texts


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments. Raises SystemExit: 0 after ``--help`` and ``--version``, 2 for what cannot be understood."""
    arguments = _parser().parse_args(argv)
    if arguments.root is None and arguments.verb != "demo":  # the demo stays out of the user's library
        arguments.root = default_root()
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM,
        description="Downloads that never lose, mix up or wrongly believe a byte.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument(
        "--root", metavar="DIR", type=_path, help=f"folder of the library and its store (default: {_escaped_root()})"
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=_Parser)
    added = [add(verbs) for add in (_add_get, _add_run, _add_list, _add_groups, _add_show)]
    added += [_add_command(verbs, name) for name in COMMANDS]
    added += [add(verbs) for add in (_add_verify, _add_gc, _add_health, _add_network, _add_demo)]
    for verb in added:
        verb.add_argument("--root", metavar="DIR", type=_path, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


_Verbs = argparse._SubParsersAction  # argparse has no public name for what add_subparsers returns


def _add_get(verbs: _Verbs[_Parser]) -> argparse.ArgumentParser:
    get = verbs.add_parser("get", help="download; asked again, resume", allow_abbrev=False)
    _add_what(get)
    _add_how(get)
    add_line_options(get, _size)
    add_trust_options(get, _path)
    get.add_argument("--overwrite", action="store_true", help="replace an existing file")
    get.add_argument("--adopt", action="store_true", help=_ADOPT)
    get.add_argument("--no-progress", action="store_true", help="no bars, no notes; results and errors only")
    get.add_argument("--json", action="store_true", help="one object a line and a URL, as each is finished")
    return get


def _add_what(get: argparse.ArgumentParser) -> None:
    """What is asked for, of whom, and where it goes."""
    get.add_argument(
        "urls", nargs="*", metavar="URL", help="http or https; what ends in .meta4, also a file, is a Metalink"
    )
    get.add_argument(
        "--input", metavar="FILE", type=_path, help="file of URLs, one a line, '#' begins a comment; - is stdin"
    )
    get.add_argument(
        "--output", metavar="PATH", type=_path, help="a file for one URL, a folder for many (or one ending in /)"
    )
    get.add_argument("--id", metavar="ID", help="your own key for the entry; one URL only")
    get.add_argument(
        "--mirror",
        metavar="URL",
        action="append",
        default=[],
        help="another URL of the same bytes, to take over or to help; again for more; one URL only",
    )
    get.add_argument("--header", metavar="'K: V'", action="append", default=[], help="send this to the URL's own host")
    get.add_argument(
        "--secret-header", metavar="'K: V'", action="append", default=[], help="the same, but its value is never stored"
    )
    get.add_argument(
        "--header-origin",
        metavar="ORIGIN",
        action="append",
        default=[],
        help="a redirect or mirror at http(s)://host[:port] gets those headers too; again for more",
    )


def _add_how(get: argparse.ArgumentParser) -> None:
    """How it is fetched, and what it has to be."""
    get.add_argument(
        "--connections",
        metavar="N",
        type=int,
        help=f"for each file, 1 to {DEFAULT_CONFIG.connections_per_entry_max}"
        f" (default: as many as pay, {DEFAULT_CONFIG.connections_start} at first)",
    )
    get.add_argument(
        "--limit-rate", metavar="R", type=_rate, default=0, help="bytes a second for each file, like 500K or 2.5M"
    )
    get.add_argument(
        "--limit-rate-all", metavar="R", type=_rate, default=0, help="the same for all that this process fetches"
    )
    get.add_argument(
        "--expect", metavar="ALGO:HEX", action="append", default=[], help="digest that the file must have; one URL only"
    )
    get.add_argument("--expect-length", metavar="BYTES", type=int, help="size that the file must have; one URL only")
    get.add_argument(
        "--durability",
        choices=DURABILITIES,
        default=DURABILITIES[0],
        help="what progress survives: a power cut (strict, the default) or a killed process (relaxed)",
    )
    get.add_argument(
        "--media-type",
        metavar="TYPE",
        action="append",
        default=[],
        help="what the file may be, like audio/flac or video/* (default: anything, but no page under a media name)",
    )
    get.add_argument(
        "--on-change",
        choices=ON_CHANGE,
        default=ON_CHANGE[0],
        help="when the source has another version: begin anew with it (restart, the default), or fail",
    )


def _add_run(verbs: _Verbs[_Parser]) -> argparse.ArgumentParser:
    verb = verbs.add_parser(
        "run",
        help="work the queue until it is empty",
        description="Takes up every unfinished entry. Ctrl-C or SIGTERM ends it; everything stays resumable.",
        allow_abbrev=False,
    )
    verb.add_argument(
        "--limit-rate-all",
        metavar="R",
        type=_rate,
        default=0,
        help="bytes a second for all together, like 500K or 2.5M",
    )
    verb.add_argument("--forever", action="store_true", help="do not end when the queue is empty: wait for more")
    verb.add_argument("--adopt", action="store_true", help=_ADOPT)
    add_trust_options(verb, _path)
    verb.add_argument("--no-progress", action="store_true", help="no bars, no notes; results and errors only")
    verb.add_argument("--json", action="store_true", help="one object a line, for each entry that ends")
    return verb


def _add_command(verbs: _Verbs[_Parser], name: str) -> argparse.ArgumentParser:
    verb = verbs.add_parser(
        name,
        help=COMMANDS[name],
        description=f"{COMMANDS[name].capitalize()}. Done by the engine that runs, in whatever process, or here.",
        allow_abbrev=False,
    )
    verb.add_argument("ids", nargs="*", metavar="ID")
    verb.add_argument("--all", action="store_true", help="all entries that it can be done to")
    verb.add_argument("--scope", metavar="SCOPE", help="with --all: only those of this scope")
    if name == "remove":
        verb.add_argument("--keep-file", action="store_true", help="leave finished files where they are")
    if name == "prioritise":
        verb.add_argument("--priority", metavar="N", type=int, required=True, help="higher runs first; 0 is usual")
        verb.add_argument("--preempt", action="store_true", help="take the turn of a lower one that runs")
    verb.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=ANSWER_TIMEOUT_S,
        help="take it back when the engine does not answer so long (default: %(default)g)",
    )
    verb.add_argument("--json", action="store_true", help="one object a line and ID")
    return verb


def _add_list(verbs: _Verbs[_Parser]) -> argparse.ArgumentParser:
    verb = verbs.add_parser("list", help="what is in the library", allow_abbrev=False)
    verb.add_argument("--state", choices=[state.value for state in State], help="only entries in this state")
    verb.add_argument("--scope", metavar="SCOPE", help="only entries of this scope")
    verb.add_argument("--group", metavar="ID", help="only members of this group, in its order")
    verb.add_argument("--json", action="store_true", help="one object a line and entry, URLs complete")
    return verb


def _add_show(verbs: _Verbs[_Parser]) -> argparse.ArgumentParser:
    verb = verbs.add_parser("show", help="all that is known of one entry", allow_abbrev=False)
    verb.add_argument("id", metavar="ID")
    verb.add_argument("--json", action="store_true", help="one object: every field, parts, held byte ranges")
    return verb


def _add_groups(verbs: _Verbs[_Parser]) -> argparse.ArgumentParser:
    verb = verbs.add_parser("groups", help="albums, playlists …, and how far each is", allow_abbrev=False)
    verb.add_argument("ids", nargs="*", metavar="ID", help="only these (default: all of the scope)")
    verb.add_argument("--scope", metavar="SCOPE", default="", help="of this scope (default: the one without a name)")
    verb.add_argument("--sort", choices=GROUP_SORTS, default=GROUP_SORTS[0], help="order (default: %(default)s)")
    verb.add_argument("--json", action="store_true", help="one object a line and group")
    return verb


def _add_health(verbs: _Verbs[_Parser]) -> argparse.ArgumentParser:
    verb = verbs.add_parser("health", help="how the downloads are doing, in numbers", allow_abbrev=False)
    verb.add_argument("--json", action="store_true", help="one object")
    return verb


def _add_network(verbs: _Verbs[_Parser]) -> argparse.ArgumentParser:
    verb = verbs.add_parser(
        "network", help="the line: connected, metered, and over which interfaces", allow_abbrev=False
    )
    verb.add_argument("--json", action="store_true", help="one object")
    return verb


def _add_verify(verbs: _Verbs[_Parser]) -> argparse.ArgumentParser:
    verb = verbs.add_parser("verify", help="read finished files again and check every chunk", allow_abbrev=False)
    verb.add_argument("ids", nargs="*", metavar="ID", help="only these (default: all that are complete)")
    verb.add_argument("--repair", action="store_true", help="fetch what is bad again; the rest is kept")
    add_trust_options(verb, _path)
    verb.add_argument("--json", action="store_true", help="one object a line and entry")
    return verb


def _add_gc(verbs: _Verbs[_Parser]) -> argparse.ArgumentParser:
    verb = verbs.add_parser("gc", help="remove from the disk what nothing needs any more", allow_abbrev=False)
    verb.add_argument("--dry-run", action="store_true", help="only tell what would be removed")
    verb.add_argument("--json", action="store_true", help="one object")
    return verb


def _add_demo(verbs: _Verbs[_Parser]) -> argparse.ArgumentParser:
    verb = verbs.add_parser(
        "demo",
        help="download, kill -9 half-way, resume, verify; needs no network",
        description="Works in a temporary folder (inside --root when that is given), which is removed afterwards.",
        allow_abbrev=False,
    )
    verb.add_argument("--size", metavar="MIB", type=int, default=256, help="of the file (default: %(default)s)")
    return verb
