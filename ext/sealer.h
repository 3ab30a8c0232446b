/* Threads that hash a chunk and write it at its place, and announce it on an eventfd.
 *
 * A sealer belongs to the process that opened it: a forked child has neither its threads nor a usable lock, so no
 * function here may be called there, not even oe_sealer_close (oe_sealer_owned tells). */
#ifndef OE_SEALER_H
#define OE_SEALER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct oe_sealer oe_sealer;

typedef struct {
    int64_t ticket;
    int fd; /* -1: hash only */
    bool root;
    bool early; /* begin the write-back at once: somebody is going to wait for it */
    const uint8_t *data;
    size_t length;
    uint64_t offset;
    uint64_t leaf_counter;
    void *owner; /* handed back with the result; keeps `data` alive */
    /* The result. */
    int error; /* errno, 0 when all bytes were written */
    uint8_t digest[32];
    uint64_t hashed_ns;
} oe_seal;

/* Starts `threads` >= 1 threads with room for `depth` >= 1 seals; returns 0 or an errno. */
int oe_sealer_open(size_t threads, size_t depth, oe_sealer **out);

bool oe_sealer_owned(const oe_sealer *sealer);

/* Readable exactly while results wait to be drained. */
int oe_sealer_eventfd(const oe_sealer *sealer);

/* Queues a copy of `seal`; EAGAIN when `depth` seals are submitted and not drained, else 0. */
int oe_sealer_submit(oe_sealer *sealer, const oe_seal *seal);

/* Moves up to `room` finished seals to `out` and returns how many; the eventfd is cleared when none is left. */
size_t oe_sealer_drain(oe_sealer *sealer, oe_seal *out, size_t room);

size_t oe_sealer_in_flight(oe_sealer *sealer);

/* Finishes what was submitted and joins the threads; results can still be drained. Once only. */
void oe_sealer_finish(oe_sealer *sealer);

/* Frees what is left of a finished sealer whose results were drained. */
void oe_sealer_free(oe_sealer *sealer);

#endif
