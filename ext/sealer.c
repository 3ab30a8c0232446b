#define _GNU_SOURCE
#include "sealer.h"

#include "blake3_tree.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

/* Linux moves at most 0x7ffff000 bytes a call; a round figure below it keeps every call whole pages. */
#define WRITE_BYTES_MAX ((size_t)1 << 30)

/* Places in `seals` wander round: idle -> waiting -> (a thread) -> finished -> idle. Each of the three is a ring. */
typedef struct {
    size_t *places;
    size_t first, count;
} ring;

/* Writers of one file take turns here. The kernel makes them take turns anyway, on the inode, but those who wait there
 * spin: on two cores that costs the very CPU that hashing and receiving need. Here they sleep. Files share a turn by
 * their descriptor's low bits, which at worst makes two files wait for each other. */
#define TURNS 16u

struct oe_sealer {
    pthread_mutex_t lock;
    pthread_mutex_t turns[TURNS];
    pthread_cond_t work; /* `waiting` grew, or `finishing` was set */
    oe_seal *seals;
    size_t *places;
    ring idle, waiting, finished;
    size_t depth;
    size_t thread_count;
    pthread_t *threads;
    pid_t owner;
    int eventfd;
    bool finishing;
};

static void ring_push(ring *r, size_t depth, size_t place)
{
    r->places[(r->first + r->count++) % depth] = place;
}

static size_t ring_pop(ring *r, size_t depth)
{
    size_t place = r->places[r->first];

    r->first = (r->first + 1) % depth;
    r->count--;
    return place;
}

static uint64_t monotonic_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int write_all(int fd, const uint8_t *data, size_t length, uint64_t offset)
{
    while (length > 0) {
        size_t wanted = length < WRITE_BYTES_MAX ? length : WRITE_BYTES_MAX;
        ssize_t written = pwrite(fd, data, wanted, (off_t)offset);

        if (written < 0) {
            if (errno == EINTR)
                continue;
            return errno;
        }
        if (written == 0)
            return EIO; /* no progress and no reason: trying again could go on for ever */
        data += written;
        length -= (size_t)written;
        offset += (uint64_t)written;
    }
    return 0;
}

static void seal_one(oe_sealer *sealer, oe_seal *seal)
{
    uint64_t begun = monotonic_ns();

    if (seal->root)
        oe_root_hash(seal->data, seal->length, seal->digest);
    else
        oe_subtree_cv(seal->data, seal->length, seal->leaf_counter, seal->digest);
    seal->hashed_ns = monotonic_ns() - begun;
    seal->error = 0;
    if (seal->fd >= 0) {
        pthread_mutex_t *turn = &sealer->turns[(unsigned)seal->fd % TURNS];

        pthread_mutex_lock(turn);
        seal->error = write_all(seal->fd, seal->data, seal->length, seal->offset);
        pthread_mutex_unlock(turn);
        /* Only advice: what cannot be written is told by the sync that counts. */
        if (seal->error == 0 && seal->early)
            (void)sync_file_range(seal->fd, (off_t)seal->offset, (off_t)seal->length, SYNC_FILE_RANGE_WRITE);
    }
}

static void *seal_until_finishing(void *argument)
{
    oe_sealer *sealer = argument;

    pthread_mutex_lock(&sealer->lock);
    for (;;) {
        size_t place;

        while (sealer->waiting.count == 0 && !sealer->finishing)
            pthread_cond_wait(&sealer->work, &sealer->lock);
        if (sealer->waiting.count == 0)
            break;
        place = ring_pop(&sealer->waiting, sealer->depth);
        pthread_mutex_unlock(&sealer->lock);
        seal_one(sealer, &sealer->seals[place]);
        pthread_mutex_lock(&sealer->lock);
        ring_push(&sealer->finished, sealer->depth, place);
        /* Under the lock, so that the eventfd is readable exactly while results wait. It cannot fail: at most `depth`
         * is ever counted. */
        (void)eventfd_write(sealer->eventfd, 1);
    }
    pthread_mutex_unlock(&sealer->lock);
    return NULL;
}

