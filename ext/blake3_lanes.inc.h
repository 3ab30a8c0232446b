/* One BLAKE3 kernel of LANES lanes by compiler vector types; included once for each width and instruction set.
 *
 * The includer defines, and this file undefines at its end:
 *   LANES         4, 8 or 16
 *   TARGET        the function attribute that selects the instruction set (may be empty)
 *   NAME(x)       a unique name for x
 *   BYTE_SHUFFLE  when one instruction permutes the bytes of a vector: rotations by 16 and 8 then use it
 *   WORD_ROTATE   when the machine rotates vector words by itself: rotations are then left to the compiler
 * Without either, a rotation by 16 exchanges half words, and the others are two shifts.
 *
 * State words stay in v0..v15 (16 registers are all that AVX2 has); message words are read from memory where they are
 * used, so that only a temporary or two is spilled. */

typedef uint32_t NAME(vec) __attribute__((vector_size(LANES * 4)));
typedef uint16_t NAME(halves) __attribute__((vector_size(LANES * 4)));
typedef uint8_t NAME(bytes) __attribute__((vector_size(LANES * 4)));
typedef uint32_t NAME(unaligned) __attribute__((vector_size(LANES * 4), aligned(1), may_alias));

#if LANES == 4
#define PER_QUARTER(Q) Q(0)
#define EVEN_QUARTERS 0, 1, 2, 3 /* not used: one quarter is the whole vector */
#define ODD_QUARTERS 0, 1, 2, 3
#elif LANES == 8
#define PER_QUARTER(Q) Q(0), Q(4)
#define EVEN_QUARTERS 0, 1, 2, 3, 8, 9, 10, 11
#define ODD_QUARTERS 4, 5, 6, 7, 12, 13, 14, 15
#else
#define PER_QUARTER(Q) Q(0), Q(4), Q(8), Q(12)
#define EVEN_QUARTERS 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27
#define ODD_QUARTERS 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31
#endif

/* Index lists, each repeated for every 128-bit quarter: the x86 unpack (NEON zip) instructions. */
#define LOW_WORDS(q) (q), (q) + LANES, (q) + 1, (q) + 1 + LANES
#define HIGH_WORDS(q) (q) + 2, (q) + 2 + LANES, (q) + 3, (q) + 3 + LANES
#define LOW_PAIRS(q) (q), (q) + 1, (q) + LANES, (q) + 1 + LANES
#define HIGH_PAIRS(q) (q) + 2, (q) + 3, (q) + 2 + LANES, (q) + 3 + LANES
#define SWAP_TWO(h) (h) + 1, (h), (h) + 3, (h) + 2
#define SWAP_HALVES(q) SWAP_TWO(2 * (q)), SWAP_TWO(2 * (q) + 4)
#define TURN_BYTES(b, by) (b) + (by), (b) + ((by) + 1) % 4, (b) + ((by) + 2) % 4, (b) + ((by) + 3) % 4
#define TURN_QUARTER(q, by) \
    TURN_BYTES(4 * (q), by), TURN_BYTES(4 * (q) + 4, by), TURN_BYTES(4 * (q) + 8, by), TURN_BYTES(4 * (q) + 12, by)
#define RIGHT_16_BITS(q) TURN_QUARTER(q, 2)
#define RIGHT_8_BITS(q) TURN_QUARTER(q, 1)

#if defined(__clang__)
#define SHUFFLE2(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#define SHUFFLE1(type, a, ...) ((NAME(vec))__builtin_shufflevector((type)(a), (type)(a), __VA_ARGS__))
#else
#define SHUFFLE2(a, b, ...) __builtin_shuffle(a, b, (NAME(vec)){__VA_ARGS__})
#define SHUFFLE1(type, a, ...) ((NAME(vec))__builtin_shuffle((type)(a), (type){__VA_ARGS__}))
#endif

#define ROTATE(x, n) (((x) >> (n)) | ((x) << (32 - (n))))
#if defined(WORD_ROTATE)
#define ROTATE_16(x) ROTATE(x, 16)
#define ROTATE_8(x) ROTATE(x, 8)
#elif defined(BYTE_SHUFFLE)
#define ROTATE_16(x) SHUFFLE1(NAME(bytes), x, PER_QUARTER(RIGHT_16_BITS))
#define ROTATE_8(x) SHUFFLE1(NAME(bytes), x, PER_QUARTER(RIGHT_8_BITS))
#else
#define ROTATE_16(x) SHUFFLE1(NAME(halves), x, PER_QUARTER(SWAP_HALVES))
#define ROTATE_8(x) ROTATE(x, 8)
#endif

#define ROTATE_12(x) ROTATE(x, 12)
#define ROTATE_7(x) ROTATE(x, 7)

/* Transposes LANES rows of LANES words. Rows are taken by four: two levels of unpacking transpose each 4x4 quarter,
 * then log2(LANES / 4) levels of splitting even from odd quarters bring the quarters of one column together. */
