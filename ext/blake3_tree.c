/* The shape of the BLAKE3 tree; the work itself is in the lane kernels.
 *
 * Chunks of leaves are reduced level by level: neighbours are paired and an odd last node moves up unchanged, which
 * gives exactly the left-heavy tree of the paper. Larger inputs are first split where the tree splits, so that one
 * level's CVs always fit a small array on the stack and the depth of recursion is at most 44. */
#include "blake3_tree.h"

#include "blake3_kernel.h"

#include <string.h>

enum { BATCH_NODES = 1024 };
#define BATCH_BYTES ((size_t)BATCH_NODES * OE_LEAF_BYTES)

#define ROTATE(x, n) (((x) >> (n)) | ((x) << (32 - (n))))
#define ROTATE_16(x) ROTATE(x, 16)
#define ROTATE_12(x) ROTATE(x, 12)
#define ROTATE_8(x) ROTATE(x, 8)
#define ROTATE_7(x) ROTATE(x, 7)

/* The first half of the compression function's output, in place of the input CV. Both systems that we build for are
 * little-endian, as BLAKE3 is, so words are copied as they lie. */
static void compress(uint32_t cv[8], const uint8_t block[OE_BLOCK_BYTES], uint32_t length, uint64_t counter,
                     uint32_t flags)
{
    uint32_t message[16];
    uint32_t v0 = cv[0], v1 = cv[1], v2 = cv[2], v3 = cv[3], v4 = cv[4], v5 = cv[5], v6 = cv[6], v7 = cv[7];
    uint32_t v8 = OE_IV0, v9 = OE_IV1, v10 = OE_IV2, v11 = OE_IV3;
    uint32_t v12 = (uint32_t)counter, v13 = (uint32_t)(counter >> 32), v14 = length, v15 = flags;

    memcpy(message, block, sizeof message);
    OE_SEVEN_ROUNDS
    cv[0] = v0 ^ v8, cv[1] = v1 ^ v9, cv[2] = v2 ^ v10, cv[3] = v3 ^ v11;
    cv[4] = v4 ^ v12, cv[5] = v5 ^ v13, cv[6] = v6 ^ v14, cv[7] = v7 ^ v15;
}

static const uint32_t initial_cv[8] = {OE_IV0, OE_IV1, OE_IV2, OE_IV3, OE_IV4, OE_IV5, OE_IV6, OE_IV7};

static void parent(const uint8_t children[64], uint32_t root, uint8_t out[32])
{
    uint32_t cv[8];

    memcpy(cv, initial_cv, sizeof cv);
    compress(cv, children, OE_BLOCK_BYTES, 0, OE_PARENT | root);
    memcpy(out, cv, sizeof cv);
}

/* One leaf of 0 to 1024 bytes; `root` is OE_ROOT or 0. */
static void leaf(const uint8_t *data, size_t length, uint64_t counter, uint32_t root, uint8_t out[32])
{
    uint32_t cv[8];
    uint32_t start = OE_CHUNK_START;
    uint8_t padded[OE_BLOCK_BYTES] = {0};

    memcpy(cv, initial_cv, sizeof cv);
    for (; length > OE_BLOCK_BYTES; data += OE_BLOCK_BYTES, length -= OE_BLOCK_BYTES) {
        compress(cv, data, OE_BLOCK_BYTES, counter, start);
        start = 0;
    }
    if (length > 0)
        memcpy(padded, data, length);
    compress(cv, padded, (uint32_t)length, counter, start | OE_CHUNK_END | root);
    memcpy(out, cv, sizeof cv);
}

/* Runs the lane kernels over `count` equal inputs of `blocks` blocks; returns how many of them were done. */
static size_t hash_in_lanes(const uint8_t *input, size_t count, size_t blocks, uint64_t counter, uint8_t *out)
{
    size_t done = 0;

    for (const oe_kernel *kernel = oe_simd_current()->kernels; kernel->lanes > 0; kernel++) {
        for (; count - done >= kernel->lanes; done += kernel->lanes)
            kernel->hash(input + done * blocks * OE_BLOCK_BYTES, blocks, counter + done, out + done * OE_DIGEST_BYTES);
    }
    return done;
}

