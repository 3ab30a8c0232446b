# cython: language_level=3, auto_pickle=False, autotestdict=False
"""The compiled core; `engine/_native.pyi` is its contract and holds its documentation.

Everything here is thin: arguments are checked while the GIL is held, the C core does the work. An integer outside the
range that its meaning allows raises ValueError, whatever its size; a value that is no integer raises TypeError.
"""
import os
cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from cpython.long cimport PyLong_AsLongAndOverflow
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EAGAIN, EINTR, ENOMEM, errno
from libc.stdint cimport INT32_MAX, INT64_MAX, INT64_MIN, int64_t, uint8_t, uint64_t
from libc.string cimport memcpy
from oe_core cimport *

LEAF_BYTES, DIGEST_BYTES = 1024, 32

cdef enum:
    NOGIL_BYTES = 2048  # below this, handing the GIL over costs more than it gives
    LEAF = 1024
    DIGEST = 32
    THREADS_MAX = 64
    DEPTH_MAX = 65536
    DRAIN_BATCH = 16

cdef uint64_t LEAVES_MAX = <uint64_t>1 << 54


cdef int64_t whole(object value, str name, int64_t low, int64_t high=INT64_MAX) except? -1:
    cdef int overflow = 0
    cdef int64_t number = PyLong_AsLongAndOverflow(value, &overflow)
    if overflow != 0 or number < low or number > high:
        raise ValueError(f"{name} must be from {low} to {high}, not {value}")
    return number


@cython.final
@cython.internal
cdef class View:
    """A contiguous buffer, held from construction until the last reference goes."""
    cdef Py_buffer buffer
    cdef uint8_t *data
    cdef size_t length

    def __cinit__(self, object owner, int flags=PyBUF_SIMPLE):
        PyObject_GetBuffer(owner, &self.buffer, flags)
        self.data = <uint8_t *>self.buffer.buf
        self.length = <size_t>self.buffer.len

    def __dealloc__(self):
        PyBuffer_Release(&self.buffer)


cdef bytes digest_bytes(const uint8_t *digest):
    return PyBytes_FromStringAndSize(<const char *>digest, DIGEST)


# Hashing

def simd_paths():
    cdef const oe_simd_path *paths[OE_SIMD_PATHS_MAX]
    cdef size_t i, count = oe_simd_paths(paths)
    return tuple([paths[i].name.decode("ascii") for i in range(count)])


def simd_path():
    return oe_simd_current().name.decode("ascii")


def force_simd_path(str name not None):
    if name not in simd_paths():
        raise ValueError(f"no hash kernel named {name!r} runs on this machine, only {', '.join(simd_paths())}")
    oe_simd_force(PyBytes_AS_STRING(name.encode("ascii")))


cdef int check_subtree(size_t length, uint64_t leaf_counter) except -1:
    cdef uint64_t leaves = length // LEAF + (length % LEAF != 0)
    if length == 0:
        raise ValueError("an empty run of leaves has no chaining value")
    if leaf_counter != 0 and leaves > (leaf_counter & (0 - leaf_counter)):
        raise ValueError(f"{leaves} leaves from leaf {leaf_counter} are not a subtree")
    if leaves > LEAVES_MAX - leaf_counter:
        raise ValueError(f"{leaves} leaves from leaf {leaf_counter} do not fit a 54-bit counter")
    return 0


def subtree_cv(data, leaf_counter):
    cdef uint64_t counter = whole(leaf_counter, "leaf_counter", 0, LEAVES_MAX - 1)
    cdef View view = View(data)
    cdef uint8_t digest[DIGEST]
    check_subtree(view.length, counter)
    if view.length < NOGIL_BYTES:
        oe_subtree_cv(view.data, view.length, counter, digest)
    else:
        with nogil:
            oe_subtree_cv(view.data, view.length, counter, digest)
    return digest_bytes(digest)


def root_hash(data):
    cdef View view = View(data)
    cdef uint8_t digest[DIGEST]
    if view.length < NOGIL_BYTES:
        oe_root_hash(view.data, view.length, digest)
    else:
        with nogil:
            oe_root_hash(view.data, view.length, digest)
    return digest_bytes(digest)


def parent_cv(left, right, bint root=False):
    cdef View left_view = View(left), right_view = View(right)
    cdef uint8_t children[2 * DIGEST]
    cdef uint8_t digest[DIGEST]
    if left_view.length != DIGEST or right_view.length != DIGEST:
        raise ValueError(f"a chaining value is {DIGEST} bytes, not {left_view.length} and {right_view.length}")
    memcpy(children, left_view.data, DIGEST)
    memcpy(children + DIGEST, right_view.data, DIGEST)
    oe_parent_cv(children, root, digest)
    return digest_bytes(digest)


