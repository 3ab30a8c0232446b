"""One file by httpx, streamed into a file in pieces of 1 MiB: ``python httpx_stream.py URL TARGET``."""

from __future__ import annotations

import importlib
import sys

PIECE_BYTES = 1 << 20


def main(url: str, target: str) -> None:
    """Fetch it. Raises for any status that is no success."""
    httpx = importlib.import_module("httpx")  # a peer: it need not be there for this file to be checked
    with httpx.stream("GET", url) as answer, open(target, "wb") as file:
        answer.raise_for_status()
        file.writelines(answer.iter_bytes(PIECE_BYTES))


if __name__ == "__main__":
    main(*sys.argv[1:])
