# Imports, and the system calls that the loop uses.
import base64
import hashlib
import os
import resource
import socket as socket_module
import sys
import urllib.parse

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EADDRNOTAVAIL, EAGAIN, ECONNREFUSED, EINPROGRESS, EINTR, ENOMEM, errno
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memchr, memcmp, memcpy, memmove, memset

from fastws.errors import FastwsError

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <stdint.h>
    #include <netinet/in.h>
    #include <netinet/tcp.h>
    #include <string.h>
    #include <sys/epoll.h>
    #include <sys/socket.h>
    #include <time.h>
    #include <unistd.h>
    static inline int64_t fastws_clock_us(clockid_t id) {
        struct timespec ts;
        clock_gettime(id, &ts);
        return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
    }
    /* Which of the eight bytes of a word comes first in memory of those with their highest bit set. */
    static inline int fastws_first_byte(uint64_t high_bits) {
    #if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        return __builtin_clzll(high_bits) >> 3;
    #else
        return __builtin_ctzll(high_bits) >> 3;
    #endif
    }
    typedef volatile int volatile_int;
    """
    ctypedef int volatile_int
    ctypedef uint32_t socklen_t
    ctypedef int clockid_t
    const clockid_t CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_THREAD_CPUTIME_ID
    int64_t fastws_clock_us(clockid_t id) noexcept nogil
    int fastws_first_byte(uint64_t high_bits) noexcept nogil
    int __builtin_clzll(unsigned long long value) noexcept nogil
    void* memmem(const void* haystack, size_t size, const void* needle, size_t needle_size) noexcept nogil
    struct timespec:
        long tv_sec
        long tv_nsec
    int nanosleep(const timespec* requested, timespec* left) noexcept nogil
    int close(int fd) noexcept nogil

    struct sockaddr:
        pass
    struct sockaddr_storage:
        uint16_t ss_family
    struct in_addr:
        pass
    struct in6_addr:
        pass
    struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        uint16_t sin6_family
        uint16_t sin6_port
        in6_addr sin6_addr
    uint16_t htons(uint16_t value) noexcept nogil
    struct linger:
        int l_onoff
        int l_linger
    const int AF_INET, AF_INET6, SOCK_STREAM, SOCK_NONBLOCK, SOCK_CLOEXEC
    const int SOL_SOCKET, SO_ERROR, SO_LINGER, SO_RCVBUF
    const int IPPROTO_TCP, TCP_NODELAY, MSG_DONTWAIT, MSG_NOSIGNAL
    int socket(int family, int kind, int protocol) noexcept nogil
    int connect(int fd, const sockaddr* address, socklen_t size) noexcept nogil
    int setsockopt(int fd, int level, int name, const void* value, socklen_t size) noexcept nogil
    int getsockopt(int fd, int level, int name, void* value, socklen_t* size) noexcept nogil
    ssize_t send(int fd, const void* data, size_t size, int flags) noexcept nogil
    ssize_t recv(int fd, void* data, size_t size, int flags) noexcept nogil

    ctypedef union epoll_data_t:
        uint32_t u32
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    const int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD
    const uint32_t EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLLRDHUP, EPOLLET
    int epoll_create1(int flags) noexcept nogil
    int epoll_ctl(int epoll_fd, int operation, int fd, epoll_event* event) noexcept nogil
    int epoll_wait(int epoll_fd, epoll_event* events, int n, int timeout_ms) noexcept nogil

_WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"     # RFC 6455 section 1.3

cdef enum:
    SIGNAL_CHECK_US = 200000            # how long a stop or a signal may wait
    WAKE_US = 20000                     # the longest sleep while load runs: what is over it is a pause of our own
    STALL_US = 20000                    # pauses from here on are no silence of the server
