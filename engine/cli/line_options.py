"""The options about the line: which one may be used, and when."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from engine.model.line_policy import LinePolicy

_METERED: Final = {"allow": True, "deny": False}


def add_line_options(verb: argparse.ArgumentParser, size: Callable[[str], int]) -> None:
    """What a verb has that asks for downloads. ``size``: the type of numbers of bytes."""
    add = verb.add_argument_group("line").add_argument
    add("--metered", choices=_METERED, help="whether a line that costs by the byte may be used (default: allow)")
    add(
        "--metered-max", metavar="SIZE", type=size, help="on such a line, only files of at most so many bytes, like 20M"
    )
    add(
        "--interface",
        metavar="NAME",
        action="append",
        default=[],
        help="go through this interface only, by name or kind (wifi, ethernet, cellular, vpn, any); again for more",
    )
    add("--hours", metavar="FROM-TO", type=_hours, help="only then, by the local clock, like 22:00-06:00,12:00-13:00")


def _hours(text: str) -> str:
    """Not an empty one, which an unset variable in a script leaves; the rest is checked with the request."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def line_of(arguments: argparse.Namespace) -> LinePolicy:
    """The policy that the arguments ask for; it is checked with the request."""
    from engine.model.line_policy import LinePolicy  # noqa: PLC0415  # no verb but `get` needs it

    return LinePolicy(
        allow_metered=None if arguments.metered is None else _METERED[arguments.metered],
        metered_bytes_max=arguments.metered_max,
        interfaces=tuple(arguments.interface),
        hours=arguments.hours or "",
    )
