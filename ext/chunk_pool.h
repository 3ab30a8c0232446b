/* A fixed number of page-aligned buffers of one size in one anonymous mapping. No lock: its user holds the GIL. */
#ifndef OE_CHUNK_POOL_H
#define OE_CHUNK_POOL_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    size_t count, size;
    size_t stride; /* size, rounded up to whole pages */
    size_t free_count;
    uint8_t *memory;
    uint8_t **free; /* the free buffers; the one given back last is taken first, while its pages are warm */
} oe_chunk_pool;

/* Returns 0 or an errno; ENOMEM also when count * size is no possible size. */
int oe_chunk_pool_open(size_t count, size_t size, oe_chunk_pool *pool);

/* Also for a zeroed pool that was never opened. */
void oe_chunk_pool_close(oe_chunk_pool *pool);

/* NULL when all are out. */
uint8_t *oe_chunk_pool_take(oe_chunk_pool *pool);

void oe_chunk_pool_give(oe_chunk_pool *pool, uint8_t *buffer);

#endif
