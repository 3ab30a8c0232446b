"""The search for orphans: what was an orphan a moment ago may be somebody's file by now."""

from __future__ import annotations

import os
from pathlib import Path

from engine import DownloadRequest, open_engine
from engine.control.orphans import Action, What, remove_orphan, scan
from engine.files.filesystem import FileSystem
from engine.files.names import part_name, tag_of_part
from engine.transfer.setup_part import entry_tag
from tests.support.library import CHUNK, SMALL, content, payload_of
from tests.support.origin import serve

PAYLOAD = payload_of(40 * CHUNK, seed=83)


def test_only_the_engines_own_names_are_known() -> None:
    assert tag_of_part(part_name("0123456789abcdef", 12)) == "0123456789abcdef"
    others = (
        *("film.part", ".oe-0123456789abcdef-1.part.bak", ".oe-0123456789ABCDEF-1.part", ".oe-0123-1.part"),
        *("x.oe-0123456789abcdef-1.part", ".oe-0123456789abcdef-.part", ".oe-0123456789abcdef-1.part\n"),
        *(".oe-0123456789abcdef-\u0661.part", ""),
    )
    assert [name for name in others if tag_of_part(name) is not None] == []


async def test_an_orphan_that_became_a_running_entrys_file_stays(library: Path) -> None:
    """The name of the new entry's file is that of the orphan: between the look and the removal it was asked for."""
    name = part_name(entry_tag("film"), 1)
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        services = engine._services
        path = library / "files" / name
        path.parent.mkdir()
        path.write_bytes(b"left")
        [found] = scan(services.store, services.files, services.library, services.now() + 1.0, 0.0)
        assert (found.what, found.action, found.path) == (What.ORPHAN_PART, Action.WOULD_REMOVE, str(path))
        origin.rate = 1_000_000.0
        download = await engine.offline(DownloadRequest(url=origin.url(), id="film"))
        await origin.until_sent(10 * CHUNK)
        assert path.exists()
        assert (await remove_orphan(services, found)).action is Action.KEPT
        assert path.exists()
        assert content((await download.wait()).path) == PAYLOAD


async def test_what_cannot_be_removed_is_told(library: Path) -> None:
    files = FileSystem()

    def refuse(folder_fd: int, name: str) -> bool:
        raise PermissionError(1, "not allowed")

    async with open_engine(library, config=SMALL, files=files) as engine:
        services = engine._services
        path = library / "files" / part_name("0123456789abcdef", 1)
        path.parent.mkdir()
        path.write_bytes(b"left")
        [found] = scan(services.store, services.files, services.library, services.now() + 1.0, 0.0)
        files.unlink = refuse  # type: ignore[method-assign]
        kept = await remove_orphan(services, found)
        assert kept.action is Action.KEPT
        assert "not allowed" in kept.why
        del files.unlink
        assert (await remove_orphan(services, found)).action is Action.REMOVED
        assert os.listdir(path.parent) == []
