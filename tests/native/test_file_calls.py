"""The four system calls that Python does not have."""

import errno
import os
from pathlib import Path

import pytest

from engine import native


def test_fallocate_makes_room_and_grows_the_file(tmp_path: Path) -> None:
    with open(tmp_path / "part", "wb") as part:
        native.fallocate(part.fileno(), 1 << 20)
        status = os.fstat(part.fileno())

    assert (status.st_size, status.st_blocks * 512 >= 1 << 20) == (1 << 20, True)


def test_fallocate_makes_room_behind_the_end(tmp_path: Path) -> None:
    with open(tmp_path / "part", "wb") as part:
        native.fallocate(part.fileno(), 1 << 20, keep_size=True)
        status = os.fstat(part.fileno())

    assert (status.st_size, status.st_blocks * 512 >= 1 << 20) == (0, True)


def test_fallocate_reports_errors(tmp_path: Path) -> None:
    (tmp_path / "part").touch()
    with open(tmp_path / "part", "rb") as part, pytest.raises(OSError, match="Bad file descriptor"):
        native.fallocate(part.fileno(), 1)
    reader, writer = os.pipe()
    with pytest.raises(OSError, match="seek") as caught:
        native.fallocate(writer, 1)
    os.close(reader)
    os.close(writer)

    assert caught.value.errno == errno.ESPIPE


@pytest.mark.parametrize(("fd", "length"), [(-1, 1), (2**31, 1), (1, 0), (1, -1), (1, 2**63)])
def test_fallocate_refuses_impossible_arguments(fd: int, length: int) -> None:
    with pytest.raises(ValueError, match="must be from"):
        native.fallocate(fd, length)


@pytest.fixture
def folder(tmp_path: Path) -> int:
    return os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)


def test_rename_moves_between_folders(tmp_path: Path, folder: int) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "from").write_text("x")
    target = os.open(tmp_path / "sub", os.O_RDONLY | os.O_DIRECTORY)
    native.rename_noreplace(folder, b"from", target, "tö".encode())
    os.close(target)
    os.close(folder)

    assert (tmp_path / "sub" / "tö").read_text() == "x"
    assert not (tmp_path / "from").exists()


def test_rename_replaces_nothing(tmp_path: Path, folder: int) -> None:
    (tmp_path / "from").write_text("new")
    (tmp_path / "to").write_text("old")
    with pytest.raises(FileExistsError) as caught:
        native.rename_noreplace(folder, b"from", folder, b"to")
    os.close(folder)

    assert (caught.value.filename, caught.value.filename2) == ("from", "to")
    assert [(tmp_path / name).read_text() for name in ("from", "to")] == ["new", "old"]


def test_rename_of_nothing(folder: int) -> None:
    with pytest.raises(FileNotFoundError):
        native.rename_noreplace(folder, b"from", folder, b"to")
    with pytest.raises(ValueError, match="zero byte"):
        native.rename_noreplace(folder, b"fr\0m", folder, b"to")
    with pytest.raises(TypeError):
        native.rename_noreplace(folder, "from", folder, b"to")  # type: ignore[arg-type]
    os.close(folder)


def test_sync_range_start(tmp_path: Path) -> None:
    with open(tmp_path / "part", "wb", buffering=0) as part:
        part.write(bytes(1 << 16))
        native.sync_range_start(part.fileno(), 4096, 8192)
        with pytest.raises(ValueError, match="must be from"):
            native.sync_range_start(part.fileno(), -1, 1)
        with pytest.raises(ValueError, match="must be from"):
            native.sync_range_start(part.fileno(), 1, 2**63 - 1)
        descriptor = part.fileno()
    with pytest.raises(OSError, match="Bad file descriptor"):
        native.sync_range_start(descriptor, 0, 1)


def test_release_mapped_refuses_what_is_no_mapping() -> None:
    with pytest.raises(ValueError, match="must be from"):
        native.release_mapped(0, 4096)
    with pytest.raises(OSError, match="Invalid argument"):
        native.release_mapped(4097, 4096)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        native.release_mapped(4096, 4096)
