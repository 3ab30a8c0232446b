"""How the command line words things: safe on a terminal whatever a server said, and easy to read.

Human lines show URLs without their query values, for tokens live there; ``--json`` gives the user's own record whole.
"""

from __future__ import annotations

import time

from engine.cli.console import escape
from engine.config import KIB
from engine.errors import EngineError, InvalidRequest
from engine.model.records import DownloadEntry, ErrorRecord
from engine.net.url import parse_url

_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")
_AT_FAULT = {
    "caller": "what was asked for",
    "network": "the network",
    "server": "the server",
    "storage": "the storage here",
    "host": "a limit of this machine",
    "engine": "the engine itself",
}


def shown_url(url: str) -> str:
    """The URL for people: without query values, escaped."""
    try:
        return escape(parse_url(url).redacted())
    except InvalidRequest:
        return escape(url.partition("?")[0])


def size(count: int | None) -> str:
    """``1.5 MiB``; ``?`` when unknown."""
    if count is None:
        return "?"
    if count < KIB:
        return f"{count} B"
    amount = float(count)
    for unit in _UNITS:
        amount /= KIB
        if amount < KIB or unit == _UNITS[-1]:
            break
    return f"{amount:.1f} {unit}"


def progress(done: int, total: int | None) -> str:
    """``1.0 MiB of 4.0 MiB, 25%``."""
    share = f", {100 * done // total}%" if total else ""
    return f"{size(done)} of {size(total)}{share}"


def state_text(entry: DownloadEntry) -> str:
    """The state, and why."""
    return escape(entry.state.value + (f" ({entry.state_reason.value})" if entry.state_reason.value else ""))


def rate(count: int, seconds: float) -> str:
    """``120.0 MiB/s``."""
    return f"{size(int(count / seconds))}/s" if seconds > 0 else "-"


def moment(at: float | None) -> str:
    """A time of a record in the local zone; ``-`` when there is none."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)) if at else "-"


def fault_text(error: ErrorRecord | EngineError) -> str:
    """What happened, whose fault it is, and what to do, on one line."""
    message = error.message if isinstance(error, ErrorRecord) else str(error)
    at_fault = _AT_FAULT.get(str(error.fault), str(error.fault))
    return escape(f"{message} ({error.code}; at fault: {at_fault}). {error.advice}".rstrip())
