/* Every lane kernel against the scalar code: those that this machine runs, and the 16-lane source of the AVX-512 kernel
 * compiled for a lesser machine, which the compiler splits into narrower vectors. Prints what it compared. */
#include "blake3_kernel.h"
#include "blake3_tree.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#define LESSER __attribute__((target("avx2")))
#else
#define LESSER
#endif

#define LANES 16
#define TARGET LESSER
#define NAME(x) x##_16
#define WORD_ROTATE
#include "blake3_lanes.inc.h"

#define LANES 8
#define TARGET
#define NAME(x) x##_8
#include "blake3_lanes.inc.h"

enum { LEAVES = 1300 };

static uint8_t data[LEAVES * OE_LEAF_BYTES];

static void fail(const char *what, size_t where)
{
    fprintf(stderr, "%s: wrong at %zu\n", what, where);
    exit(1);
}

static void check_kernel(const char *name, size_t lanes, oe_lane_kernel hash)
{
    static const uint64_t counters[] = {0, 16, ((uint64_t)1 << 32) - 7, ((uint64_t)1 << 54) - 16};
    uint8_t cvs[16 * OE_DIGEST_BYTES], expected[OE_DIGEST_BYTES];

    for (size_t c = 0; c < sizeof counters / sizeof *counters; c++) {
        hash(data + c, OE_LEAF_BLOCKS, counters[c], cvs);
        for (size_t lane = 0; lane < lanes; lane++) {
            oe_subtree_cv(data + c + lane * OE_LEAF_BYTES, OE_LEAF_BYTES, counters[c] + lane, expected);
            if (memcmp(expected, cvs + lane * OE_DIGEST_BYTES, sizeof expected) != 0)
                fail(name, lane);
        }
    }
    hash(data + 3, 1, 99, cvs);
    for (size_t lane = 0; lane < lanes; lane++) {
        oe_parent_cv(data + 3 + lane * OE_BLOCK_BYTES, false, expected);
        if (memcmp(expected, cvs + lane * OE_DIGEST_BYTES, sizeof expected) != 0)
            fail(name, lane);
    }
    printf("kernel %s\n", name);
}

static void check_path(const char *name)
{
    uint8_t expected[OE_DIGEST_BYTES], found[OE_DIGEST_BYTES];

    for (size_t length = 0; length <= sizeof data; length += 1 + length / 3) {
        oe_simd_force("portable");
        oe_root_hash(data, length, expected);
        oe_simd_force(name);
        oe_root_hash(data, length, found);
        if (memcmp(expected, found, sizeof found) != 0)
            fail(name, length);
    }
    printf("path %s\n", name);
}

int main(void)
{
    const oe_simd_path *paths[OE_SIMD_PATHS_MAX];
    size_t count = oe_simd_paths(paths);

    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)((i * 2654435761u) >> 13);
    oe_simd_force("portable");
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2"))
#endif
        check_kernel("16 lanes", 16, hash_16);
    check_kernel("8 lanes", 8, hash_8);
    for (size_t i = 0; i < count; i++)
        check_path(paths[i]->name);
    return 0;
}
