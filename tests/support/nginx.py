"""A private nginx: its own configuration, folder and ports, plain and TLS, serving the files of one folder."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme

_CONFIG = """\
daemon off; worker_processes 1; pid {here}/nginx.pid; error_log {here}/error.log; {user}
events {{ worker_connections 256; }}
http {{
  access_log off; sendfile on; etag on; default_type application/octet-stream;
  client_body_temp_path {here}/body; proxy_temp_path {here}/proxy; fastcgi_temp_path {here}/fastcgi;
  uwsgi_temp_path {here}/uwsgi; scgi_temp_path {here}/scgi;
  server {{
    listen 127.0.0.1:{port}; listen 127.0.0.1:{tls_port} ssl;
    ssl_certificate {here}/chain.pem; ssl_certificate_key {here}/key.pem;
    root {files};
    location /moved/ {{ rewrite ^/moved/(.*)$ /$1 redirect; }}
    location /slow/ {{ alias {files}/; limit_rate 2m; }}
    location /plain/ {{ alias {files}/; max_ranges 0; }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Nginx:
    """``files`` is the folder that is served; ``cafile`` trusts the TLS side."""

    http: str
    https: str
    files: Path
    cafile: str

    def put(self, name: str, data: bytes) -> str:
        """Serve ``data`` as ``name``; returns its URL."""
        (self.files / name).write_bytes(data)
        return f"{self.http}/{name}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def run_nginx(here: Path) -> Iterator[Nginx]:
    """An nginx with all its files below ``here``. Fails where nginx is not installed: whole downloads need it."""
    binary = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    assert binary is not None, "nginx is not installed; .ci/run installs it"
    files = here / "files"
    files.mkdir(parents=True)
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_pem.write_to_path(here / "key.pem")
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(here / "chain.pem", append=True)
    authority.cert_pem.write_to_path(here / "ca.pem")
    port, tls_port = _free_port(), _free_port()
    user = "user root;" if os.geteuid() == 0 else ""  # the worker of a root nginx would otherwise lose its rights here
    (here / "nginx.conf").write_text(_CONFIG.format(here=here, files=files, port=port, tls_port=tls_port, user=user))
    command = [binary, "-p", str(here), "-e", str(here / "error.log"), "-c", str(here / "nginx.conf")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_until_up(process, port, here)
        yield Nginx(f"http://127.0.0.1:{port}", f"https://localhost:{tls_port}", files, str(here / "ca.pem"))
    finally:
        process.terminate()
        process.wait(timeout=10)


def _wait_until_up(process: subprocess.Popen[bytes], port: int, here: Path) -> None:
    deadline = time.monotonic() + 10
    while not _answers(port):
        assert process.poll() is None, f"nginx did not start: {(here / 'error.log').read_text()}"
        assert time.monotonic() < deadline, "nginx does not answer"
        time.sleep(0.02)
