"""Digests that a head states: ``Repr-Digest`` and ``Content-Digest`` (RFC 9530), ``Content-MD5``.

Strict where RFC 9651 lets a reader be strict: a field that does not parse is as if it were not there. Only byte
sequences of the algorithms below, of exactly their size, are believed; the others of the registry are deprecated.
"""

from __future__ import annotations

import base64
import binascii
import re

from engine.net.head import Head

FIELD_CHARS_MAX = 1024
MEMBERS_MAX = 16

# By the name in the field: the name here, and bytes. One is enough, so the first of a field counts: on common CPUs
# SHA-256 is the cheaper one.
ALGORITHMS: dict[str, tuple[str, int]] = {"sha-256": ("sha256", 32), "sha-512": ("sha512", 64)}
MD5_BYTES = 16

_KEY = r"[a-z*][a-z0-9_.*\-]*"
_MEMBER = re.compile(rf"({_KEY})=:([A-Za-z0-9+/]*={{0,2}}):(?:; *{_KEY}(?:=[A-Za-z0-9:+/._\-]+)?)*", re.ASCII)


def parse_digests(text: str) -> dict[str, str]:
    """The known digests of a structured dictionary of byte sequences, as hex by ``sha256`` or ``sha512``; nothing when
    any part of it is malformed, has the wrong size, or is stated twice (M20, M22)."""
    if not 0 < len(text) <= FIELD_CHARS_MAX:
        return {}
    members = text.split(",")
    if len(members) > MEMBERS_MAX:
        return {}
    found: dict[str, str] = {}
    for member in members:
        match = _MEMBER.fullmatch(member.strip(" \t"))
        if match is None or match[1] in found:
            return {}
        found[match[1]] = match[2]
    return _known(found)


def _known(found: dict[str, str]) -> dict[str, str]:
    digests = {}
    for name, (algorithm, size) in ALGORITHMS.items():
        if name in found:
            value = _bytes_of(found[name], size)
            if value is None:
                return {}
            digests[algorithm] = value.hex()
    return digests


def parse_content_md5(text: str) -> str:
    """The hex digest in a ``Content-MD5``; empty without a proper one."""
    value = _bytes_of(text, MD5_BYTES)
    return value.hex() if value is not None else ""


def content_digests(head: Head) -> dict[str, str]:
    """What the body itself must hash to: at most one digest, by its algorithm.

    ``Content-MD5`` counts for a whole file only: servers never agreed on what it says of a part.
    """
    digests = _first(head, "content-digest")
    if not digests and head.status == 200:
        md5 = parse_content_md5(head.get("content-md5"))
        return {"md5": md5} if md5 else {}
    return digests


def whole_digests(head: Head) -> dict[str, str]:
    """What the whole file must hash to, by what this head says of it: at most one digest."""
    digests = _first(head, "repr-digest")
    return digests if digests or head.status != 200 else content_digests(head)


def _first(head: Head, name: str) -> dict[str, str]:
    values = head.get_all(name)
    if not values:
        return {}
    for algorithm, value in parse_digests(", ".join(values)).items():
        return {algorithm: value}
    return {}


def _bytes_of(text: str, size: int) -> bytes | None:
    if len(text) > 2 * size:
        return None
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return value if len(value) == size else None
