#define _GNU_SOURCE
#include "file_calls.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

int oe_fallocate(int fd, int64_t length, int keep_size)
{
    return fallocate(fd, keep_size ? FALLOC_FL_KEEP_SIZE : 0, 0, length);
}

int oe_rename_noreplace(int source_dir_fd, const char *source, int target_dir_fd, const char *target)
{
    /* By number: the wrapper came only with glibc 2.28. */
    return (int)syscall(SYS_renameat2, source_dir_fd, source, target_dir_fd, target, RENAME_NOREPLACE);
}

int oe_sync_range_start(int fd, int64_t offset, int64_t length)
{
    return sync_file_range(fd, offset, length, SYNC_FILE_RANGE_WRITE);
}

int oe_release_mapped(uint64_t start, uint64_t length)
{
    return madvise((void *)(uintptr_t)start, (size_t)length, MADV_DONTNEED);
}
