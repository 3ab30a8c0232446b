"""The part of pytest-benchmark's fixture that is used here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Timing(Protocol):
    """Calls a function again and again and keeps how long each call took; returns what the function returned."""

    extra_info: dict[str, object]

    def __call__(self, function: Callable[..., Any], *arguments: object) -> Any:
        """As often as it takes to be exact."""

    def pedantic(
        self, target: Callable[..., Any], *, setup: Callable[[], object] | None = None, rounds: int, iterations: int = 1
    ) -> Any:
        """So many rounds; ``setup`` runs untimed before each and returns ``(args, kwargs)``."""