static int start_threads(oe_sealer *sealer, size_t threads)
{
    sigset_t all, before;
    int error = 0;

    /* Signals are for the host's own threads; SIGXFSZ must come back as EFBIG. New threads inherit the mask. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (sealer->thread_count < threads && error == 0) {
        pthread_t *thread = &sealer->threads[sealer->thread_count];

        error = pthread_create(thread, NULL, seal_until_finishing, sealer);
        if (error == 0) {
            pthread_setname_np(*thread, "oe-seal");
            sealer->thread_count++;
        }
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

int oe_sealer_open(size_t threads, size_t depth, oe_sealer **out)
{
    int error;
    oe_sealer *sealer = calloc(1, sizeof *sealer);

    if (sealer == NULL)
        return ENOMEM;
    pthread_mutex_init(&sealer->lock, NULL);
    for (size_t i = 0; i < TURNS; i++)
        pthread_mutex_init(&sealer->turns[i], NULL);
    pthread_cond_init(&sealer->work, NULL);
    sealer->owner = getpid();
    sealer->depth = depth;
    sealer->seals = calloc(depth, sizeof *sealer->seals);
    sealer->places = calloc(depth, 3 * sizeof *sealer->places);
    sealer->threads = calloc(threads, sizeof *sealer->threads);
    sealer->eventfd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (sealer->eventfd < 0) {
        error = errno;
    } else if (sealer->seals == NULL || sealer->places == NULL || sealer->threads == NULL) {
        error = ENOMEM;
    } else {
        sealer->idle.places = sealer->places;
        sealer->waiting.places = sealer->places + depth;
        sealer->finished.places = sealer->places + 2 * depth;
        for (size_t place = 0; place < depth; place++)
            ring_push(&sealer->idle, depth, place);
        error = start_threads(sealer, threads);
    }
    if (error != 0) {
        oe_sealer_finish(sealer);
        oe_sealer_free(sealer);
        return error;
    }
    *out = sealer;
    return 0;
}

bool oe_sealer_owned(const oe_sealer *sealer)
{
    return sealer->owner == getpid();
}

int oe_sealer_eventfd(const oe_sealer *sealer)
{
    return sealer->eventfd;
}

int oe_sealer_submit(oe_sealer *sealer, const oe_seal *seal)
{
    size_t place;

    pthread_mutex_lock(&sealer->lock);
    if (sealer->idle.count == 0) {
        pthread_mutex_unlock(&sealer->lock);
        return EAGAIN;
    }
    place = ring_pop(&sealer->idle, sealer->depth);
    sealer->seals[place] = *seal;
    ring_push(&sealer->waiting, sealer->depth, place);
    pthread_cond_signal(&sealer->work);
    pthread_mutex_unlock(&sealer->lock);
    return 0;
}

size_t oe_sealer_drain(oe_sealer *sealer, oe_seal *out, size_t room)
{
    size_t count = 0;
    eventfd_t announced;

    pthread_mutex_lock(&sealer->lock);
    while (sealer->finished.count > 0 && count < room) {
        size_t place = ring_pop(&sealer->finished, sealer->depth);

        out[count++] = sealer->seals[place];
        ring_push(&sealer->idle, sealer->depth, place);
    }
    if (count > 0 && sealer->finished.count == 0)
        (void)eventfd_read(sealer->eventfd, &announced);
    pthread_mutex_unlock(&sealer->lock);
    return count;
}

size_t oe_sealer_in_flight(oe_sealer *sealer)
{
    size_t count;

    pthread_mutex_lock(&sealer->lock);
    count = sealer->depth - sealer->idle.count;
    pthread_mutex_unlock(&sealer->lock);
    return count;
}

void oe_sealer_finish(oe_sealer *sealer)
{
    pthread_mutex_lock(&sealer->lock);
    sealer->finishing = true;
    pthread_cond_broadcast(&sealer->work);
    pthread_mutex_unlock(&sealer->lock);
    for (size_t i = 0; i < sealer->thread_count; i++)
        pthread_join(sealer->threads[i], NULL);
    sealer->thread_count = 0;
}

void oe_sealer_free(oe_sealer *sealer)
{
    if (sealer->eventfd >= 0)
        close(sealer->eventfd);
    pthread_cond_destroy(&sealer->work);
    pthread_mutex_destroy(&sealer->lock);
    for (size_t i = 0; i < TURNS; i++)
        pthread_mutex_destroy(&sealer->turns[i]);
    free(sealer->threads);
    free(sealer->places);
    free(sealer->seals);
    free(sealer);
}
