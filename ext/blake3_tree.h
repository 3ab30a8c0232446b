/* BLAKE3 as a tree of aligned chunks (paper section 2): CVs of subtrees at their place, parents, roots. */
#ifndef OE_BLAKE3_TREE_H
#define OE_BLAKE3_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The non-root CV of `length` > 0 bytes beginning at leaf `leaf_counter`. The caller has checked that they are a
 * subtree: at most (lowest set bit of leaf_counter) leaves, any number at 0. */
void oe_subtree_cv(const uint8_t *data, size_t length, uint64_t leaf_counter, uint8_t out[32]);

/* The hash of a whole file; `length` may be 0. */
void oe_root_hash(const uint8_t *data, size_t length, uint8_t out[32]);

/* The CV of the parent of two 32-byte CVs that lie behind each other; with `root` the hash of the file. */
void oe_parent_cv(const uint8_t children[64], bool root, uint8_t out[32]);

/* The hash of a file from the CVs of its aligned chunks, `count` >= 2. */
void oe_root_from_cvs(const uint8_t *cvs, size_t count, uint8_t out[32]);

#endif
