"""When signed URLs end, in the ways of their signers; anything that is no time of day says nothing (M20)."""

from __future__ import annotations

import pytest

from engine.net.expiry import expires_at
from engine.net.url import parse_url

NOON = 1_767_268_800.0  # 2026-01-01T12:00:00Z

ENDS: dict[str, tuple[str, float | None]] = {
    "S3": ("X-Amz-Algorithm=A&X-Amz-Date=20260101T110000Z&X-Amz-Expires=3600&X-Amz-Signature=s", NOON),
    "S3 in lower case": ("x-amz-date=20260101T110000Z&x-amz-expires=3600", NOON),
    "Google": ("X-Goog-Date=20260101T115900Z&X-Goog-Expires=60", NOON),
    "older S3, CloudFront": ("Expires=1767268800&Signature=s&Key-Pair-Id=k", NOON),
    "exp": ("exp=1767268800&sig=x", NOON),
    "Azure": ("sv=2020&se=2026-01-01T12%3A00%3A00Z&sig=s", NOON),
    "Azure to the minute": ("se=2026-01-01T12:00Z&sig=s", NOON),
    "Azure to the day": ("se=2026-01-01&sig=s", NOON - 12 * 3600),
    "Akamai": ("hdnts=st=1767260000~exp=1767268800~acl=/*~hmac=ab", NOON),
    "the earlier of two": ("Expires=1767268800&exp=1767268900", NOON),
    "the first of two": ("Expires=1767268800&Expires=1767260000", NOON),
    "no query": ("", None),
    "nothing of it": ("a=1&b", None),
    "a length alone": ("X-Amz-Expires=3600", None),
    "a date alone": ("X-Amz-Date=20260101T110000Z", None),
    "a number that is no time": ("exp=3600&e=5", None),
    "se of another language": ("se=sv", None),
    "se without a signature": ("se=2026-01-01T12:00:00Z", None),
    "M20 too many digits": ("Expires=" + "9" * 5000, None),
    "M20 other digits": ("Expires=%D9%A1767268800", None),
    "M20 a sign": ("Expires=-1767268800", None),
    "M20 no such day": ("X-Amz-Date=20260231T110000Z&X-Amz-Expires=3600", None),
    "M20 an endless length": ("X-Amz-Date=99991231T235959Z&X-Amz-Expires=999999999", None),
    "M20 no such day in Azure": ("se=2026-13-01T12:00:00Z&sig=s", None),
    "M20 many parameters": ("&".join(["a=1"] * 1000) + "&Expires=1767268800", None),
}


@pytest.mark.parametrize("name", ENDS)
def test_when_a_url_ends(name: str) -> None:
    query, ends = ENDS[name]
    assert expires_at(parse_url(f"https://host/film?{query}")) == ends