TARGET static inline __attribute__((always_inline)) void NAME(transpose)(NAME(vec) rows[LANES])
{
    NAME(vec) quarters[4][LANES / 4];

    for (int group = 0; group < LANES / 4; group++) {
        const NAME(vec) *r = rows + 4 * group;
        NAME(vec) low01 = SHUFFLE2(r[0], r[1], PER_QUARTER(LOW_WORDS));
        NAME(vec) high01 = SHUFFLE2(r[0], r[1], PER_QUARTER(HIGH_WORDS));
        NAME(vec) low23 = SHUFFLE2(r[2], r[3], PER_QUARTER(LOW_WORDS));
        NAME(vec) high23 = SHUFFLE2(r[2], r[3], PER_QUARTER(HIGH_WORDS));

        quarters[0][group] = SHUFFLE2(low01, low23, PER_QUARTER(LOW_PAIRS));
        quarters[1][group] = SHUFFLE2(low01, low23, PER_QUARTER(HIGH_PAIRS));
        quarters[2][group] = SHUFFLE2(high01, high23, PER_QUARTER(LOW_PAIRS));
        quarters[3][group] = SHUFFLE2(high01, high23, PER_QUARTER(HIGH_PAIRS));
    }
    for (int column = 0; column < 4; column++) {
        const NAME(vec) *q = quarters[column];
#if LANES == 4
        rows[column] = q[0];
#elif LANES == 8
        rows[column] = SHUFFLE2(q[0], q[1], EVEN_QUARTERS);
        rows[column + 4] = SHUFFLE2(q[0], q[1], ODD_QUARTERS);
#else
        NAME(vec) even01 = SHUFFLE2(q[0], q[1], EVEN_QUARTERS), even23 = SHUFFLE2(q[2], q[3], EVEN_QUARTERS);
        NAME(vec) odd01 = SHUFFLE2(q[0], q[1], ODD_QUARTERS), odd23 = SHUFFLE2(q[2], q[3], ODD_QUARTERS);

        rows[column] = SHUFFLE2(even01, even23, EVEN_QUARTERS);
        rows[column + 4] = SHUFFLE2(odd01, odd23, EVEN_QUARTERS);
        rows[column + 8] = SHUFFLE2(even01, even23, ODD_QUARTERS);
        rows[column + 12] = SHUFFLE2(odd01, odd23, ODD_QUARTERS);
#endif
    }
}

/* Reads one block of every lane, `stride` bytes apart; message[w] receives word w of all lanes. */
TARGET static inline __attribute__((always_inline)) void NAME(load)(const uint8_t *input, size_t stride,
                                                                    NAME(vec) message[16])
{
    for (int first = 0; first < 16; first += LANES) {
        for (int lane = 0; lane < LANES; lane++)
            message[first + lane] = *(const NAME(unaligned) *)(input + (size_t)lane * stride + 4 * (size_t)first);
        NAME(transpose)(message + first);
    }
}

/* Writes the CVs, word-wise in cv, lane by lane. */
TARGET static inline __attribute__((always_inline)) void NAME(store)(const NAME(vec) cv[8], uint8_t *out)
{
    uint32_t words[8][LANES];

    memcpy(words, cv, sizeof words);
    for (int lane = 0; lane < LANES; lane++) {
        uint32_t one[8];

        for (int word = 0; word < 8; word++)
            one[word] = words[word][lane];
        memcpy(out + (size_t)lane * OE_DIGEST_BYTES, one, sizeof one);
    }
}

TARGET static void NAME(hash)(const uint8_t *input, size_t blocks, uint64_t counter, uint8_t *out)
{
    const int parents = blocks == 1;
    NAME(vec) cv[8], message[16], counter_low, counter_high, zero = {0};

    for (int lane = 0; lane < LANES; lane++) {
        uint64_t own = parents ? 0 : counter + (uint64_t)lane;

        counter_low[lane] = (uint32_t)own;
        counter_high[lane] = (uint32_t)(own >> 32);
    }
    cv[0] = zero + OE_IV0, cv[1] = zero + OE_IV1, cv[2] = zero + OE_IV2, cv[3] = zero + OE_IV3;
    cv[4] = zero + OE_IV4, cv[5] = zero + OE_IV5, cv[6] = zero + OE_IV6, cv[7] = zero + OE_IV7;

    for (size_t block = 0; block < blocks; block++) {
        uint32_t flags = parents                       ? OE_PARENT
                         : block == 0                  ? OE_CHUNK_START
                         : block == OE_LEAF_BLOCKS - 1 ? OE_CHUNK_END
                                                       : 0;
        NAME(vec) v0 = cv[0], v1 = cv[1], v2 = cv[2], v3 = cv[3], v4 = cv[4], v5 = cv[5], v6 = cv[6], v7 = cv[7];
        NAME(vec) v8 = zero + OE_IV0, v9 = zero + OE_IV1, v10 = zero + OE_IV2, v11 = zero + OE_IV3;
        NAME(vec) v12 = counter_low, v13 = counter_high, v14 = zero + OE_BLOCK_BYTES, v15 = zero + flags;

        NAME(load)(input + block * OE_BLOCK_BYTES, blocks * OE_BLOCK_BYTES, message);
        OE_SEVEN_ROUNDS
        cv[0] = v0 ^ v8, cv[1] = v1 ^ v9, cv[2] = v2 ^ v10, cv[3] = v3 ^ v11;
        cv[4] = v4 ^ v12, cv[5] = v5 ^ v13, cv[6] = v6 ^ v14, cv[7] = v7 ^ v15;
    }
    NAME(store)(cv, out);
}

#undef PER_QUARTER
#undef EVEN_QUARTERS
#undef ODD_QUARTERS
#undef LOW_WORDS
#undef HIGH_WORDS
#undef LOW_PAIRS
#undef HIGH_PAIRS
#undef SWAP_TWO
#undef SWAP_HALVES
#undef TURN_BYTES
#undef TURN_QUARTER
#undef RIGHT_16_BITS
#undef RIGHT_8_BITS
#undef SHUFFLE2
#undef SHUFFLE1
#undef ROTATE
#undef ROTATE_16
#undef ROTATE_8
#undef ROTATE_12
#undef ROTATE_7
#undef LANES
#undef TARGET
#undef NAME
#undef BYTE_SHUFFLE
#undef WORD_ROTATE
