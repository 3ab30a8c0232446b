# The C core's face. Declarations only: a pxd with code in it would be imported at run time.
from libc.stdint cimport int64_t, uint8_t, uint64_t


cdef extern from "blake3_kernel.h" nogil:
    enum:
        OE_SIMD_PATHS_MAX
    ctypedef struct oe_simd_path:
        const char *name
    size_t oe_simd_paths(const oe_simd_path **paths)
    const oe_simd_path *oe_simd_current()
    int oe_simd_force(const char *name)


cdef extern from "blake3_tree.h" nogil:
    void oe_subtree_cv(const uint8_t *data, size_t length, uint64_t leaf_counter, uint8_t *out)
    void oe_root_hash(const uint8_t *data, size_t length, uint8_t *out)
    void oe_parent_cv(const uint8_t *children, bint root, uint8_t *out)
    void oe_root_from_cvs(const uint8_t *cvs, size_t count, uint8_t *out)


cdef extern from "bitmap.h" nogil:
    size_t oe_bitmap_count(const uint8_t *bits, size_t bit_count)
    void oe_bitmap_fill(uint8_t *bits, size_t first, size_t count, bint value)
    size_t oe_bitmap_find(const uint8_t *bits, size_t start, size_t end, bint value)


cdef extern from "sealer.h" nogil:
    ctypedef struct oe_sealer:
        pass
    ctypedef struct oe_seal:
        int64_t ticket
        int fd
        bint root
        bint early
        const uint8_t *data
        size_t length
        uint64_t offset
        uint64_t leaf_counter
        void *owner
        int error
        uint8_t digest[32]
        uint64_t hashed_ns
    int oe_sealer_open(size_t threads, size_t depth, oe_sealer **out)
    bint oe_sealer_owned(const oe_sealer *sealer)
    int oe_sealer_eventfd(const oe_sealer *sealer)
    int oe_sealer_submit(oe_sealer *sealer, const oe_seal *seal)
    size_t oe_sealer_drain(oe_sealer *sealer, oe_seal *out, size_t room)
    size_t oe_sealer_in_flight(oe_sealer *sealer)
    void oe_sealer_finish(oe_sealer *sealer)
    void oe_sealer_free(oe_sealer *sealer)


cdef extern from "chunk_pool.h" nogil:
    ctypedef struct oe_chunk_pool:
        size_t count, size, free_count
    int oe_chunk_pool_open(size_t count, size_t size, oe_chunk_pool *pool)
    void oe_chunk_pool_close(oe_chunk_pool *pool)
    uint8_t *oe_chunk_pool_take(oe_chunk_pool *pool)
    void oe_chunk_pool_give(oe_chunk_pool *pool, uint8_t *buffer)


cdef extern from "file_calls.h" nogil:
    int oe_fallocate(int fd, int64_t length, int keep_size)
    int oe_rename_noreplace(int source_dir_fd, const char *source, int target_dir_fd, const char *target)
    int oe_sync_range_start(int fd, int64_t offset, int64_t length)
    int oe_release_mapped(uint64_t start, uint64_t length)
