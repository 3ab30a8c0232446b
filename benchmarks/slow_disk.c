/* A disk that hangs: large writes and syncs take long, as on a dirty page cache over a slow device. For LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/types.h>
#include <time.h>

#define LARGE ((size_t)64 * 1024)

static void hang(const char *variable)
{
    const char *text = getenv(variable);
    long milliseconds = text ? atol(text) : 0;
    struct timespec wait = {milliseconds / 1000, milliseconds % 1000 * 1000000};

    nanosleep(&wait, NULL);
}

ssize_t pwrite64(int fd, const void *data, size_t count, off_t offset)
{
    static ssize_t (*next)(int, const void *, size_t, off_t);

    if (!next)
        next = (ssize_t(*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite64");
    if (count >= LARGE)
        hang("SLOW_WRITE_MS");
    return next(fd, data, count, offset);
}

ssize_t pwrite(int fd, const void *data, size_t count, off_t offset)
{
    return pwrite64(fd, data, count, offset);
}

int fdatasync(int fd)
{
    static int (*next)(int);

    if (!next)
        next = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    hang("SLOW_SYNC_MS");
    return next(fd);
}

int fsync(int fd)
{
    static int (*next)(int);

    if (!next)
        next = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    hang("SLOW_SYNC_MS");
    return next(fd);
}
