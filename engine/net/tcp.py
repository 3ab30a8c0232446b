"""What Linux tells of a TCP connection, and how much it may buffer: numbers of ``linux/tcp.h`` and ``socket.h``."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import NamedTuple

# Offsets in `struct tcp_info`; fields are only ever added at its end.
_RTT_US, _MIN_RTT_US, _DATA_SEGMENTS_IN, _OUT_OF_ORDER = 68, 148, 152, 224
_INFO_BYTES = 228
_SO_BUF_LOCK = 72  # Linux 5.14; 0: the kernel sizes the buffers by itself again


class TcpFacts(NamedTuple):
    """``round_trip_s``: smoothed, or the least seen when that is smaller. ``out_of_order``: data segments, of
    ``segments`` received, that came behind a gap: something before them was lost, or overtaken."""

    round_trip_s: float
    segments: int
    out_of_order: int

    @property
    def loss_share(self) -> float:
        """How many of all came behind a gap, 0..1."""
        return self.out_of_order / self.segments if self.segments else 0.0


def tcp_facts(sock: socket.socket) -> TcpFacts | None:
    """None where the kernel tells nothing (no TCP, closed, too old)."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
    except OSError:
        return None
    if len(info) < _INFO_BYTES:
        return None
    rtt, least, segments, out_of_order = (
        struct.unpack_from("=I", info, at)[0] for at in (_RTT_US, _MIN_RTT_US, _DATA_SEGMENTS_IN, _OUT_OF_ORDER)
    )
    return TcpFacts(min(rtt, least or rtt) / 1e6, segments, out_of_order)


def bound_receive_buffer(sock: socket.socket, size: int | None) -> None:
    """Hold the kernel's receive buffer to about ``size`` bytes, or give it back to the kernel's own judgement."""
    # A kernel too old for the second, or a connection that broke: the buffer is only a matter of how exact a cap is.
    with contextlib.suppress(OSError):
        if size is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        else:
            sock.setsockopt(socket.SOL_SOCKET, _SO_BUF_LOCK, 0)
