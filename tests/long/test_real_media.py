"""A film and an album made with ffmpeg: fetched over HTTP and HTTPS, killed, resumed, hashed by b3sum, played."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine import StoreUnusable
from engine.config import DEFAULT_CONFIG
from engine.files.filesystem import FileSystem
from engine.store.state_store import StateStore
from tests.support.nginx import Nginx

pytestmark = pytest.mark.long

TRACKS = 4


def tool(name: str) -> str:
    """The path of a program that these tests cannot do without."""
    found = shutil.which(name)
    assert found is not None, f"{name} is not installed: apt-get install ffmpeg b3sum"
    return found


def ffmpeg(*arguments: str) -> None:
    subprocess.run([tool("ffmpeg"), "-v", "error", "-nostdin", "-y", *arguments], check=True, timeout=300)


def engine(root: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "engine", "--root", str(root), *arguments]


def b3sum(path: Path) -> str:
    done = subprocess.run([tool("b3sum"), "--no-names", str(path)], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def wait_until_durable(root: Path, count: int, child: subprocess.Popen[bytes]) -> None:
    """Until the store of a running engine claims ``count`` bytes of its one entry."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and child.poll() is None:
        with contextlib.suppress(StoreUnusable):  # the store is made in the first moments
            store = StateStore.open_readonly(str(root), DEFAULT_CONFIG, FileSystem())
            try:
                if any(part.bytes_done >= count for entry in store.list() for part in store.parts(entry.id)):
                    return
            finally:
                store.close()
        time.sleep(0.05)
    raise AssertionError(f"{count} bytes were not durable in time")


@pytest.fixture(scope="module")
def film(nginx: Nginx) -> Path:
    """Some 100 MB of H.264 and AAC."""
    path = nginx.files / "film.mp4"
    noisy = "testsrc2=size=1280x720:rate=25:duration=60,noise=alls=40:allf=t"
    ffmpeg(
        *("-f", "lavfi", "-i", noisy, "-f", "lavfi", "-i", "sine=frequency=330:duration=60"),
        *("-c:v", "libx264", "-preset", "ultrafast", "-b:v", "14M", "-minrate", "14M", "-maxrate", "14M"),
        *("-bufsize", "14M", "-pix_fmt", "yuv420p", "-c:a", "aac", "-shortest", str(path)),
    )
    assert path.stat().st_size > 60_000_000
    return path


@pytest.fixture(scope="module")
def album(nginx: Nginx) -> list[Path]:
    """FLAC tracks."""
    paths = []
    for number in range(1, TRACKS + 1):
        path = nginx.files / f"track-{number}.flac"
        source = f"anoisesrc=duration=45:color=pink:seed={number},aformat=sample_rates=44100:channel_layouts=stereo"
        ffmpeg("-f", "lavfi", "-i", source, "-c:a", "flac", str(path))
        paths.append(path)
    return paths


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("durability", ["strict", "relaxed"])
def test_film_survives_kills_and_plays(nginx: Nginx, film: Path, tmp_path: Path, scheme: str, durability: str) -> None:
    base = nginx.http if scheme == "http" else nginx.https
    url = f"{base}/slow/{film.name}"  # 2 MB/s a connection: time to be killed in
    arguments = ("get", url, "--json", "--no-progress", "--durability", durability, "--connections", "8")
    command = engine(tmp_path / "library", *arguments, *(("--cacert", nginx.cafile) if scheme == "https" else ()))
    for held in (4_000_000, 16_000_000):
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_until_durable(tmp_path / "library", held, child)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL

    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    report = json.loads(done.stdout)
    fetched = Path(report["path"])

    assert report["bytes_resumed"] >= 16_000_000
    assert report["bytes_resumed"] + report["bytes_fetched"] == film.stat().st_size
    assert report["blake3"] == b3sum(film) == b3sum(fetched)
    ffmpeg("-i", str(fetched), "-f", "null", "-")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_album_is_fetched_whole_and_plays(nginx: Nginx, album: list[Path], tmp_path: Path, scheme: str) -> None:
    base = nginx.http if scheme == "http" else nginx.https
    urls = [f"{base}/{track.name}" for track in album]
    options = ["--json", "--no-progress", "--output", f"{tmp_path}/album/"]
    options += ["--cacert", nginx.cafile] if scheme == "https" else []
    subprocess.run(
        engine(tmp_path / "library", "get", *urls, *options), check=True, timeout=120, stdout=subprocess.DEVNULL
    )

    for track in album:
        fetched = tmp_path / "album" / track.name
        assert b3sum(fetched) == b3sum(track)
        ffmpeg("-i", str(fetched), "-f", "null", "-")
    subprocess.run(engine(tmp_path / "library", "verify"), check=True, timeout=120)
