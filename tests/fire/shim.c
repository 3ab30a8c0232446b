/* System calls that go wrong, for code that no seam of Python reaches: the sealer and LMDB (fault catalogue T5).
 *
 * Preloaded into an engine process. Calls on files below the armed root are counted by kind; the chosen one of the
 * chosen kind fails with an errno, comes up short, or ends the process at once. Nothing happens until fire_arm(). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { PWRITE, WRITEV, FDATASYNC, FSYNC, FTRUNCATE, FALLOCATE, RENAME, OPEN, UNLINK, MKDIR, KINDS };
enum { FAILS, SHORT, EXITS };
#define EXIT_STATUS 99

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[4096];
static size_t root_length;
static long made[KINDS];
static int armed_kind = -1, armed_error, armed_how, armed_lasting;
static long armed_at, struck;

/* `at` counts from 1. `error` is an errno, `how` one of FAILS, SHORT, EXITS. */
void fire_arm(const char *under, int kind, long at, int error, int how, int lasting)
{
    snprintf(root, sizeof root, "%s", under);
    root_length = strlen(root);
    armed_kind = kind;
    armed_at = at;
    armed_error = error;
    armed_how = how;
    armed_lasting = lasting;
}

long fire_made(int kind)
{
    return kind >= 0 && kind < KINDS ? made[kind] : -1;
}

long fire_struck(void)
{
    return struck;
}

static bool below_root(const char *path)
{
    return root_length > 0 && strncmp(path, root, root_length) == 0;
}

static bool fd_below_root(int fd)
{
    char link[64], path[4096];
    ssize_t length;

    if (root_length == 0)
        return false;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return false;
    path[length] = 0;
    return below_root(path);
}

static bool name_below_root(int folder_fd, const char *path)
{
    return path[0] == '/' ? below_root(path) : fd_below_root(folder_fd);
}

/* Whether this call goes wrong; an EXITS does not come back. A SHORT is left to the caller. */
static bool strikes(enum kind kind, bool counted)
{
    int before = errno;
    bool hit = false;

    if (counted) {
        pthread_mutex_lock(&lock);
        made[kind]++;
        hit = (int)kind == armed_kind && (made[kind] == armed_at || (armed_lasting && made[kind] > armed_at));
        if (hit)
            struck++;
        pthread_mutex_unlock(&lock);
    }
    if (hit && armed_how == EXITS)
        _exit(EXIT_STATUS);
    errno = hit && armed_how == FAILS ? armed_error : before;
    return hit;
}

#define REAL(type, name, ...)                                                                                          \
    static type (*real)(__VA_ARGS__);                                                                                  \
    if (real == NULL)                                                                                                  \
    real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

#define PWRITE_AS(name, offset_type)                                                                                   \
    ssize_t name(int fd, const void *data, size_t length, offset_type offset)                                          \
    {                                                                                                                  \
        REAL(ssize_t, name, int, const void *, size_t, offset_type);                                                   \
        if (strikes(PWRITE, fd_below_root(fd))) {                                                                      \
            if (armed_how == FAILS)                                                                                    \
                return -1;                                                                                             \
            length = length > 1 ? length / 2 : length;                                                                 \
        }                                                                                                              \
        return real(fd, data, length, offset);                                                                         \
    }
PWRITE_AS(pwrite, off_t)
PWRITE_AS(pwrite64, off64_t)

static ssize_t short_writev(int fd, const struct iovec *pieces)
{
    return write(fd, pieces[0].iov_base, pieces[0].iov_len > 1 ? pieces[0].iov_len / 2 : pieces[0].iov_len);
}

ssize_t writev(int fd, const struct iovec *pieces, int count)
{
    REAL(ssize_t, writev, int, const struct iovec *, int);
    if (strikes(WRITEV, fd_below_root(fd)))
        return armed_how == FAILS ? -1 : short_writev(fd, pieces);
    return real(fd, pieces, count);
}

#define PWRITEV_AS(name, offset_type)                                                                                  \
    ssize_t name(int fd, const struct iovec *pieces, int count, offset_type offset)                                    \
    {                                                                                                                  \
        REAL(ssize_t, name, int, const struct iovec *, int, offset_type);                                              \
        if (strikes(WRITEV, fd_below_root(fd))) {                                                                      \
            if (armed_how == FAILS)                                                                                    \
                return -1;                                                                                             \
            count = 1;                                                                                                 \
        }                                                                                                              \
        return real(fd, pieces, count, offset);                                                                        \
    }
