"""What makes a damaged, lost or unfinished file right again: the ``get`` that fetches it anew, or a repair."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator

from engine.cli.arguments import default_root
from engine.cli.console import PROGRAM, escape
from engine.cli.text import shown_url
from engine.control.requests import derive_id
from engine.control.verify import Health, Validation
from engine.model.records import DownloadEntry, DownloadRequest, Durability, OnChange
from engine.model.states import State

# What to do before or instead of fetching, by what was found. A valid file needs nothing.
_ADVICE: dict[Health, str] = {
    Health.INCOMPLETE: "to finish it",
    Health.MISSING: "put it back, or fetch it again",
    Health.CORRUPT: "to fetch it anew in its place",
    Health.UNREADABLE: "make it readable, or fetch it anew in its place",
}


def heal_command(root: str, entry: DownloadEntry, health: Health, url: str) -> list[str] | None:
    """The arguments, from the program's name on, that make ``entry`` right again; None for one that is.

    All that was asked for is repeated, for the newest request counts. ``url`` is the entry's, or a form of it that may
    be shown. Values of secret headers are not known here: they appear as ``…``.
    """
    if health not in _ADVICE:
        return None
    command = [PROGRAM] if os.path.abspath(root) == os.path.abspath(default_root()) else [PROGRAM, "--root", root]
    command += ["get", *_options(entry)]
    if health is not Health.MISSING and entry.state is State.COMPLETED:  # the file that is there must give way
        command.append("--overwrite")
    return [*command, url]


def heal_line(root: str, entry: DownloadEntry, validation: Validation) -> str | None:
    """The same for people, on one line: query values and what a terminal cannot print are hidden."""
    url = shown_url(entry.url)
    command = heal_command(root, entry, validation.health, url)
    if command is None:
        return None
    by_record = not entry.secret_header_names and validation.health in {Health.CORRUPT, Health.MISSING}
    if url != entry.url and by_record:
        # What is hidden of the URL would be missing in a `get`; the record has all of it.
        command = [*command[: command.index("get")], "verify", "--repair", entry.id]
    return f"{'':<10}  {_ADVICE[validation.health]}: {' '.join(shlex.quote(escape(word)) for word in command)}"


def _options(entry: DownloadEntry) -> Iterator[str]:
    destination = None
    if entry.destination:
        destination = entry.destination + ("/" if entry.destination_is_folder else "")
        yield from ("--output", destination)
    if entry.id != derive_id(DownloadRequest(url=entry.url, destination=destination)):
        yield from ("--id", entry.id)
    for name, value in entry.headers:
        yield from ("--header", f"{name}: {value}")
    for name in entry.secret_header_names:
        yield from ("--secret-header", f"{name}: …")
    for algorithm, digest in entry.expect.items():
        yield from ("--expect", f"{algorithm}:{digest}")
    if entry.expected_length is not None:
        yield from ("--expect-length", str(entry.expected_length))
    if entry.durability is not Durability.STRICT:
        yield from ("--durability", entry.durability.value)
    for media_type in entry.media_types:
        yield from ("--media-type", media_type)
    if entry.on_change is not OnChange.RESTART:
        yield from ("--on-change", entry.on_change.value)
    if entry.connections is not None:
        yield from ("--connections", str(entry.connections))
    if entry.rate_limit_bytes_s:
        yield from ("--limit-rate", str(entry.rate_limit_bytes_s))
