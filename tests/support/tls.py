"""The server's side of TLS, and files of a private authority."""

from __future__ import annotations

import ssl
from pathlib import Path

import trustme


def server_side(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    """A context with a certificate for these names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


def cafile_of(authority: trustme.CA, folder: Path) -> str:
    """The authority's own certificate, for who is to trust it."""
    path = folder / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)
