"""Closing, forgetting and forking a sealer, and its threads."""

import gc
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from engine.native import BufferPool, Sealer
from tests.native.sealing import CHUNK, WAIT_SECONDS, filled, readable


def test_close_finishes_what_is_in_flight(either: Sealer, pool: BufferPool, file: int) -> None:
    data = [bytes([i]) * CHUNK for i in range(4)]
    for i, chunk in enumerate(data):
        either.submit(i, file, filled(pool, chunk), CHUNK, i * CHUNK, i * (CHUNK // 1024), False)
    results = either.close()
    gc.collect()

    assert [(ticket, error) for ticket, error, _digest, _ns in sorted(results)] == [(i, 0) for i in range(4)]
    assert os.pread(file, 4 * CHUNK + 1, 0) == b"".join(data)
    assert (pool.free, either.in_flight, either.close()) == (4, 0, [])


def test_a_closed_sealer_refuses(pool: BufferPool) -> None:
    sealer = Sealer(1, 1)
    sealer.close()
    for use in (sealer.fileno, sealer.drain, sealer.__enter__):
        with pytest.raises(ValueError, match="closed"):
            use()
    with pytest.raises(ValueError, match="closed"):
        sealer.submit(1, -1, filled(pool, b"x"), 1, 0, 0, False)


def test_a_forgotten_sealer_finishes_its_work(pool: BufferPool, file: int) -> None:
    before = threads_named_oe_seal()
    sealer = Sealer(3, 2)

    assert threads_named_oe_seal() == before + 3

    sealer.submit(1, file, filled(pool, b"last words"), 10, 0, 0, False)
    eventfd = sealer.fileno()
    del sealer
    gc.collect()

    assert (os.pread(file, 99, 0), pool.free, threads_named_oe_seal()) == (b"last words", 4, before)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(eventfd)


def threads_named_oe_seal() -> int:
    threads = list(Path("/proc/self/task").iterdir())
    return sum((thread / "comm").read_text() == "oe-seal\n" for thread in threads)


def test_its_threads_take_no_signals() -> None:
    every_signal = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGXFSZ}
    with Sealer(2, 1):
        masks = [
            int(line.split()[1], 16)
            for thread in Path("/proc/self/task").iterdir()
            if (thread / "comm").read_text() == "oe-seal\n"
            for line in (thread / "status").read_text().splitlines()
            if line.startswith("SigBlk:")
        ]

    assert len(masks) >= 2
    assert all(mask >> (number - 1) & 1 for mask in masks for number in every_signal)


FORKED = """
import os
from engine.native import BufferPool, Sealer
pool = BufferPool(1, 1 << 20)
sealer = Sealer(2, 2)
sealer.submit(1, -1, pool.acquire(), 1 << 20, 0, 0, False)
child = os.fork()
if child == 0:
    refused = 0
    for use in (sealer.fileno, sealer.drain, lambda: sealer.in_flight, sealer.__enter__):
        try:
            use()
        except ValueError:
            refused += 1
    closed = sealer.close()
    del sealer, pool
    os._exit(0 if (refused, closed) == (4, []) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), [r[0] for r in sealer.close()])
"""


def test_a_forked_child_does_nothing() -> None:
    run = subprocess.run(
        [sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=WAIT_SECONDS, check=False
    )

    assert (run.returncode, run.stdout, run.stderr) == (0, "0 [1]\n", "")


def test_many_chunks_drained_by_several_threads() -> None:
    pool = BufferPool(8, 4096)
    sealer = Sealer(3, 8)
    finished: list[int] = []
    drainers_stop = threading.Event()

    def drain_until_stopped() -> None:
        while not drainers_stop.is_set():
            if readable(sealer, 0.05):
                finished.extend(result[0] for result in sealer.drain())

    drainers = [threading.Thread(target=drain_until_stopped) for _ in range(2)]
    for drainer in drainers:
        drainer.start()
    submitted = 0
    while submitted < 2000:
        if sealer.in_flight < 8 and (buffer := pool.acquire()) is not None:
            sealer.submit(submitted, -1, buffer, 4096, 0, 4, False)
            submitted += 1
            del buffer
    drainers_stop.set()
    for drainer in drainers:
        drainer.join()
    finished.extend(result[0] for result in sealer.close())

    assert sorted(finished) == list(range(2000))
    assert pool.free == 8
