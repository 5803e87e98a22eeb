/* The ring between the threads that publish and the event loop. C11 atomics; no Python.
 *
 * Records lie one behind the other in one block of memory, each with a head of 16 bytes and rounded up to 16:
 *
 *     0   8   state: 0 not there yet, else the size of the record and its kind
 *     8   4   bytes of the value
 *     12  4   0
 *     16      the value
 *
 * A producer claims room by moving `tail` (compare and swap), writes the value, and then the state, which is what the
 * consumer waits for. The consumer clears a record before it moves `head` over it: so whatever lies where a head comes
 * to be is 0 until it is written. A record never wraps around; what is left at the end of the block becomes a record of
 * its own that is skipped, claimed together with the one behind it.
 *
 * Closing sets a bit of `tail`, so that a claim either came before it, and is seen, or fails.
 *
 * Forking: a child has a copy of the ring that nobody empties. So its publications are refused as closed, by the number of
 * forks, which a process has from its parent and adds itself to.
 *
 * Waking: the consumer sets `is_asleep` and looks once more before it sleeps; a producer writes the state and then looks
 * at `is_asleep`. All four are sequentially consistent, so one of the two sees the other.
 */
#ifndef FASTWS_RING_H
#define FASTWS_RING_H

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../include/fastws.h"

enum { RECORD_SKIP = 1, RECORD_PRICE = 2, RECORD_BOOK = 3, RECORD_JSON = 4 };
enum { RECORD_HEAD = 16, RECORD_ALIGN = 16, CACHE_LINE = 64 };

/* How many forks this process is away from the one that has loaded this. */
static _Atomic uint32_t n_forks;

static void ring_forked(void) { atomic_fetch_add_explicit(&n_forks, 1, memory_order_relaxed); }

/* In `tail`: no more claims. */
#define RING_CLOSED (UINT64_C(1) << 63)

struct fastws_hub {
    /* Read by all, written by few. */
    char *data;
    uint64_t size; /* a power of two */
    int read_fd;
    int wake_fd; /* the same one, but for a pipe */
    int32_t max_topics;
    uint32_t n_forks; /* of the process it belongs to */
    _Atomic(int32_t) *subscribers; /* by topic; -1: not known */
    void *owner;                   /* the Inlet, borrowed; NULL once it is closed. With the GIL only. */
    _Atomic int64_t references;
    _Atomic int wants_counts;
    _Atomic int32_t n_topics;
    _Alignas(CACHE_LINE) _Atomic uint64_t tail;
    _Alignas(CACHE_LINE) _Atomic uint64_t head;
    _Alignas(CACHE_LINE) _Atomic int is_asleep;
    _Alignas(CACHE_LINE) _Atomic uint64_t n_full;
    _Atomic uint64_t n_invalid;
    _Alignas(CACHE_LINE) _Atomic uint64_t n_published;
    _Atomic uint64_t n_rejected;
    _Atomic uint64_t n_undelivered;
    _Atomic uint64_t n_taken;
};

typedef struct {
    int kind;
    uint32_t size;
    const char *value;
    uint64_t span; /* how far the next record is */
} ring_record;

static inline uint64_t record_state(uint64_t span, int kind) { return span << 8 | (uint64_t)kind; }

static inline _Atomic uint64_t *state_at(fastws_hub *hub, uint64_t position) {
    return (_Atomic uint64_t *)(hub->data + (position & (hub->size - 1)));
}

static fastws_hub *hub_new(uint64_t size, int32_t max_topics, int read_fd, int wake_fd) {
    fastws_hub *hub = (fastws_hub *)aligned_alloc(CACHE_LINE, sizeof *hub);
    if (hub == NULL) return NULL;
    memset(hub, 0, sizeof *hub);
    hub->data = (char *)calloc(1, size);
    hub->subscribers = (_Atomic(int32_t) *)malloc(sizeof(int32_t) * (size_t)max_topics);
    if (hub->data == NULL || hub->subscribers == NULL) {
        free(hub->data);
        free(hub->subscribers);
        free(hub);
        return NULL;
    }
    memset(hub->subscribers, 0xff, sizeof(int32_t) * (size_t)max_topics);
    hub->size = size;
    hub->max_topics = max_topics;
    hub->n_forks = atomic_load_explicit(&n_forks, memory_order_relaxed);
    hub->read_fd = read_fd;
    hub->wake_fd = wake_fd;
    atomic_init(&hub->references, 1);
    atomic_init(&hub->is_asleep, 1);
    return hub;
}

static inline void hub_hold(fastws_hub *hub) { atomic_fetch_add_explicit(&hub->references, 1, memory_order_relaxed); }

static void hub_release(fastws_hub *hub) {
    if (hub == NULL || atomic_fetch_sub_explicit(&hub->references, 1, memory_order_acq_rel) != 1) return;
    /* Nobody writes to them any more, so their numbers may become those of other files. */
    close(hub->wake_fd);
    if (hub->read_fd != hub->wake_fd) close(hub->read_fd);
    free(hub->data);
    free(hub->subscribers);
    free(hub);
}

/* Producers. */

