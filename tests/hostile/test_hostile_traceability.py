"""Every N and S case of the fault catalogue is played by a row, or by a test that is named."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

from tests.hostile.table import CATALOGUE, ELSEWHERE, ROWS

TESTS = Path(__file__).parent.parent


@pytest.mark.parametrize("case", CATALOGUE)
def test_every_case_has_a_row_or_a_test_elsewhere(case: str) -> None:
    assert case in ELSEWHERE or any(row.id == case for row in ROWS)


@pytest.mark.parametrize(
    ("path", "name"), sorted({test for tests in ELSEWHERE.values() for test in tests}), ids=lambda text: text
)
def test_what_is_elsewhere_is_there(path: str, name: str) -> None:
    tree = ast.parse((TESTS / path).read_text())
    found = [
        node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name
    ]
    assert len(found) == 1
    skipped = [mark for mark in found[0].decorator_list if "skip" in ast.unparse(mark) or "xfail" in ast.unparse(mark)]
    assert not skipped


def test_rows_are_of_the_catalogue_and_told_apart() -> None:
    assert {row.id for row in ROWS} <= set(CATALOGUE)
    assert [label for label, count in Counter(row.label for row in ROWS).items() if count > 1] == []
