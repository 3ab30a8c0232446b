"""``network``: the line as it is, as an engine started here would see it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Final

import msgspec
import trio

from engine.cli import status
from engine.cli.console import escape, print_json, print_line
from engine.model.lines import UNKNOWN_LINE, Interface, Line
from engine.network.auto import AutoMonitor

ANSWER_WITHIN_S: Final = 2.0  # NetworkManager's word on what is metered; without it the rest is told


def run(arguments: argparse.Namespace) -> int:
    """Print the line."""
    line = trio.run(look)
    if arguments.json:
        facts = msgspec.to_builtins(line)
        print_json({**facts, "interfaces": [{**msgspec.to_builtins(i), "usable": i.usable} for i in line.interfaces]})
    else:
        for text in _as_lines(line):
            print_line(text)
    return status.COMPLETE


async def look() -> Line:
    """The line now."""
    seen = [UNKNOWN_LINE]
    known = trio.Event()

    def tell(line: Line) -> None:
        seen.append(line)
        if line.metered is not None:
            known.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(AutoMonitor().follow, tell)
        with trio.move_on_after(ANSWER_WITHIN_S):
            await known.wait()
        nursery.cancel_scope.cancel()
    return seen[-1]


def _as_lines(line: Line) -> Iterator[str]:
    yield f"connected     {'yes' if line.connected else 'no'}"
    yield f"metered       {_tristate(line.metered)}"
    yield f"connectivity  {line.connectivity.value}"
    for interface in line.interfaces:
        yield f"interface     {escape(interface.name)}: {', '.join(_facts(interface))}"


def _facts(interface: Interface) -> Iterator[str]:
    yield interface.kind.value
    yield "up" if interface.up else "down"
    if interface.default_route:
        yield "default route"
    elif interface.routed:
        yield "local routes"
    if interface.metered is not None:
        yield "metered" if interface.metered else "not metered"
    yield from interface.addresses


def _tristate(value: bool | None) -> str:
    return "unknown" if value is None else "yes" if value else "no"