static inline void ring_wake(fastws_hub *hub) {
    if (atomic_load(&hub->is_asleep) && atomic_exchange(&hub->is_asleep, 0)) {
        /* 8 bytes for an eventfd; a pipe takes them as well. When it is full, the consumer is awake already. */
        const uint64_t one = 1;
        ssize_t written;
        do written = write(hub->wake_fd, &one, sizeof one);
        while (written < 0 && errno == EINTR);
    }
}

/* Writes one record; 0, FASTWS_FULL or FASTWS_CLOSED. Does not wake. */
static inline int ring_put(fastws_hub *hub, int kind, const void *value, uint32_t size) {
    const uint64_t span = ((uint64_t)size + RECORD_HEAD + RECORD_ALIGN - 1) & ~(uint64_t)(RECORD_ALIGN - 1);
    uint64_t tail = atomic_load_explicit(&hub->tail, memory_order_relaxed);
    uint64_t skipped, place;
    char *record;
    if (hub->n_forks != atomic_load_explicit(&n_forks, memory_order_relaxed)) return FASTWS_CLOSED;
    do {
        const uint64_t left = hub->size - (tail & (hub->size - 1));
        skipped = left < span ? left : 0;
        if (tail & RING_CLOSED) return FASTWS_CLOSED;
        /* Acquire: what the consumer cleared is seen as cleared before it is written. Signed: while this thread was held
         * up between its two looks, others may have claimed the room and the consumer may have come past it. That is no
         * full ring; the exchange fails then, and brings the `tail` of now. */
        if ((int64_t)(tail + skipped + span - atomic_load_explicit(&hub->head, memory_order_acquire)) >
            (int64_t)hub->size) {
            atomic_fetch_add_explicit(&hub->n_full, 1, memory_order_relaxed);
            return FASTWS_FULL;
        }
    } while (!atomic_compare_exchange_weak_explicit(&hub->tail, &tail, tail + skipped + span, memory_order_acq_rel,
                                                    memory_order_relaxed));
    if (skipped) atomic_store(state_at(hub, tail), record_state(skipped, RECORD_SKIP));
    place = tail + skipped;
    record = hub->data + (place & (hub->size - 1));
    memcpy(record + 8, &size, sizeof size);
    memcpy(record + RECORD_HEAD, value, size);
    atomic_store(state_at(hub, place), record_state(span, kind));
    return FASTWS_OK;
}

static inline int refuse(fastws_hub *hub) {
    atomic_fetch_add_explicit(&hub->n_invalid, 1, memory_order_relaxed);
    return FASTWS_INVALID;
}

static inline int is_decimal(const fastws_decimal *value) { return value->scale >= 0 && value->scale <= FASTWS_MAX_SCALE; }

static inline int is_volume(int64_t value) { return value >= 0 || value == FASTWS_NONE; }

/* Years 1970 to 9999. */
static inline int is_time(int64_t ms) { return ms >= 0 && ms <= INT64_C(253402300799999); }

/* Printable ASCII up to the first zero or the end. */
static inline int is_text(const char *text, size_t size) {
    size_t i;
    for (i = 0; i < size && text[i] != 0; i++)
        if (text[i] < 0x20 || text[i] > 0x7e) return 0;
    return 1;
}

static inline int is_topic(fastws_hub *hub, int32_t topic) {
    return topic >= 0 && topic < atomic_load_explicit(&hub->n_topics, memory_order_acquire);
}

static inline int put_price(fastws_hub *hub, const fastws_price *price) {
    if (price->struct_size < sizeof *price || !is_topic(hub, price->topic) || price->price.mantissa == FASTWS_NONE ||
        !is_decimal(&price->price) || !is_decimal(&price->change) || !is_decimal(&price->change_percent) ||
        !is_decimal(&price->high) || !is_decimal(&price->low) || !is_volume(price->volume) ||
        !is_volume(price->trade_volume) || !is_time(price->event_time_ms) ||
        !is_text(price->venue, sizeof price->venue) || !is_text(price->quality, sizeof price->quality))
        return refuse(hub);
    return ring_put(hub, RECORD_PRICE, price, sizeof *price);
}

static int publish_price(fastws_hub *hub, const fastws_price *price) {
    const int result = put_price(hub, price);
    if (result == FASTWS_OK) ring_wake(hub);
    return result;
}

static ptrdiff_t publish_many(fastws_hub *hub, const fastws_price *prices, size_t n) {
    const char *next = (const char *)prices;
    int result = FASTWS_OK;
    size_t i;
    if (n == 0) return 0;
    /* Those of a later version are longer than those of this one. */
    for (i = 0; i < n && (result = put_price(hub, (const fastws_price *)next)) == FASTWS_OK; i++)
        next += ((const fastws_price *)next)->struct_size;
    if (i == 0) return result;
    ring_wake(hub);
    return (ptrdiff_t)i;
}

