#include "bitmap.h"

#include <string.h>

/* Up to 8 bytes as a little-endian word (both systems that we build for are), missing ones as zero. */
static inline uint64_t load(const uint8_t *bytes, size_t available)
{
    uint64_t word = 0;

    memcpy(&word, bytes, available < sizeof word ? available : sizeof word);
    return word;
}

static inline uint64_t low_bits(size_t count)
{
    return count >= 64 ? ~(uint64_t)0 : ((uint64_t)1 << count) - 1;
}

size_t oe_bitmap_count(const uint8_t *bits, size_t bit_count)
{
    size_t bytes = bit_count / 8 + (bit_count % 8 > 0), total = 0, at = 0;

    for (; bit_count - at * 8 >= 64; at += 8)
        total += (size_t)__builtin_popcountll(load(bits + at, 8));
    if (at < bytes)
        total += (size_t)__builtin_popcountll(load(bits + at, bytes - at) & low_bits(bit_count - at * 8));
    return total;
}

void oe_bitmap_fill(uint8_t *bits, size_t first, size_t count, bool value)
{
    size_t end = first + count, first_byte = first / 8, end_byte = end / 8;
    uint8_t head, tail;

    if (count == 0)
        return;
    head = (uint8_t)(0xFFu << (first % 8));
    tail = (uint8_t)~(0xFFu << (end % 8));
    if (first_byte == end_byte) {
        head &= tail;
        tail = 0;
    }
    bits[first_byte] = (uint8_t)(value ? bits[first_byte] | head : bits[first_byte] & ~head);
    if (end_byte > first_byte + 1)
        memset(bits + first_byte + 1, value ? 0xFF : 0, end_byte - first_byte - 1);
    if (tail != 0)
        bits[end_byte] = (uint8_t)(value ? bits[end_byte] | tail : bits[end_byte] & ~tail);
}

size_t oe_bitmap_find(const uint8_t *bits, size_t start, size_t end, bool value)
{
    size_t bytes = end / 8 + (end % 8 > 0);
    size_t at = start / 8;
    uint64_t skipped = low_bits(start % 8);

    for (; at < bytes; at += 8, skipped = 0) {
        uint64_t word = load(bits + at, bytes - at);
        uint64_t hits = (value ? word : ~word) & ~skipped;

        if (hits != 0) {
            size_t found = at * 8 + (size_t)__builtin_ctzll(hits);

            return found < end ? found : end;
        }
    }
    return end;
}
