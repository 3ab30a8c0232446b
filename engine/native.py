"""The one door to the compiled core. What each name means is written in the stub, ``engine/_native.pyi``."""

try:
    from engine._native import (
        DIGEST_BYTES,
        LEAF_BYTES,
        BufferPool,
        ChunkBuffer,
        Sealer,
        bitmap_clear,
        bitmap_count,
        bitmap_next_run,
        bitmap_set,
        fallocate,
        force_simd_path,
        parent_cv,
        release_mapped,
        rename_noreplace,
        root_from_cvs,
        root_hash,
        simd_path,
        simd_paths,
        subtree_cv,
        sync_range_start,
    )
except ModuleNotFoundError as error:
    raise ImportError(
        "the compiled core of offline-engine (engine._native) is missing; install the package with pip, "
        "or build it in a checkout with: python setup.py build_ext --inplace"
    ) from error

__all__ = [
    "DIGEST_BYTES",
    "LEAF_BYTES",
    "BufferPool",
    "ChunkBuffer",
    "Sealer",
    "bitmap_clear",
    "bitmap_count",
    "bitmap_next_run",
    "bitmap_set",
    "fallocate",
    "force_simd_path",
    "parent_cv",
    "release_mapped",
    "rename_noreplace",
    "root_from_cvs",
    "root_hash",
    "simd_path",
    "simd_paths",
    "subtree_cv",
    "sync_range_start",
]
