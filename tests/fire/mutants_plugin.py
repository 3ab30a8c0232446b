"""A pytest plugin that breaks the engine as the environment variable of :mod:`tests.fire.mutants` says."""

from __future__ import annotations

import os

import pytest

from tests.fire.mutants import MUTANTS, VARIABLE


def pytest_configure(config: pytest.Config) -> None:
    """Before any test is imported, for the whole session."""
    name = os.environ.get(VARIABLE)
    if name:
        patch = pytest.MonkeyPatch()
        MUTANTS[name].apply(patch)
        config.add_cleanup(patch.undo)