PWRITEV_AS(pwritev, off_t)
PWRITEV_AS(pwritev64, off64_t)

#define SYNC_AS(name, kind)                                                                                            \
    int name(int fd)                                                                                                   \
    {                                                                                                                  \
        REAL(int, name, int);                                                                                          \
        return strikes(kind, fd_below_root(fd)) ? -1 : real(fd);                                                       \
    }
SYNC_AS(fdatasync, FDATASYNC)
SYNC_AS(fsync, FSYNC)

#define FTRUNCATE_AS(name, offset_type)                                                                                \
    int name(int fd, offset_type length)                                                                               \
    {                                                                                                                  \
        REAL(int, name, int, offset_type);                                                                             \
        return strikes(FTRUNCATE, fd_below_root(fd)) ? -1 : real(fd, length);                                          \
    }
FTRUNCATE_AS(ftruncate, off_t)
FTRUNCATE_AS(ftruncate64, off64_t)

#define FALLOCATE_AS(name, offset_type)                                                                                \
    int name(int fd, int mode, offset_type offset, offset_type length)                                                 \
    {                                                                                                                  \
        REAL(int, name, int, int, offset_type, offset_type);                                                           \
        return strikes(FALLOCATE, fd_below_root(fd)) ? -1 : real(fd, mode, offset, length);                            \
    }
FALLOCATE_AS(fallocate, off_t)
FALLOCATE_AS(fallocate64, off64_t)

int rename(const char *source, const char *target)
{
    REAL(int, rename, const char *, const char *);
    return strikes(RENAME, below_root(target)) ? -1 : real(source, target);
}

int renameat(int source_fd, const char *source, int target_fd, const char *target)
{
    REAL(int, renameat, int, const char *, int, const char *);
    return strikes(RENAME, name_below_root(target_fd, target)) ? -1 : real(source_fd, source, target_fd, target);
}

/* The engine calls renameat2 by number. */
long syscall(long number, ...)
{
    long given[6];
    va_list rest;
    REAL(long, syscall, long, ...);

    va_start(rest, number);
    for (int i = 0; i < 6; i++)
        given[i] = va_arg(rest, long);
    va_end(rest);
    if (number == SYS_renameat2 && strikes(RENAME, name_below_root((int)given[2], (const char *)given[3])))
        return -1;
    return real(number, given[0], given[1], given[2], given[3], given[4], given[5]);
}

static mode_t mode_of(int flags, va_list rest)
{
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
}

#define OPEN_AS(name)                                                                                                  \
    int name(const char *path, int flags, ...)                                                                         \
    {                                                                                                                  \
        va_list rest;                                                                                                  \
        mode_t mode;                                                                                                   \
        REAL(int, name, const char *, int, ...);                                                                       \
        va_start(rest, flags);                                                                                         \
        mode = mode_of(flags, rest);                                                                                   \
        va_end(rest);                                                                                                  \
        return strikes(OPEN, below_root(path)) ? -1 : real(path, flags, mode);                                         \
    }
OPEN_AS(open)
OPEN_AS(open64)

#define OPENAT_AS(name)                                                                                                \
    int name(int folder_fd, const char *path, int flags, ...)                                                          \
    {                                                                                                                  \
        va_list rest;                                                                                                  \
        mode_t mode;                                                                                                   \
        REAL(int, name, int, const char *, int, ...);                                                                  \
        va_start(rest, flags);                                                                                         \
        mode = mode_of(flags, rest);                                                                                   \
        va_end(rest);                                                                                                  \
        return strikes(OPEN, name_below_root(folder_fd, path)) ? -1 : real(folder_fd, path, flags, mode);              \
    }
OPENAT_AS(openat)
OPENAT_AS(openat64)

int unlinkat(int folder_fd, const char *path, int flags)
{
    REAL(int, unlinkat, int, const char *, int);
    return strikes(UNLINK, name_below_root(folder_fd, path)) ? -1 : real(folder_fd, path, flags);
}

int unlink(const char *path)
{
    REAL(int, unlink, const char *);
    return strikes(UNLINK, below_root(path)) ? -1 : real(path);
}

int mkdir(const char *path, mode_t mode)
{
    REAL(int, mkdir, const char *, mode_t);
    return strikes(MKDIR, below_root(path)) ? -1 : real(path, mode);
}
