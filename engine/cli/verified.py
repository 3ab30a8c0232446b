"""How a file was found that was read again, as a line for people or an object for programs."""

from __future__ import annotations

import msgspec

from engine.cli.console import escape, print_json, print_line
from engine.cli.healing import heal_command, heal_line
from engine.cli.text import size
from engine.control.verify import Health, Repair, Validation
from engine.model.records import DownloadEntry


class Mended(msgspec.Struct, frozen=True):
    """How a repair ended. ``why``: why it did not come to its end, empty when none was begun."""

    repaired: bool = False
    why: str = ""
    bytes_fetched: int = 0


UNTOUCHED = Mended()


def begun(validation: Validation) -> bool:
    """Whether a repair was begun, whose end is to be waited for."""
    return validation.repair in {Repair.CHUNKS, Repair.WHOLE}


def tell(root: str, entry: DownloadEntry, validation: Validation, mended: Mended, *, as_json: bool) -> bool:
    """Print it; returns whether the file is right now."""
    good = validation.health is Health.VALID or mended.repaired
    if as_json:
        heal = None if mended.repaired else heal_command(root, entry, validation.health, entry.url)
        told = {**msgspec.to_builtins(validation), "url": entry.url, "repaired": mended.repaired, "heal": heal}
        print_json(told)
        return good
    print_line(_as_line(validation))
    if mended.repaired:
        print_line(f"{'':<10}  repaired: {size(mended.bytes_fetched)} fetched")
    elif (line := heal_line(root, entry, validation)) is not None:
        if mended.why:
            print_line(f"{'':<10}  not repaired: {escape(mended.why)}")
        print_line(line)
    return good


def _as_line(validation: Validation) -> str:
    checked = f"{size(validation.bytes_checked)} checked" if validation.bytes_checked else ""
    bad = f"{len(validation.bad_ranges)} bad ranges" if validation.bad_ranges else ""
    rest = [validation.path, checked, bad, validation.message]
    return escape("  ".join([f"{validation.health.value:<10}", validation.id, *filter(None, rest)]))
