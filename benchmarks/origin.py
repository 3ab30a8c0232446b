"""A private nginx on loopback with a file of random bytes."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

CONFIG = """
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{ listen 127.0.0.1:{port}; root {folder}/www; }}
}}
"""


@dataclass(frozen=True)
class Origin:
    """Where it listens and what it serves from."""

    port: int
    www: str

    def url(self, name: str) -> str:
        """The URL of a file in ``www``."""
        return f"http://127.0.0.1:{self.port}/{name}"

    def add(self, name: str, size: int) -> None:
        """A file of ``size`` random bytes, in the page cache."""
        with open(os.path.join(self.www, name), "wb") as target:
            target.writelines(os.urandom(min(1 << 20, size - at)) for at in range(0, size, 1 << 20))


def nginx_path() -> str:
    """The nginx to use. Raises SystemExit naming how to install it."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if found is None:
        raise SystemExit("the benchmarks need nginx: apt-get install nginx-light")
    return found


@contextlib.contextmanager
def serving(folder: str) -> Iterator[Origin]:
    """An origin for the block; its process ends with it."""
    www = os.path.join(folder, "www")
    os.makedirs(www)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = os.path.join(folder, "nginx.conf")
    with open(config, "w", encoding="ascii") as target:
        target.write(CONFIG.format(folder=folder, port=port))
    os.chmod(folder, 0o755)
    process = subprocess.Popen([nginx_path(), "-c", config, "-p", folder], stderr=subprocess.DEVNULL)
    try:
        _wait_until_open(port, process)
        yield Origin(port, www)
    finally:
        process.terminate()
        process.wait(timeout=10)


def _wait_until_open(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise SystemExit("nginx did not start")
