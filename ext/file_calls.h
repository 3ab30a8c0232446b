/* Three system calls that Python does not have. Each returns 0, or -1 with errno. */
#ifndef OE_FILE_CALLS_H
#define OE_FILE_CALLS_H

#include <stdint.h>

/* fallocate(2), mode 0, of [0, length); never the C library's emulation by writing zeros. */
int oe_fallocate(int fd, int64_t length);

/* renameat2(2) with RENAME_NOREPLACE. */
int oe_rename_noreplace(int source_dir_fd, const char *source, int target_dir_fd, const char *target);

/* sync_file_range(2) with SYNC_FILE_RANGE_WRITE: begins write-back, waits for nothing, promises nothing. */
int oe_sync_range_start(int fd, int64_t offset, int64_t length);

#endif
