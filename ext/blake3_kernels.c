/* The lane kernels of this machine and the choice among them. */
#include "blake3_kernel.h"

#include <string.h>

#if defined(__x86_64__)

#define LANES 4
#define TARGET
#define NAME(x) x##_sse2
#include "blake3_lanes.inc.h"

#define LANES 8
#define TARGET __attribute__((target("avx2")))
#define NAME(x) x##_avx2
#define BYTE_SHUFFLE
#include "blake3_lanes.inc.h"

#define LANES 16
#define TARGET __attribute__((target("avx512f,avx512vl")))
#define NAME(x) x##_avx512
#define WORD_ROTATE
#include "blake3_lanes.inc.h"

static const oe_simd_path path_avx512 = {"avx512", {{16, hash_avx512}, {8, hash_avx2}, {4, hash_sse2}}};
static const oe_simd_path path_avx2 = {"avx2", {{8, hash_avx2}, {4, hash_sse2}}};
static const oe_simd_path path_sse2 = {"sse2", {{4, hash_sse2}}};

#elif defined(__aarch64__)

#define LANES 4
#define TARGET
#define NAME(x) x##_neon
#include "blake3_lanes.inc.h"

static const oe_simd_path path_neon = {"neon", {{4, hash_neon}}};

#endif

static const oe_simd_path path_portable = {"portable", {{0, NULL}}};

size_t oe_simd_paths(const oe_simd_path *paths[OE_SIMD_PATHS_MAX])
{
    size_t count = 0;

#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx2"))
        paths[count++] = &path_avx512;
    if (__builtin_cpu_supports("avx2"))
        paths[count++] = &path_avx2;
    paths[count++] = &path_sse2;
#elif defined(__aarch64__)
    paths[count++] = &path_neon;
#endif
    paths[count++] = &path_portable;
    return count;
}

/* Only ever a pointer to one of the constants above, so a relaxed exchange is all that other threads need. */
static const oe_simd_path *current_path;

const oe_simd_path *oe_simd_current(void)
{
    const oe_simd_path *path = __atomic_load_n(&current_path, __ATOMIC_RELAXED);

    if (path == NULL) {
        const oe_simd_path *paths[OE_SIMD_PATHS_MAX];

        oe_simd_paths(paths);
        path = paths[0];
        __atomic_store_n(&current_path, path, __ATOMIC_RELAXED);
    }
    return path;
}

int oe_simd_force(const char *name)
{
    const oe_simd_path *paths[OE_SIMD_PATHS_MAX];
    size_t count = oe_simd_paths(paths);

    for (size_t i = 0; i < count; i++) {
        if (strcmp(paths[i]->name, name) == 0) {
            __atomic_store_n(&current_path, paths[i], __ATOMIC_RELAXED);
            return 0;
        }
    }
    return -1;
}
