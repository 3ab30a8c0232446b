"""Helper processes that must not outlive the harness, however it ends."""

from __future__ import annotations

import ctypes
import signal

PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def end_with_parent() -> None:
    """To be run in a child before its program (``preexec_fn``): it gets SIGTERM when the harness dies, also by SIGKILL,
    which no ``finally`` survives (prctl(2))."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