static int publish_book(fastws_hub *hub, const fastws_book *book) {
    int32_t i;
    int result;
    if (book->struct_size < sizeof *book || !is_topic(hub, book->topic) || book->n_bids < 0 ||
        book->n_bids > FASTWS_BOOK_LEVELS || book->n_asks < 0 || book->n_asks > FASTWS_BOOK_LEVELS ||
        book->price_scale < 0 || book->price_scale > FASTWS_MAX_SCALE || !is_time(book->event_time_ms) ||
        !is_text(book->venue, sizeof book->venue) || !is_text(book->quality, sizeof book->quality))
        return refuse(hub);
    for (i = 0; i < book->n_bids; i++)
        if (book->bids[i].price == FASTWS_NONE || book->bids[i].quantity < 0) return refuse(hub);
    for (i = 0; i < book->n_asks; i++)
        if (book->asks[i].price == FASTWS_NONE || book->asks[i].quantity < 0) return refuse(hub);
    result = ring_put(hub, RECORD_BOOK, book, sizeof *book);
    if (result == FASTWS_OK) ring_wake(hub);
    return result;
}

static int publish_json(fastws_hub *hub, const char *json, size_t size) {
    int result;
    if (size == 0 || size > FASTWS_MAX_JSON) return refuse(hub);
    result = ring_put(hub, RECORD_JSON, json, (uint32_t)size);
    if (result == FASTWS_OK) ring_wake(hub);
    return result;
}

static int32_t subscriber_count(fastws_hub *hub, int32_t topic) {
    if (!is_topic(hub, topic)) return -1;
    atomic_store_explicit(&hub->wants_counts, 1, memory_order_relaxed);
    return atomic_load_explicit(&hub->subscribers[topic], memory_order_relaxed);
}

/* The consumer, which is one thread. */

/* The record at the head; 0 when it is not there yet. */
static inline int ring_peek(fastws_hub *hub, ring_record *record) {
    uint64_t head = atomic_load_explicit(&hub->head, memory_order_relaxed);
    uint64_t state = atomic_load(state_at(hub, head));
    if (state == 0) return 0;
    record->kind = (int)(state & 0xff);
    record->span = state >> 8;
    record->value = hub->data + (head & (hub->size - 1)) + RECORD_HEAD;
    if (record->kind == RECORD_SKIP)
        record->size = 0;
    else
        memcpy(&record->size, record->value - 8, sizeof record->size);
    return 1;
}

static inline void ring_pop(fastws_hub *hub, const ring_record *record) {
    const uint64_t head = atomic_load_explicit(&hub->head, memory_order_relaxed);
    atomic_store_explicit(state_at(hub, head), 0, memory_order_relaxed);
    memset(hub->data + (head & (hub->size - 1)) + 8, 0, record->span - 8);
    atomic_store_explicit(&hub->head, head + record->span, memory_order_release);
    if (record->kind != RECORD_SKIP) atomic_fetch_add_explicit(&hub->n_taken, 1, memory_order_relaxed);
}

/* Returns whether the consumer may sleep: from then on the next record writes to `wake_fd`. */
static inline int ring_sleep(fastws_hub *hub) {
    ring_record record;
    atomic_store(&hub->is_asleep, 1);
    if (!ring_peek(hub, &record)) return 1;
    atomic_store(&hub->is_asleep, 0);
    return 0;
}

/* Bytes that wait, with their heads. */
static inline uint64_t ring_waiting(fastws_hub *hub) {
    const uint64_t head = atomic_load_explicit(&hub->head, memory_order_acquire);
    return (atomic_load_explicit(&hub->tail, memory_order_acquire) & ~RING_CLOSED) - head;
}

static inline void ring_close(fastws_hub *hub) { atomic_fetch_or(&hub->tail, RING_CLOSED); }

/* What is left of a closed ring, counted and forgotten. Waits for those who have claimed and are still writing, which
 * takes as long as a copy, but not for threads that have died over it. */
static inline uint64_t ring_abandon(fastws_hub *hub) {
    ring_record record;
    uint64_t n = 0;
    int patience = 1000;
    while (ring_waiting(hub) && patience) {
        if (ring_peek(hub, &record)) {
            n += record.kind != RECORD_SKIP;
            ring_pop(hub, &record);
        } else {
            patience--;
            usleep(100);
        }
    }
    atomic_fetch_add_explicit(&hub->n_undelivered, n, memory_order_relaxed);
    return n;
}

static uint64_t hub_count(fastws_hub *hub, int which) {
    switch (which) {
    case FASTWS_COUNT_TAKEN: return atomic_load_explicit(&hub->n_taken, memory_order_relaxed);
    case FASTWS_COUNT_PUBLISHED: return atomic_load_explicit(&hub->n_published, memory_order_relaxed);
    case FASTWS_COUNT_REJECTED: return atomic_load_explicit(&hub->n_rejected, memory_order_relaxed);
    case FASTWS_COUNT_UNDELIVERED: return atomic_load_explicit(&hub->n_undelivered, memory_order_relaxed);
    case FASTWS_COUNT_FULL: return atomic_load_explicit(&hub->n_full, memory_order_relaxed);
    case FASTWS_COUNT_INVALID: return atomic_load_explicit(&hub->n_invalid, memory_order_relaxed);
    default: return 0;
    }
}

#endif /* FASTWS_RING_H */
