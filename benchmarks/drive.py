"""Ours as a library: one process that opens an engine, asks for all, and tells what the parts of it took.

    python -m benchmarks.drive --root FOLDER --out FOLDER [--list FILE] [--set NAME=VALUE]… [URL]…

Prints one JSON object: seconds to open, to have everything, to close, and the CPU seconds of the middle one. The time
to start the interpreter and to import is in none of them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Sequence

import trio

from engine import Config, DownloadRequest, Durability, open_engine


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drive")
    parser.add_argument("urls", nargs="*", metavar="URL")
    parser.add_argument("--list", metavar="FILE", help="one URL a line")
    parser.add_argument("--root", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a field of Config")
    parser.add_argument("--durability", default="relaxed")
    parser.add_argument("--connections", type=int)
    return parser.parse_args(words)


def config_of(settings: Sequence[str]) -> Config:
    """The configuration with these fields changed; each value is read as what its default is."""
    changed: dict[str, int | float] = {}
    for setting in settings:
        name, _, text = setting.partition("=")
        changed[name] = type(getattr(Config(), name))(text)
    return Config(**changed)  # type: ignore[arg-type]  # int or float as the default is


def requests_of(arguments: argparse.Namespace) -> list[DownloadRequest]:
    """One request for each URL, to its own name in the output folder."""
    urls = list(arguments.urls)
    if arguments.list is not None:
        with open(arguments.list, encoding="ascii") as source:
            urls += source.read().split()
    return [
        DownloadRequest(
            url=url,
            destination=os.path.join(arguments.out, url.rpartition("/")[2]),
            durability=Durability(arguments.durability),
            connections=arguments.connections,
        )
        for url in urls
    ]


async def drive(arguments: argparse.Namespace) -> dict[str, float]:
    """Do it, and return what it took."""
    requests, config = requests_of(arguments), config_of(arguments.set)
    began = time.perf_counter()
    async with open_engine(arguments.root, config=config, resume=False) as engine:
        opened, cpu_opened = time.perf_counter(), time.process_time()
        for download in await engine.offline_many(requests):
            await download.wait()
        done, cpu_done = time.perf_counter(), time.process_time()
    closed = time.perf_counter()
    return {
        "open_s": opened - began,
        "work_s": done - opened,
        "close_s": closed - done,
        "inside_s": closed - began,
        "work_cpu_s": cpu_done - cpu_opened,
    }


def main() -> None:
    """See the module."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(json.dumps(trio.run(drive, parsed())))


if __name__ == "__main__":
    main()