def root_from_cvs(cvs):
    cdef View view = View(cvs)
    cdef uint8_t digest[DIGEST]
    if view.length < 2 * DIGEST or view.length % DIGEST != 0:
        raise ValueError(f"two or more chaining values of {DIGEST} bytes are needed, not {view.length} bytes")
    if view.length < NOGIL_BYTES:
        oe_root_from_cvs(view.data, view.length // DIGEST, digest)
    else:
        with nogil:
            oe_root_from_cvs(view.data, view.length // DIGEST, digest)
    return digest_bytes(digest)


# Bitmaps. The GIL is kept: a page takes less time than handing it over, and a change is whole to other Python threads.

cdef size_t bits_in(View view):
    return <size_t>INT64_MAX if view.length > <size_t>INT64_MAX // 8 else view.length * 8


def bitmap_count(bits, bit_count):
    cdef View view = View(bits)
    return oe_bitmap_count(view.data, whole(bit_count, "bit_count", 0, bits_in(view)))


cdef fill(object bits, object first, object count, bint value):
    cdef View view = View(bits, PyBUF_WRITABLE)
    cdef size_t from_bit = whole(first, "first", 0, bits_in(view))
    oe_bitmap_fill(view.data, from_bit, whole(count, "count", 0, bits_in(view) - from_bit), value)


def bitmap_set(bits, first, count):
    fill(bits, first, count, True)


def bitmap_clear(bits, first, count):
    fill(bits, first, count, False)


def bitmap_next_run(bits, bit_count, start, bint value, limit):
    cdef View view = View(bits)
    cdef size_t end = whole(bit_count, "bit_count", 0, bits_in(view))
    cdef size_t first = whole(start, "start", 0, end)
    cdef size_t most = whole(limit, "limit", 1)
    first = oe_bitmap_find(view.data, first, end, value)
    end = min(end, first + most)
    return first, oe_bitmap_find(view.data, first, end, not value) - first


# System calls

def fallocate(fd, length, *, bint keep_size=False):
    cdef int descriptor = whole(fd, "fd", 0, INT32_MAX), error
    cdef int64_t bytes_wanted = whole(length, "length", 1)
    while True:
        with nogil:
            error = errno if oe_fallocate(descriptor, bytes_wanted, keep_size) != 0 else 0
        if error == 0:
            return
        if error != EINTR:
            raise OSError(error, os.strerror(error))
        PyErr_CheckSignals()


def rename_noreplace(source_dir_fd, bytes source not None, target_dir_fd, bytes target not None):
    cdef int source_descriptor = whole(source_dir_fd, "source_dir_fd", 0, INT32_MAX)
    cdef int target_descriptor = whole(target_dir_fd, "target_dir_fd", 0, INT32_MAX), error
    cdef const char *source_name = PyBytes_AS_STRING(source)
    cdef const char *target_name = PyBytes_AS_STRING(target)
    if b"\0" in source or b"\0" in target:
        raise ValueError("a file name holds no zero byte")
    with nogil:
        error = errno if oe_rename_noreplace(source_descriptor, source_name, target_descriptor, target_name) != 0 else 0
    if error != 0:
        raise OSError(error, os.strerror(error), os.fsdecode(source), None, os.fsdecode(target))


def sync_range_start(fd, offset, length):
    cdef int descriptor = whole(fd, "fd", 0, INT32_MAX), error
    cdef int64_t first = whole(offset, "offset", 0), count = whole(length, "length", 1, INT64_MAX - first)
    with nogil:
        error = errno if oe_sync_range_start(descriptor, first, count) != 0 else 0
    if error != 0:
        raise OSError(error, os.strerror(error))


def release_mapped(start, length):
    cdef uint64_t first = whole(start, "start", 1)
    if oe_release_mapped(first, whole(length, "length", 1, INT64_MAX - first)) != 0:
        PyErr_SetFromErrno(OSError)


# Buffers. The GIL guards the pool and the counts of views. Neither class can be part of a reference cycle: a pool holds
# no objects, and a buffer only its pool.

@cython.final
@cython.no_gc
cdef class ChunkBuffer:
    cdef BufferPool pool
    cdef uint8_t *memory  # NULL once given back
    cdef size_t size
    cdef Py_ssize_t view_count

    def __init__(self):
        raise TypeError("a ChunkBuffer comes from BufferPool.acquire()")

    def __dealloc__(self):
        if self.memory is not NULL:
            oe_chunk_pool_give(&self.pool.pool, self.memory)

    def __getbuffer__(self, Py_buffer *view, int flags):
        if self.memory is NULL:
            raise BufferError("the chunk buffer was given back to its pool")
        PyBuffer_FillInfo(view, self, self.memory, self.size, False, flags)
        self.view_count += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.view_count -= 1

    def __len__(self):
        return self.size

    def release(self):
        if self.memory is NULL:
            raise ValueError("the chunk buffer was given back already")
        if self.view_count != 0:
            raise BufferError(f"the chunk buffer is held by {self.view_count} views or seals")
        oe_chunk_pool_give(&self.pool.pool, self.memory)
        self.memory = NULL

    @property
    def views(self):
        return self.view_count


@cython.final
@cython.no_gc
cdef class BufferPool:
    cdef oe_chunk_pool pool

    def __cinit__(self, count, size):
        cdef size_t buffers = whole(count, "count", 1), bytes_each = whole(size, "size", 1)
        cdef int error = oe_chunk_pool_open(buffers, bytes_each, &self.pool)
        if error == ENOMEM:
            raise MemoryError(f"no room for {buffers} buffers of {bytes_each} bytes")
        if error != 0:
            raise OSError(error, os.strerror(error))

    def __dealloc__(self):
        oe_chunk_pool_close(&self.pool)

    def acquire(self):
        cdef ChunkBuffer buffer = ChunkBuffer.__new__(ChunkBuffer)
        cdef uint8_t *memory = oe_chunk_pool_take(&self.pool)
        if memory is NULL:
            return None
        buffer.pool = self
        buffer.memory = memory
        buffer.size = self.pool.size
        return buffer

    @property
    def count(self):
        return self.pool.count

    @property
    def size(self):
        return self.pool.size

    @property
    def free(self):
        return self.pool.free_count


# Sealing. The core holds one reference and one view of each buffer that is under way. A forked child has no threads and
# perhaps a lock that nobody will open, so there nothing is called and nothing is freed.

@cython.final
@cython.no_gc
cdef class Sealer:
    cdef oe_sealer *sealer  # NULL once closed

    def __cinit__(self, threads, depth):
        cdef size_t thread_count = whole(threads, "threads", 1, THREADS_MAX)
        cdef int error = oe_sealer_open(thread_count, whole(depth, "depth", 1, DEPTH_MAX), &self.sealer)
        if error == ENOMEM:
            raise MemoryError("no room for a sealer")
        if error != 0:
            raise OSError(error, os.strerror(error))

    def __dealloc__(self):
        if self.sealer is not NULL and oe_sealer_owned(self.sealer):
            oe_sealer_finish(self.sealer)
            collect(self.sealer)
            oe_sealer_free(self.sealer)

    cdef oe_sealer *usable(self) except NULL:
        if self.sealer is NULL:
            raise ValueError("the sealer is closed")
        if not oe_sealer_owned(self.sealer):
            raise ValueError("the sealer belongs to the process that forked this one")
        return self.sealer

    def fileno(self):
        return oe_sealer_eventfd(self.usable())

    def submit(
        self, ticket, fd, ChunkBuffer buffer not None, length, offset, leaf_counter, bint root, bint early=False
    ):
        cdef oe_seal seal
        seal.ticket = whole(ticket, "ticket", INT64_MIN)
        seal.fd = whole(fd, "fd", -1, INT32_MAX)
        seal.length = whole(length, "length", 1, buffer.size)
        seal.offset = whole(offset, "offset", 0, INT64_MAX - <int64_t>seal.length)
        seal.leaf_counter = whole(leaf_counter, "leaf_counter", 0, 0 if root else LEAVES_MAX - 1)
        seal.root = root
        seal.early = early
        check_subtree(seal.length, seal.leaf_counter)
        if buffer.memory is NULL:
            raise ValueError("the chunk buffer was given back to its pool")
        seal.data = buffer.memory
        seal.owner = <void *>buffer
        if oe_sealer_submit(self.usable(), &seal) == EAGAIN:
            raise BlockingIOError(EAGAIN, "as many chunks are under way as the sealer has room for")
        Py_INCREF(buffer)
        buffer.view_count += 1

    def drain(self):
        return collect(self.usable())

    @property
    def in_flight(self):
        return 0 if self.sealer is NULL else oe_sealer_in_flight(self.usable())

    def close(self):
        cdef oe_sealer *sealer = self.sealer
        if sealer is NULL or not oe_sealer_owned(sealer):
            return []
        self.sealer = NULL  # before the GIL goes: other threads now see a closed sealer
        with nogil:
            oe_sealer_finish(sealer)
        try:
            return collect(sealer)
        finally:
            oe_sealer_free(sealer)

    def __enter__(self):
        self.usable()
        return self

    def __exit__(self, kind, error, trace):
        self.close()


cdef list collect(oe_sealer *sealer):
    """The results that wait; buffers are let go before anything can fail."""
    cdef oe_seal batch[DRAIN_BATCH]
    cdef size_t i, count = DRAIN_BATCH
    cdef list results = []
    while count == DRAIN_BATCH:
        count = oe_sealer_drain(sealer, batch, DRAIN_BATCH)
        for i in range(count):
            (<ChunkBuffer>batch[i].owner).view_count -= 1
            Py_DECREF(<ChunkBuffer>batch[i].owner)
        for i in range(count):
            results.append((batch[i].ticket, batch[i].error, digest_bytes(batch[i].digest), batch[i].hashed_ns))
    return results


cdef str wanted_path = os.environ.get("OFFLINE_ENGINE_SIMD", "")
if wanted_path and wanted_path not in simd_paths():
    raise ImportError(
        f"OFFLINE_ENGINE_SIMD names no hash kernel of this machine: {wanted_path!r}; it has {', '.join(simd_paths())}"
    )
if wanted_path:
    force_simd_path(wanted_path)
