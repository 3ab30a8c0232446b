/* Kernels over a bitmap that lies anywhere (also in LMDB's map): bit i is bits[i >> 3] >> (i & 7) & 1.
 *
 * Words are copied out by memcpy, so no alignment is asked for, and only bytes that hold one of the first `bit_count`
 * bits are ever read. The caller has checked that the range lies in the buffer. */
#ifndef OE_BITMAP_H
#define OE_BITMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

size_t oe_bitmap_count(const uint8_t *bits, size_t bit_count);

void oe_bitmap_fill(uint8_t *bits, size_t first, size_t count, bool value);

/* The first bit equal to `value` in [start, end), or `end`. */
size_t oe_bitmap_find(const uint8_t *bits, size_t start, size_t end, bool value);

#endif
