"""Every case of the fault catalogue has a test that is there and runs, or a reason why it does not apply."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.fire.trace_table import CATALOGUE, NOT_APPLICABLE, SIZES, TABLE, named_tests
from tests.hostile.table import ELSEWHERE, ROWS

TESTS = Path(__file__).parent.parent
HOSTILE = {row.id for row in ROWS} | set(ELSEWHERE)


@pytest.mark.parametrize("case", CATALOGUE)
def test_every_case_is_shown_or_does_not_apply(case: str) -> None:
    places = [case in TABLE, case in NOT_APPLICABLE, case in HOSTILE]

    assert sum(places) == 1, f"{case} is told {sum(places)} times"
    assert case not in TABLE or TABLE[case]
    assert case not in NOT_APPLICABLE or len(NOT_APPLICABLE[case]) > 20


def test_no_case_is_made_up() -> None:
    assert set(TABLE) | set(NOT_APPLICABLE) | HOSTILE <= set(CATALOGUE)
    assert sum(SIZES.values()) == len(CATALOGUE) == 174


@cache
def _functions(path: str) -> dict[str, str]:
    """The tests of a file, and the marks of each and of the file."""
    tree = ast.parse((TESTS / path).read_text())
    whole = "".join(ast.unparse(node) for node in tree.body if isinstance(node, ast.Assign))
    module_marks = whole if "pytestmark" in whole else ""
    return {
        node.name: " ".join([module_marks, *(ast.unparse(mark) for mark in node.decorator_list)])
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.mark.parametrize("test", named_tests())
def test_what_is_named_is_there_and_runs(test: str) -> None:
    path, _, name = test.partition("::")
    functions = _functions(path)

    assert name in functions
    assert not [mark for mark in ("skip", "xfail", "mark.long") if mark in functions[name]]
