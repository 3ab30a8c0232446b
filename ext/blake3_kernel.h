/* What the tree and the lane kernels share: the constants of BLAKE3 and the face of a kernel. */
#ifndef OE_BLAKE3_KERNEL_H
#define OE_BLAKE3_KERNEL_H

#include <stddef.h>
#include <stdint.h>

#define OE_LEAF_BYTES 1024u
#define OE_BLOCK_BYTES 64u
#define OE_DIGEST_BYTES 32u
#define OE_LEAF_BLOCKS (OE_LEAF_BYTES / OE_BLOCK_BYTES)

enum { OE_CHUNK_START = 1, OE_CHUNK_END = 2, OE_PARENT = 4, OE_ROOT = 8 };

#define OE_IV0 0x6A09E667u
#define OE_IV1 0xBB67AE85u
#define OE_IV2 0x3C6EF372u
#define OE_IV3 0xA54FF53Au
#define OE_IV4 0x510E527Fu
#define OE_IV5 0x9B05688Cu
#define OE_IV6 0x1F83D9ABu
#define OE_IV7 0x5BE0CD19u

/* The message permutation of the paper (table 2) applied r times: word indexes of round r, as literals, so that every
 * round is straight-line code and each message word is one memory operand. */
#define OE_SEVEN_ROUNDS                                            \
    OE_ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15) \
    OE_ROUND(2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8) \
    OE_ROUND(3, 4, 10, 12, 13, 2, 7, 14, 6, 5, 9, 0, 11, 15, 8, 1) \
    OE_ROUND(10, 7, 12, 9, 14, 3, 13, 15, 4, 0, 11, 2, 5, 8, 1, 6) \
    OE_ROUND(12, 13, 9, 11, 15, 10, 14, 8, 7, 2, 5, 3, 0, 1, 6, 4) \
    OE_ROUND(9, 14, 11, 5, 8, 12, 15, 1, 13, 3, 0, 10, 2, 6, 4, 7) \
    OE_ROUND(11, 15, 5, 0, 1, 9, 8, 6, 14, 10, 2, 12, 3, 4, 7, 13)

/* One round over state words v0..v15: four columns, then four diagonals. One mix after the other keeps fewest words
 * alive, and the processor finds the parallelism: interleaving two or four made AVX2 spill and up to a fifth slower. */
#define OE_ROUND(m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15) \
    OE_MIX(v0, v4, v8, v12, m0, m1)                                                    \
    OE_MIX(v1, v5, v9, v13, m2, m3)                                                    \
    OE_MIX(v2, v6, v10, v14, m4, m5)                                                   \
    OE_MIX(v3, v7, v11, v15, m6, m7)                                                   \
    OE_MIX(v0, v5, v10, v15, m8, m9)                                                   \
    OE_MIX(v1, v6, v11, v12, m10, m11)                                                 \
    OE_MIX(v2, v7, v8, v13, m12, m13)                                                  \
    OE_MIX(v3, v4, v9, v14, m14, m15)

/* ROTATE_r(x), which turns a word right by r bits, is the includer's. */
#define OE_MIX(a, b, c, d, x, y)       \
    OE_HALF_MIX(a, b, c, d, x, 16, 12) \
    OE_HALF_MIX(a, b, c, d, y, 8, 7)
#define OE_HALF_MIX(a, b, c, d, x, r, s) \
    a += message[x];                     \
    a += b;                              \
    d ^= a;                              \
    d = ROTATE_##r(d);                   \
    c += d;                              \
    b ^= c;                              \
    b = ROTATE_##s(b);

/* Hashes as many equal inputs as the kernel has lanes. They lie behind each other from `input`, `blocks` whole blocks
 * each: OE_LEAF_BLOCKS for leaves, whose counters are `counter`, `counter` + 1, ...; 1 for pairs of CVs (parents,
 * `counter` unused). Writes one CV a lane to `out`, which may begin where `input` begins when `blocks` is 1. */
typedef void (*oe_lane_kernel)(const uint8_t *input, size_t blocks, uint64_t counter, uint8_t *out);

typedef struct {
    size_t lanes;
    oe_lane_kernel hash;
} oe_kernel;

enum { OE_KERNELS_MAX = 3 };

/* A way to hash on one kind of machine: its lane kernels, widest first, ended by lanes 0. What is left over after them
 * is compressed one by one. */
typedef struct {
    const char *name;
    oe_kernel kernels[OE_KERNELS_MAX + 1];
} oe_simd_path;

enum { OE_SIMD_PATHS_MAX = 4 };

/* The paths this machine can run, fastest first; returns how many. */
size_t oe_simd_paths(const oe_simd_path *paths[OE_SIMD_PATHS_MAX]);

/* The path in use; the fastest until one is forced. Safe from all threads. */
const oe_simd_path *oe_simd_current(void);

/* Uses the named path from now on; -1 when this machine has none of that name. */
int oe_simd_force(const char *name);

#endif
