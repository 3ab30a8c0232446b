"""The address policy: what each address is, and who may name it (N2, S32)."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InvalidRequest
from engine.net.addresses import NAMEABLE, AddressKind, AddressPolicy, is_special, kind_of

KINDS = {
    AddressKind.PUBLIC: [
        "8.8.8.8",
        "1.1.1.1",
        "2606:4700::1111",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
        "2002:808:808::1",
    ],
    AddressKind.LOOPBACK: [
        *("127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "::7f00:1"),
        "::ffff:0:7f00:1",
    ],
    AddressKind.PRIVATE: [
        *("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "198.18.0.1", "192.0.2.1"),
        *("fd00::1", "fec0::1", "2001:db8::1", "2001::1", "64:ff9b:1::1", "::ffff:10.0.0.1", "64:ff9b::a00:1"),
        *("2002:c0a8:101::", "192.88.99.1", "3fff::1", "192.0.0.8"),
    ],
    AddressKind.LINK_LOCAL: ["169.254.0.1", "169.254.169.253", "fe80::1", "fe80::1%lo", "::ffff:169.254.1.1"],
    AddressKind.METADATA: [
        *("169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::", "169.254.170.2"),
        *("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd00:ec2::254%lo", "fd20:ce::254"),
    ],
    AddressKind.MULTICAST: ["224.0.0.1", "239.255.255.250", "ff02::1"],
    AddressKind.UNSPECIFIED: ["0.0.0.0", "0.1.2.3", "::", "::ffff:0.0.0.0"],
    AddressKind.RESERVED: ["240.0.0.1", "255.255.255.255", "4000::1"],
}
EACH = [(address, kind) for kind, addresses in KINDS.items() for address in addresses]


@pytest.mark.parametrize(("address", "kind"), EACH)
def test_n2_what_an_address_is(address: str, kind: AddressKind) -> None:
    assert kind_of(address) is kind


@pytest.mark.parametrize(("address", "kind"), EACH)
def test_n2_who_may_name_it(address: str, kind: AddressKind) -> None:
    """Nobody else may name anything but public addresses; the caller also loopback and private ones; and nobody a
    link-local or metadata address, unless that network is allowed."""
    usual, public, everything = AddressPolicy(), AddressPolicy(named=False), AddressPolicy(allow=("0.0.0.0/0", "::/0"))
    is_public = kind is AddressKind.PUBLIC
    assert (usual.refusal(address) is None) == is_public
    assert (usual.refusal(address, named=True) is None) == (is_public or kind in NAMEABLE)
    assert (public.refusal(address, named=True) is None) == is_public
    assert everything.refusal(address) is None
    if not is_public:
        assert kind.value in (usual.refusal(address) or "")


def test_an_allowed_network_is_that_network_only() -> None:
    policy = AddressPolicy(allow=("192.168.0.0/16", "fd00::/8", "169.254.169.254", "10.1.2.3"))
    for address in (
        "192.168.255.1",
        "::ffff:192.168.0.1",
        "64:ff9b::c0a8:1",
        "fd00:ec2::254",
        "169.254.169.254",
        "10.1.2.3",
    ):
        assert policy.refusal(address) is None
    for address in ("10.1.2.4", "127.0.0.1", "169.254.169.253", "fe80::1", "172.16.0.1"):
        assert policy.refusal(address) is not None


@pytest.mark.parametrize("allow", [("nas",), ("10.0.0.1/8",), ("10.0.0.0/33",), ("",), "10.0.0.0/8", 5, (None,)])
def test_what_is_no_network_is_refused_when_it_is_given(allow: object) -> None:
    with pytest.raises(InvalidRequest):
        AddressPolicy(allow=allow)  # type: ignore[arg-type]


@given(st.ip_addresses())
def test_nothing_passes_that_is_not_global(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if kind_of(str(address)) is AddressKind.PUBLIC:
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        assert (mapped or address).is_global or address in ipaddress.ip_network("64:ff9b::/96")
        assert not address.is_multicast


@pytest.mark.parametrize(
    ("host", "special"),
    [
        *(("127.0.0.1", True), ("::1", True), ("localhost", True), ("8.8.8.8", True)),
        *(("a.example", False), ("localhost.example", False), ("my.localhost", False), ("a1", False), ("1.a", False)),
    ],
)
def test_only_an_address_or_localhost_is_a_word(host: str, special: bool) -> None:
    assert is_special(host) is special
