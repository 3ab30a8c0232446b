"""Every row of the hostile table, in every pass that it has."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.hostile.row import Pass, Row
from tests.hostile.rows_framing import BODIES, HEADS
from tests.hostile.runner import play_row
from tests.hostile.table import ROWS

FRAMING = {row.label for row in (*HEADS, *BODIES)}


def _marks(row: Row, how: Pass) -> list[pytest.MarkDecorator]:
    often = how is not Pass.BYTES or row.label in FRAMING  # of the other heads nothing new is read: they can wait
    return [] if often else [pytest.mark.long]


CASES = [
    pytest.param(row, how, id=f"{row.label} ({how.value})", marks=_marks(row, how))
    for row in ROWS
    for how in Pass
    if how in row.passes
]


@pytest.mark.parametrize(("row", "how"), CASES)
async def test_row(row: Row, how: Pass, library: Path, mock_clock: trio.testing.MockClock) -> None:
    await play_row(row, how, library)
