"""One file by pypdl in four segments: ``python pypdl_segments.py URL TARGET``."""

from __future__ import annotations

import importlib
import sys

SEGMENTS = 4


def main(url: str, target: str) -> None:
    """Fetch it. Raises SystemExit when pypdl did not."""
    pypdl = importlib.import_module("pypdl")  # a peer: it need not be there for this file to be checked
    results = pypdl.Pypdl().start(url, file_path=target, segments=SEGMENTS, display=False)
    if not results:
        raise SystemExit("pypdl has no result")


if __name__ == "__main__":
    main(*sys.argv[1:])
