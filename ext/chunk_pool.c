#define _GNU_SOURCE
#include "chunk_pool.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int oe_chunk_pool_open(size_t count, size_t size, oe_chunk_pool *pool)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), stride, bytes;
    void *memory;

    if (__builtin_add_overflow(size, page - 1, &stride))
        return ENOMEM;
    stride -= stride % page;
    if (__builtin_mul_overflow(stride, count, &bytes))
        return ENOMEM;
    memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return errno;
    pool->free = calloc(count, sizeof *pool->free);
    if (pool->free == NULL) {
        munmap(memory, bytes);
        return ENOMEM;
    }
    pool->memory = memory;
    pool->count = count;
    pool->size = size;
    pool->stride = stride;
    for (size_t i = count; i-- > 0;)
        oe_chunk_pool_give(pool, pool->memory + i * stride);
    return 0;
}

void oe_chunk_pool_close(oe_chunk_pool *pool)
{
    if (pool->memory == NULL)
        return;
    munmap(pool->memory, pool->stride * pool->count);
    free(pool->free);
    pool->memory = NULL;
}

uint8_t *oe_chunk_pool_take(oe_chunk_pool *pool)
{
    return pool->free_count == 0 ? NULL : pool->free[--pool->free_count];
}

void oe_chunk_pool_give(oe_chunk_pool *pool, uint8_t *buffer)
{
    pool->free[pool->free_count++] = buffer;
}
