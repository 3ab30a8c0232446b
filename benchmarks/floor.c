/* The floor: what the kernel alone asks for to move a file from HTTP/1.1 on loopback to disk. DESIGN.md section 4.
 *
 *   cc -O2 -Wall -Wextra -pthread -o floor benchmarks/floor.c
 *   ./floor HOST PORT PATH OUT CONNECTIONS [--fdatasync]
 *
 * One thread a connection asks for its equal Range, receives into 1 MiB with SO_RCVLOWAT 256 KiB, and writes at its
 * place in a preallocated file. No hashing, no state, no retry: any surprise ends it. Prints one JSON object. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER_BYTES = 1 << 20, LOW_WATER_BYTES = 256 << 10, HEAD_BYTES = 16 << 10, CONNECTIONS_MAX = 64 };

typedef struct {
    pthread_t thread;
    const char *path;
    struct sockaddr_in address;
    int out;
    long long first, count;
} span;

static void die(const char *what)
{
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int dial(const struct sockaddr_in *address)
{
    int socket_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (socket_fd < 0 || connect(socket_fd, (const struct sockaddr *)address, sizeof *address) != 0)
        die("connect");
    return socket_fd;
}

/* Asks for [first, last] and reads the head; leaves body bytes that came with it in `buffer`. Returns how many, and the
 * value of `field` in `*value` (-1: absent). */
static size_t ask(int socket_fd, const char *path, long long first, long long last, const char *field, char *buffer,
                  long long *value)
{
    int length = snprintf(buffer, HEAD_BYTES,
                          "GET %s HTTP/1.1\r\nHost: localhost\r\nRange: bytes=%lld-%lld\r\nConnection: close\r\n\r\n",
                          path, first, last);
    size_t held = 0;
    char *end = NULL, *found;

    if (length >= HEAD_BYTES || send(socket_fd, buffer, (size_t)length, MSG_NOSIGNAL) != length)
        die("send");
    while (end == NULL) {
        ssize_t got = recv(socket_fd, buffer + held, HEAD_BYTES - held, 0);

        if (got <= 0)
            die("no head");
        held += (size_t)got;
        end = memmem(buffer, held, "\r\n\r\n", 4);
    }
    *end = '\0';
    if (strncmp(buffer, "HTTP/1.1 206 ", 13) != 0)
        die(buffer);
    found = strcasestr(buffer, field);
    *value = found == NULL ? -1 : atoll(found + strlen(field));
    held -= (size_t)(end + 4 - buffer);
    memmove(buffer, end + 4, held);
    return held;
}

static void write_all(int fd, const char *data, size_t length, long long offset)
{
    while (length > 0) {
        ssize_t written = pwrite(fd, data, length, offset);

        if (written <= 0)
            die("pwrite");
        data += written, length -= (size_t)written, offset += written;
    }
}

/* Fills the buffer before each write: a receive returns once 256 KiB wait, or at the end of the span. */
static void *fetch(void *argument)
{
    const span *own = argument;
    int socket_fd = dial(&own->address), low_water = LOW_WATER_BYTES;
    char *buffer = aligned_alloc(4096, BUFFER_BYTES);
    long long done = 0, stated;
    size_t held;

    if (buffer == NULL)
        die("memory");
    held = ask(socket_fd, own->path, own->first, own->first + own->count - 1, "\r\nContent-Length: ", buffer, &stated);
    if (stated != own->count)
        die("another length than was asked for");
    if (setsockopt(socket_fd, SOL_SOCKET, SO_RCVLOWAT, &low_water, sizeof low_water) != 0)
        die("SO_RCVLOWAT");
    while (done < own->count) {
        while (held < BUFFER_BYTES && done + (long long)held < own->count) {
            ssize_t got = recv(socket_fd, buffer + held, BUFFER_BYTES - held, 0);

            if (got <= 0)
                die("body cut short");
            held += (size_t)got;
        }
        write_all(own->out, buffer, held, own->first + done);
        done += (long long)held;
        held = 0;
    }
    close(socket_fd);
    free(buffer);
    return NULL;
}

static double seconds(struct timeval time)
{
    return (double)time.tv_sec + (double)time.tv_usec / 1e6;
}

int main(int count, char **words)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    static span spans[CONNECTIONS_MAX];
    struct timespec begun, ended;
    struct rusage usage;
    char head[HEAD_BYTES];
    long long total;
    int connections = count >= 6 ? atoi(words[5]) : 0, sync = count == 7 && strcmp(words[6], "--fdatasync") == 0, out;

    if (count < 6 || count > 7 || (count == 7 && !sync) || connections < 1 || connections > CONNECTIONS_MAX ||
        inet_pton(AF_INET, words[1], &address.sin_addr) != 1) {
        fprintf(stderr, "usage: floor IPV4 PORT PATH OUT CONNECTIONS(1-%d) [--fdatasync]\n", CONNECTIONS_MAX);
        return 2;
    }
    address.sin_port = htons((uint16_t)atoi(words[2]));
    clock_gettime(CLOCK_MONOTONIC, &begun);
    out = dial(&address);
    ask(out, words[3], 0, 0, "\r\nContent-Range: bytes 0-0/", head, &total);
    close(out);
    if (total < connections)
        die("no length, or less than a byte for each connection");
    out = open(words[4], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (out < 0 || fallocate(out, 0, 0, total) != 0)
        die(words[4]);
    for (int i = 0; i < connections; i++) {
        long long first = total / connections * i, next = i == connections - 1 ? total : total / connections * (i + 1);

        spans[i] = (span){.path = words[3], .address = address, .out = out, .first = first, .count = next - first};
        if (pthread_create(&spans[i].thread, NULL, fetch, &spans[i]) != 0)
            die("thread");
    }
    for (int i = 0; i < connections; i++)
        pthread_join(spans[i].thread, NULL);
    if (sync && fdatasync(out) != 0)
        die("fdatasync");
    if (close(out) != 0)
        die("close");
    clock_gettime(CLOCK_MONOTONIC, &ended);
    getrusage(RUSAGE_SELF, &usage);
    printf("{\"bytes\": %lld, \"connections\": %d, \"fdatasync\": %s, ", total, connections, sync ? "true" : "false");
    printf("\"wall_s\": %.3f, \"user_s\": %.3f, \"system_s\": %.3f, \"max_rss_kib\": %ld}\n",
           (double)(ended.tv_sec - begun.tv_sec) + (double)(ended.tv_nsec - begun.tv_nsec) / 1e9,
           seconds(usage.ru_utime), seconds(usage.ru_stime), usage.ru_maxrss);
    return 0;
}
