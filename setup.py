"""Builds the compiled core; everything else about the package is in pyproject.toml."""

import os
import platform
import sys

from setuptools import Extension, setup  # type: ignore[import-untyped]

SUPPORTED_MACHINES = {"x86_64", "aarch64"}
SOURCES = ["_native.pyx", "bitmap.c", "blake3_kernels.c", "blake3_tree.c", "chunk_pool.c", "file_calls.c", "sealer.c"]
HEADERS = [
    "bitmap.h",
    "blake3_kernel.h",
    "blake3_lanes.inc.h",
    "blake3_tree.h",
    "chunk_pool.h",
    "file_calls.h",
    "oe_core.pxd",
    "sealer.h",
]


def compiler_flags() -> tuple[list[str], list[str]]:
    """Flags to compile and to link with. OFFLINE_ENGINE_SANITIZE names sanitizers, as in ``address,undefined``."""
    compile_flags = ["-std=c11", "-O3", "-Wall", "-Wextra", "-fvisibility=hidden", "-pthread"]
    sanitizers = os.environ.get("OFFLINE_ENGINE_SANITIZE")
    if not sanitizers:
        return compile_flags, ["-pthread"]
    sanitize = [f"-fsanitize={sanitizers}", "-fno-omit-frame-pointer", "-fno-sanitize-recover=undefined"]
    return [*compile_flags, "-O1", "-g", *sanitize], ["-pthread", *sanitize]


def core_extension() -> Extension:
    compile_flags, link_flags = compiler_flags()
    return Extension(
        "engine._native",
        sources=[f"ext/{name}" for name in SOURCES],
        depends=[f"ext/{name}" for name in HEADERS],
        include_dirs=["ext"],
        extra_compile_args=compile_flags,
        extra_link_args=link_flags,
    )


if sys.platform != "linux" or platform.machine() not in SUPPORTED_MACHINES:
    raise SystemExit(
        f"offline-engine builds on Linux on {' and '.join(sorted(SUPPORTED_MACHINES))}, "
        f"not on {sys.platform} on {platform.machine()}."
    )

# With Cython installed setuptools takes its build_ext; this option sends the generated C below build/.
setup(ext_modules=[core_extension()], options={"build_ext": {"cython_c_in_temp": True}})