/* The one node above `count` >= 2 CVs, which are overwritten. */
static void reduce(uint8_t *cvs, size_t count, uint32_t root, uint8_t out[32])
{
    while (count > 2) {
        size_t pairs = count / 2;

        for (size_t i = hash_in_lanes(cvs, pairs, 1, 0, cvs); i < pairs; i++)
            parent(cvs + i * 64, 0, cvs + i * OE_DIGEST_BYTES);
        if (count % 2 == 1)
            memmove(cvs + pairs * OE_DIGEST_BYTES, cvs + pairs * 64, OE_DIGEST_BYTES);
        count = pairs + count % 2;
    }
    parent(cvs, root, out);
}

/* At most BATCH_BYTES of leaves. */
static __attribute__((noinline)) void batch(const uint8_t *data, size_t length, uint64_t counter, uint32_t root,
                                            uint8_t out[32])
{
    uint8_t cvs[BATCH_NODES * OE_DIGEST_BYTES];
    size_t whole = length / OE_LEAF_BYTES, count = whole + (length % OE_LEAF_BYTES > 0);

    if (count <= 1) {
        leaf(data, length, counter, root, out);
        return;
    }
    for (size_t i = hash_in_lanes(data, whole, OE_LEAF_BLOCKS, counter, cvs); i < count; i++) {
        size_t rest = length - i * OE_LEAF_BYTES;

        leaf(data + i * OE_LEAF_BYTES, rest < OE_LEAF_BYTES ? rest : OE_LEAF_BYTES, counter + i, 0,
             cvs + i * OE_DIGEST_BYTES);
    }
    reduce(cvs, count, root, out);
}

/* The largest power of two below `count` > 1: how many nodes the left subtree takes. */
static size_t left_nodes(size_t count)
{
    return (size_t)1 << (63 - __builtin_clzll((unsigned long long)(count - 1)));
}

static void subtree(const uint8_t *data, size_t length, uint64_t counter, uint32_t root, uint8_t out[32])
{
    uint8_t children[64];
    size_t left;

    if (length <= BATCH_BYTES) {
        batch(data, length, counter, root, out);
        return;
    }
    left = left_nodes(length / OE_LEAF_BYTES + (length % OE_LEAF_BYTES > 0));
    subtree(data, left * OE_LEAF_BYTES, counter, 0, children);
    subtree(data + left * OE_LEAF_BYTES, length - left * OE_LEAF_BYTES, counter + left, 0, children + 32);
    parent(children, root, out);
}

static __attribute__((noinline)) void merge_batch(const uint8_t *cvs, size_t count, uint32_t root, uint8_t out[32])
{
    uint8_t nodes[BATCH_NODES * OE_DIGEST_BYTES];

    memcpy(nodes, cvs, count * OE_DIGEST_BYTES);
    if (count == 1)
        memcpy(out, nodes, OE_DIGEST_BYTES);
    else
        reduce(nodes, count, root, out);
}

static void merge(const uint8_t *cvs, size_t count, uint32_t root, uint8_t out[32])
{
    uint8_t children[64];
    size_t left;

    if (count <= BATCH_NODES) {
        merge_batch(cvs, count, root, out);
        return;
    }
    left = left_nodes(count);
    merge(cvs, left, 0, children);
    merge(cvs + left * OE_DIGEST_BYTES, count - left, 0, children + 32);
    parent(children, root, out);
}

void oe_subtree_cv(const uint8_t *data, size_t length, uint64_t leaf_counter, uint8_t out[32])
{
    subtree(data, length, leaf_counter, 0, out);
}

void oe_root_hash(const uint8_t *data, size_t length, uint8_t out[32])
{
    subtree(data, length, 0, OE_ROOT, out);
}

void oe_parent_cv(const uint8_t children[64], bool root, uint8_t out[32])
{
    parent(children, root ? OE_ROOT : 0, out);
}

void oe_root_from_cvs(const uint8_t *cvs, size_t count, uint8_t out[32])
{
    merge(cvs, count, OE_ROOT, out);
}
