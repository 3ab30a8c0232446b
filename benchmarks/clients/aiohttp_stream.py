"""One file by aiohttp, streamed into a file in pieces of 1 MiB: ``python aiohttp_stream.py URL TARGET``."""

from __future__ import annotations

import asyncio
import importlib
import sys

PIECE_BYTES = 1 << 20


async def fetch(url: str, target: str) -> None:
    """Fetch it, as the documentation of aiohttp shows it. Raises for any status that is no success."""
    aiohttp = importlib.import_module("aiohttp")  # a peer: it need not be there for this file to be checked
    session = aiohttp.ClientSession(raise_for_status=True, read_bufsize=PIECE_BYTES)
    async with session, session.get(url) as answer:
        with open(target, "wb") as file:  # noqa: ASYNC230  # what such a program does
            async for piece in answer.content.iter_chunked(PIECE_BYTES):
                file.write(piece)


if __name__ == "__main__":
    asyncio.run(fetch(*sys.argv[1:]))
