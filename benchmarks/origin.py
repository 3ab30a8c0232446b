"""A private nginx on loopback, plain and TLS, with files of random bytes whose hashes are known."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import trustme
from blake3 import blake3

from benchmarks.children import end_with_parent
from benchmarks.peers import PeerMissing
from benchmarks.workspace import NoRoom

WORKER_FILES_MAX = 8192  # a socket and a file for each of 1,000 connections, and some more
START_S_MAX = 10.0
PIECE_BYTES = 1 << 20

CONFIG = """
worker_processes 1;
worker_rlimit_nofile {files_max};
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
{user}
events {{ worker_connections 4096; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_timeout 60s;
    keepalive_requests 1000000;
    default_type application/octet-stream;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    ssl_certificate {folder}/chain.pem;
    ssl_certificate_key {folder}/key.pem;
    ssl_session_cache shared:tls:10m;
    server {{
        listen {address}:{port} backlog=2048;
        listen {address}:{tls_port} ssl backlog=2048;
        root {folder}/www;
        location ~ ^/limited/(?<rate>[0-9]+)/(?<name>.*)$ {{ limit_rate $rate; alias {folder}/www/$name; }}
    }}
}}
"""


@dataclass(slots=True)
class Origin:
    """Where it listens, what it serves from, and the BLAKE3 of every file that was added."""

    port: int
    tls_port: int
    www: str
    cafile: str
    hashes: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    address: str = "127.0.0.1"

    def url(self, name: str, *, tls: bool = False) -> str:
        """The URL of a file in ``www``."""
        return f"https://{self.address}:{self.tls_port}/{name}" if tls else f"http://{self.address}:{self.port}/{name}"

    def limited_url(self, name: str, bytes_s: int) -> str:
        """The same, sent with at most so many bytes a second to each connection."""
        return f"http://{self.address}:{self.port}/limited/{bytes_s}/{name}"

    def add(self, name: str, size: int) -> None:
        """A file of ``size`` random bytes, in the page cache. Raises NoRoom."""
        try:
            self._add(name, size)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise NoRoom(f"there is no room for {size >> 20} MiB to serve (see --folder)") from error

    def _add(self, name: str, size: int) -> None:
        hasher = blake3()
        path = os.path.join(self.www, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as target:
            for at in range(0, size, PIECE_BYTES):
                piece = os.urandom(min(PIECE_BYTES, size - at))
                hasher.update(piece)
                target.write(piece)
        self.hashes[name], self.sizes[name] = hasher.hexdigest(), size

    def refresh(self, names: Sequence[str]) -> None:
        """Read these files: a kernel that reclaims cold memory unasked may have dropped some of their pages."""
        for name in names:
            with open(os.path.join(self.www, name), "rb", buffering=0) as source:
                while source.read(PIECE_BYTES):
                    pass

    def add_many(self, folder: str, count: int, size: int) -> list[str]:
        """``count`` files of ``size`` bytes; returns their names."""
        names = [f"{folder}/{number:05}.bin" for number in range(count)]
        for name in names:
            self.add(name, size)
        return names


def nginx_path() -> str:
    """The nginx to use. Raises PeerMissing."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise PeerMissing("nginx is missing: apt-get install nginx-light")
    return found


@contextlib.contextmanager
def serving(folder: str, *, address: str = "127.0.0.1", enter: Sequence[str] = ()) -> Iterator[Origin]:
    """An origin for the block, with all its files below ``folder``; its process ends with it. ``enter``: what to put
    before its command so that it runs where ``address`` is."""
    binary = nginx_path()
    www, cafile = os.path.join(folder, "www"), os.path.join(folder, "ca.pem")
    os.makedirs(www)
    os.chmod(folder, 0o755)  # its worker may run as another user
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_pem.write_to_path(os.path.join(folder, "key.pem"))
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(os.path.join(folder, "chain.pem"), append=True)
    authority.cert_pem.write_to_path(cafile)
    port, tls_port = _free_ports(2)
    user = "user root;" if os.geteuid() == 0 else ""  # the worker would lose its rights on the folder
    config = os.path.join(folder, "nginx.conf")
    with open(config, "w", encoding="ascii") as target:
        places = {"folder": folder, "address": address, "port": port, "tls_port": tls_port}
        target.write(CONFIG.format(**places, user=user, files_max=WORKER_FILES_MAX))
    errors = os.path.join(folder, "error.log")
    # A session of its own: Ctrl-C is for the harness, which ends it once no contender needs it any more.
    process = subprocess.Popen(
        [*enter, binary, "-e", errors, "-c", config, "-p", folder],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=end_with_parent,  # noqa: PLW1509  # the harness has one thread
    )
    try:
        _wait_until_open(os.path.join(folder, "nginx.pid"), process, errors)
        yield Origin(port, tls_port, www, cafile, address=address)
    finally:
        process.terminate()
        process.wait(timeout=START_S_MAX)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as probes:
        held = [probes.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(probe.getsockname()[1]) for probe in held]


def _wait_until_open(pid_file: str, process: subprocess.Popen[bytes], errors: str) -> None:
    """It writes its process id once it listens."""
    deadline = time.monotonic() + START_S_MAX
    while time.monotonic() < deadline and process.poll() is None:
        if os.path.exists(pid_file):
            return
        time.sleep(0.02)
    told = ""
    with contextlib.suppress(FileNotFoundError), open(errors, encoding="utf-8", errors="replace") as source:
        told = source.read()[-2000:]
    raise RuntimeError(f"nginx did not start: {told.strip()}")
