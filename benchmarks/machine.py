"""What the numbers were measured on: the machine, the kernel, and the versions of everything that took part."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess

from benchmarks import peers
from benchmarks.cost import CHECKOUT
from benchmarks.origin import nginx_path
from engine import __version__, native

# Those of the CPU's many flags that decide which code runs.
TELLING_FLAGS = ("sse2", "ssse3", "sse4_1", "avx", "avx2", "avx512f", "avx512vl", "aes", "vaes", "sha_ni", "asimd")
LIBRARIES = ("trio", "h11", "lmdb", "msgspec", "blake3")


def _fields(path: str) -> dict[str, str]:
    """The first value of every ``name: value`` line of a file of /proc."""
    found: dict[str, str] = {}
    with open(path, encoding="utf-8") as source:
        for line in source:
            name, _, value = line.partition(":")
            found.setdefault(name.strip(), value.strip())
    return found


def _file_system(path: str) -> str:
    """The type of the file system that holds ``path``."""
    best, kind = "", "unknown"
    with open("/proc/self/mounts", encoding="utf-8") as source:
        for line in source:
            _, mount, found, *_ = line.split()
            inside = path == mount or path.startswith(mount.rstrip("/") + "/")
            if inside and len(mount) >= len(best):
                best, kind = mount, found
    return kind


def commit() -> str:
    """The checkout's commit, with ``-dirty`` when files differ from it; ``unknown`` outside of git."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _flags() -> list[str]:
    processor = _fields("/proc/cpuinfo")
    return processor.get("flags", processor.get("Features", "")).split()


def is_virtual() -> bool:
    """Whether the processor says that it is a guest's."""
    return "hypervisor" in _flags()


def describe(folder: str) -> dict[str, str]:
    """The machine, by the names of the table in the results. ``folder`` is where the files go."""
    processor, flags = _fields("/proc/cpuinfo"), _flags()
    memory_kib = int(_fields("/proc/meminfo")["MemTotal"].split()[0])
    return {
        "processor": f"{processor.get('model name', platform.machine())}, {os.cpu_count()} cores",
        "CPU flags": " ".join(flag for flag in TELLING_FLAGS if flag in flags),
        "virtual machine": "yes" if is_virtual() else "not told",
        "memory": f"{memory_kib / (1 << 20):.1f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "file system": _file_system(os.path.realpath(folder)),
    }


def versions() -> dict[str, str]:
    """The versions of ours, of its libraries, and of every peer."""
    try:
        nginx = subprocess.run([nginx_path(), "-v"], capture_output=True, text=True, check=False).stderr.strip()
    except peers.PeerMissing:
        nginx = "missing"
    told = {
        "offline-engine": f"{__version__}, commit {commit()}, hash kernel {native.simd_path()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "nginx": nginx.removeprefix("nginx version: "),
    }
    told |= {name: importlib.metadata.version(name) for name in LIBRARIES}
    return told | {peer.name: peer.version() for peer in (*peers.ALL, *peers.TOOLS)}
