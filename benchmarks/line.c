/* A line between two network namespaces of its own: delay, loss, doubles, disorder and rate as asked for, in user space
 * (a kernel may have no netem).
 *
 *   cc -O2 -Wall -Wextra -o line benchmarks/line.c
 *   ./line DELAY_US LOSS_PPM DOUBLE_PPM SWAP_PPM SEED RATE_BYTES_S QUEUE_BYTES [TRACE]
 *                                                                       (as root; RATE 0: as fast as it comes)
 *
 * DELAY_US is one way. Of the packets of each direction, drawn from the SEED, LOSS_PPM are lost, DOUBLE_PPM come twice
 * and SWAP_PPM overtake the one before. Prints one line, its process id and the descriptors of the client's and the
 * server's namespace (`nsenter --net=/proc/PID/fd/N command`), and works until it is ended. Client 10.99.0.1, server
 * 10.99.0.2. TRACE gets the bytes, IP headers included, that were given to the client in each tenth of a second. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { PACKET_MAX = 2048, RING = 1 << 16, BATCH = 64, TRACE_S_TENTHS = 36000 };

typedef struct {
    uint64_t due;
    uint32_t length;
    unsigned char data[PACKET_MAX];
} packet;

typedef struct {
    int in, out;
    uint64_t random, free_at;
    uint32_t head, tail;
    long long queued;
    packet *ring;
} direction;

static uint64_t delay_ns, rate_bytes_s;
static uint32_t loss_ppm, double_ppm, swap_ppm;
static long long queue_bytes;
static long long trace[TRACE_S_TENTHS];
static volatile sig_atomic_t ended;

static void end(int number) {
    (void)number;
    ended = 1;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (uint64_t)at.tv_sec * 1000000000u + (uint64_t)at.tv_nsec;
}

static uint64_t draw(uint64_t *state) { /* splitmix64 */
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* A namespace of its own for this process, with a TUN that has this address. */
static int enter(const char *address, int *namespace) {
    char command[256];
    struct ifreq request;
    if (unshare(CLONE_NEWNET) != 0) fail("unshare");
    int tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
    if (tun < 0) fail("/dev/net/tun");
    memset(&request, 0, sizeof request);
    strcpy(request.ifr_name, "line");
    request.ifr_flags = IFF_TUN | IFF_NO_PI;
    if (ioctl(tun, TUNSETIFF, &request) != 0) fail("TUNSETIFF");
    snprintf(command, sizeof command,
             "ip link set lo up && ip addr add %s/24 dev line && ip link set line txqueuelen 20000 up", address);
    if (system(command) != 0) fail("ip");
    *namespace = open("/proc/self/ns/net", O_RDONLY);
    if (*namespace < 0) fail("/proc/self/ns/net");
    return tun;
}

static int happens(direction *way, uint32_t ppm) {
    return draw(&way->random) % 1000000 < ppm;
}

/* The packet that was just taken overtakes the one before it: only what they carry changes places. */
static void swap_with_last(direction *way) {
    static packet spare;
    packet *first = &way->ring[(way->head - 2) % RING], *second = &way->ring[(way->head - 1) % RING];
    uint64_t due = first->due, later = second->due;
    spare = *first, *first = *second, *second = spare;
    first->due = due, second->due = later;
}

static void take(direction *way, uint64_t now) {
    for (int taken = 0; taken < BATCH; taken++) {
        if (way->head - way->tail >= RING - 1) return; /* there is room for one that comes twice */
        packet *slot = &way->ring[way->head % RING];
        ssize_t length = read(way->in, slot->data, PACKET_MAX);
        if (length <= 0) return;
        if (happens(way, loss_ppm)) continue;
        uint64_t sent = now;
        if (rate_bytes_s) {
            if (way->queued + length > queue_bytes) continue;
            if (way->free_at > now) sent = way->free_at;
            sent += (uint64_t)length * 1000000000u / rate_bytes_s;
            way->free_at = sent;
        }
        slot->length = (uint32_t)length;
        slot->due = sent + delay_ns;
        way->queued += length;
        way->head++;
        if (double_ppm && happens(way, double_ppm)) {
            way->ring[way->head % RING] = *slot;
            way->queued += length;
            way->head++;
        }
        if (swap_ppm && happens(way, swap_ppm) && way->head - way->tail > 1) swap_with_last(way);
    }
}

static void give(direction *way, uint64_t now, long long *counted) {
    while (way->tail != way->head && way->ring[way->tail % RING].due <= now) {
        packet *slot = &way->ring[way->tail % RING];
        if (write(way->out, slot->data, slot->length) < 0 && errno == EAGAIN) return;
        if (counted) *counted += slot->length;
        way->queued -= slot->length;
        way->tail++;
    }
}

static uint64_t next_due(const direction *way) {
    return way->tail == way->head ? UINT64_MAX : way->ring[way->tail % RING].due;
}

int main(int count, char **words) {
    int client_space, server_space, last = 0;
    if (count < 8) {
        fprintf(stderr, "usage: line DELAY_US LOSS_PPM DOUBLE_PPM SWAP_PPM SEED RATE_BYTES_S QUEUE_BYTES [TRACE]\n");
        return 2;
    }
    delay_ns = strtoull(words[1], NULL, 10) * 1000;
    loss_ppm = (uint32_t)strtoul(words[2], NULL, 10);
    double_ppm = (uint32_t)strtoul(words[3], NULL, 10);
    swap_ppm = (uint32_t)strtoul(words[4], NULL, 10);
    uint64_t seed = strtoull(words[5], NULL, 10);
    rate_bytes_s = strtoull(words[6], NULL, 10);
    queue_bytes = strtoll(words[7], NULL, 10);
    int client = enter("10.99.0.1", &client_space), server = enter("10.99.0.2", &server_space);
    direction ways[2] = {
        {.in = server, .out = client, .random = seed},
        {.in = client, .out = server, .random = ~seed},
    };
    for (int i = 0; i < 2; i++)
        if (!(ways[i].ring = malloc(sizeof(packet) * RING))) fail("malloc");
    struct sigaction action = {.sa_handler = end};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    printf("%d %d %d\n", getpid(), client_space, server_space);
    fflush(stdout);
    uint64_t began = now_ns();
    while (!ended) {
        uint64_t now = now_ns(), due = UINT64_MAX;
        last = (int)((now - began) / 100000000u);
        long long *tenth = last < TRACE_S_TENTHS ? &trace[last] : NULL;
        for (int i = 0; i < 2; i++) {
            take(&ways[i], now);
            give(&ways[i], now, i == 0 ? tenth : NULL);
            if (next_due(&ways[i]) < due) due = next_due(&ways[i]);
        }
        now = now_ns();
        uint64_t left = due == UINT64_MAX ? 1000000000u : due > now ? due - now : 0;
        struct timespec wait = {.tv_sec = (time_t)(left / 1000000000u), .tv_nsec = (long)(left % 1000000000u)};
        struct pollfd polled[2] = {{.fd = client, .events = POLLIN}, {.fd = server, .events = POLLIN}};
        if (ppoll(polled, 2, &wait, NULL) < 0 && errno != EINTR) fail("ppoll");
    }
    if (count > 8) {
        FILE *out = fopen(words[8], "w");
        if (!out) fail(words[8]);
        for (int i = 0; i <= last && i < TRACE_S_TENTHS; i++) fprintf(out, "%lld\n", trace[i]);
        fclose(out);
    }
    return 0;
}
