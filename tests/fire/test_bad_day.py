"""Count the bad day, the short tier: of everything that may go wrong a part does, once or from then on, and the process
dies here and there; what and where, follows from the seed. The long tier is ``python -m tests.fire.bad_day``."""

from __future__ import annotations

import errno
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from engine import DownloadRequest, open_engine
from engine.errors import PartLost, StorageError
from engine.files.filesystem import FileSystem
from engine.files.part_file import open_finished
from tests.fire.bad_day import DEATH, MEMORY, Case, Tally, count_calls, one_of_each, run_case, run_cases
from tests.fire.bad_day_faults import FAULTS, STEPS
from tests.fire.bad_day_scenes import SCENES, SOLE
from tests.fire.bad_day_world import CONFIG
from tests.support.origin import serve

SEED = int(os.environ.get("FIRE_SEED", "6"))
CASES, DEATHS = 80, 20


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory: nothing here depends on what a disk does, and thousands of syncs cost nothing."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder)


@pytest.mark.timeout(300)
async def test_the_bad_day(memory: Path) -> None:
    """D1-D20, C1-C18, L8, L9, N6, N7, N21, N22: whatever fails, nothing is claimed that is not so, nobody is needed to
    mend it after a death, and all is there in the end."""
    tally = Tally()
    calls = await count_calls([scene.name for scene in SCENES], memory)
    rng = random.Random(SEED)
    cases = rng.sample(one_of_each(calls, rng, DEATHS), CASES)
    met = {kind for made in calls.values() for kind in made}
    assert met == FAULTS.keys(), "a kind of call is in no scene, or has nothing that may go wrong"
    await run_cases(cases, memory, tally)
    assert not tally.findings, "\n".join([f"FIRE_SEED={SEED}", *tally.findings])
    assert sum(tally.struck.values()) > 0.9 * len(cases)
    assert len(tally.codes) >= 4


@pytest.mark.timeout(300)
@pytest.mark.parametrize("scene", ["one-chunk", "remove", "repair"])
async def test_a_death_before_every_step(memory: Path, scene: str) -> None:
    """Law 4, 6: the process dies before each call that changes anything; its next start mends it by itself."""
    tally = Tally()
    [made] = (await count_calls([scene], memory)).values()
    cases = [
        Case(scene, kind, at, DEATH, False) for kind in sorted(STEPS & made.keys()) for at in range(1, made[kind] + 1)
    ]
    await run_cases(cases, memory, tally)
    assert not tally.findings, "\n".join(tally.findings)
    assert tally.codes["dead"] > 0.9 * len(cases) > 10


async def test_a_chunk_that_could_not_be_written_is_not_claimed(memory: Path) -> None:
    """D5: EIO for the third chunk."""
    outcome = await run_case(Case("strict", "seal", 3, FAULTS["seal"].index("EIO"), False), memory)
    assert outcome.numbering.struck
    assert outcome.findings == []


async def test_a_run_that_nothing_happens_to(memory: Path) -> None:
    """The counting comes to its end: behind the last call nothing is struck, and nothing is found."""
    outcome = await run_case(Case("strict", "sync", 10_000, 0, True), memory)
    assert (outcome.numbering.struck, outcome.code, outcome.findings) == ("", "", [])


@pytest.mark.parametrize("number", [errno.EIO, errno.EDQUOT])
def test_a_close_that_reports_an_error_closes(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Found by the bad day: it ended the whole engine, and left the other descriptors open."""
    close = os.close

    def closing(fd: int) -> None:
        close(fd)
        raise OSError(number, os.strerror(number))

    fd = os.open("/dev/null", os.O_RDONLY)
    with monkeypatch.context() as patch:
        patch.setattr(os, "close", closing)
        FileSystem().close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        FileSystem().close(fd)


@pytest.mark.parametrize("there", [True, False], ids=["plain file", "FIFO"])
def test_a_device_that_is_away_is_no_file_that_is_gone(tmp_path: Path, there: bool) -> None:
    """D12, found by the bad day: a finished file on a failing device counted as deleted, and was fetched again under
    another name. ENXIO also is what a FIFO answers; that is no file of the engine's."""

    class Away(FileSystem):
        def open_existing(self, folder_fd: int, name: str, *, write: bool) -> int:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))

    if there:
        (tmp_path / "film").write_bytes(b"film")
    else:
        os.mkfifo(tmp_path / "film")
    with pytest.raises(StorageError) as raised:
        open_finished(Away(), str(tmp_path), "film")
    assert isinstance(raised.value, PartLost) is not there


async def test_an_entry_that_is_let_go_twice_at_once_is_removed_once(library: Path) -> None:
    """Found by the bad day: the start finished a removal while a command asked for it again, and the engine ended with
    a KeyError."""
    async with serve(SOLE) as origin, open_engine(library, config=CONFIG) as engine:
        await engine.offline(DownloadRequest(url=origin.url(), id="a"))
        await engine.wait("a")
        await engine._services.write(engine._groups._store.disown, "a")  # as far as a removal came
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine._groups.finish)
            nursery.start_soon(engine.remove, "a")
        assert await engine.list() == []
        assert not list((library / "files").iterdir())
