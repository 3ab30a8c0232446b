/* Four system calls that Python does not have. Each returns 0, or -1 with errno. */
#ifndef OE_FILE_CALLS_H
#define OE_FILE_CALLS_H

#include <stdint.h>

/* fallocate(2) of [0, length), with FALLOC_FL_KEEP_SIZE or mode 0; never the C library's emulation by writing zeros. */
int oe_fallocate(int fd, int64_t length, int keep_size);

/* renameat2(2) with RENAME_NOREPLACE. */
int oe_rename_noreplace(int source_dir_fd, const char *source, int target_dir_fd, const char *target);

/* sync_file_range(2) with SYNC_FILE_RANGE_WRITE: begins write-back, waits for nothing, promises nothing. */
int oe_sync_range_start(int fd, int64_t offset, int64_t length);

/* madvise(2) with MADV_DONTNEED of a mapping that is shared with a file: its pages stay in the page cache, and the next
   look at one maps it again. The caller knows that [start, start + length) is such a mapping, and of whole pages: of a
   private one it would lose what was written. */
int oe_release_mapped(uint64_t start, uint64_t length);

#endif
