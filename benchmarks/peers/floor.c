/* The floor: one blocking send() of a ready-made frame to one reader after the other, and nothing that a server needs
 * besides. It trusts its client (heads and frames come whole) and HEAD (messages of 126 bytes and more), has no queues
 * and stands still while a socket is full. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "accept_key.h"

enum { MAX_FD = 1 << 17, BURST = 32, MAX_FRAME = 4096 };

static const char subscribed[] = "\x81\x15{\"type\":\"subscribed\"}";
static int readers[MAX_FD], n_readers;
static int place[MAX_FD]; /* of a descriptor in `readers`, from 1; 0: has not subscribed */

static double seconds(clockid_t id) {
    struct timespec now;
    clock_gettime(id, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static void leave(int fd) {
    if (place[fd]) {
        int last = readers[--n_readers];
        readers[place[fd] - 1] = last;
        place[last] = place[fd];
        place[fd] = 0;
    }
    close(fd);
}

static void on_readable(int fd) {
    char in[4096], out[256], accept[29];
    ssize_t n = recv(fd, in, sizeof in - 1, MSG_DONTWAIT);
    if (n <= 0) {
        leave(fd);
        return;
    }
    in[n] = 0;
    char *key = memcmp(in, "GET ", 4) ? NULL : strcasestr(in, "\r\nSec-WebSocket-Key: ");
    if (key) {
        accept_key(key + 21, accept);
        n = snprintf(out, sizeof out, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     "Sec-WebSocket-Accept: %s\r\n\r\n", accept);
        send(fd, out, n, MSG_NOSIGNAL);
    } else if (!place[fd]) {
        send(fd, subscribed, sizeof subscribed - 1, MSG_NOSIGNAL);
        readers[n_readers++] = fd;
        place[fd] = n_readers;
    }
}

static void publish(const char *head, long n) {
    char text[MAX_FRAME], at[32];
    double now = seconds(CLOCK_REALTIME);
    time_t whole = (time_t)now;
    struct tm utc;
    strftime(at, sizeof at, "%Y-%m-%dT%H:%M:%S", gmtime_r(&whole, &utc));
    int size = snprintf(text + 4, sizeof text - 4, "%s%s.%03dZ\",\"sequence\":%ld,\"seq\":%ld}", head, at,
                        (int)((now - whole) * 1000), n, n);
    text[0] = (char)0x81, text[1] = 126, text[2] = size >> 8, text[3] = size & 255;
    for (int i = 0; i < n_readers; i++) send(readers[i], text, size + 4, MSG_NOSIGNAL);
}

int main(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t address_size = sizeof address;
    struct epoll_event event = {.events = EPOLLIN}, events[256];
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), poll = epoll_create1(0), fd;
    long n = 0, due;
    if (argc != 3 || strlen(argv[2]) > MAX_FRAME - 128 || bind(listener, (void *)&address, sizeof address)
        || listen(listener, 4096) || getsockname(listener, (void *)&address, &address_size)) {
        fprintf(stderr, "floor: RATE HEAD, and a free port, are needed\n");
        return 2;
    }
    event.data.fd = listener;
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
    printf("{\"port\": %d, \"pids\": [%d]}\n", ntohs(address.sin_port), getpid());
    fflush(stdout);
    double rate = atof(argv[1]), began = seconds(CLOCK_MONOTONIC), wait;
    for (;;) {
        wait = began + (n + 1) / rate - seconds(CLOCK_MONOTONIC);
        int n_events = epoll_wait(poll, events, 256, wait > 0 ? (int)(wait * 1000) + 1 : 0);
        for (int i = 0; i < n_events; i++) {
            if (events[i].data.fd != listener) {
                on_readable(events[i].data.fd);
                continue;
            }
            while ((fd = accept(listener, NULL, NULL)) >= 0 && fd < MAX_FD) {
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                event.data.fd = fd;
                epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
            }
        }
        due = (long)((seconds(CLOCK_MONOTONIC) - began) * rate);
        for (due = due < n + BURST ? due : n + BURST; n < due;) publish(argv[2], ++n);
    }
}
