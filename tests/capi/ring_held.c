/* The ring for a thread that is held up between its looks at `tail` and at `head`.
 *
 * What the others do in that time is put into the second look, so that one thread shows it, each time alike. Exit status
 * 0: such a thread publishes where there is room, and is told FASTWS_FULL or FASTWS_CLOSED where that is so.
 */
#include <stdatomic.h>

static void before_load(const volatile void *object);

/* An atomic object that is read as a plain one is loaded in sequentially consistent order. */
#undef atomic_load_explicit
#define atomic_load_explicit(object, order) (before_load(object), *(object))

#include <stdio.h>
#include <sys/eventfd.h>

#include "../../fastws/_inlet_impl/ring.h"

enum { RING_SIZE = 1 << 12 };

static fastws_hub *hub;
static void (*meanwhile)(void); /* at the next look at `head` */

static void before_load(const volatile void *object) {
    void (*happens)(void) = meanwhile;
    if (happens == NULL || object != &hub->head) return;
    meanwhile = NULL;
    happens();
}

static int put(void) {
    const fastws_price price = fastws_price_of(0, fastws_whole(1));
    return publish_price(hub, &price);
}

static void empty(void) {
    ring_record record;
    while (ring_peek(hub, &record)) ring_pop(hub, &record);
}

/* With two records in it at the most the ring is never near full. */
static void others_pass_once(void) {
    put();
    put();
    empty();
}

static void others_pass_often(void) {
    for (int i = 0; i < 1000; i++) {
        put();
        empty();
    }
}

static void others_fill_it(void) {
    others_pass_often();
    while (put() == FASTWS_OK) continue;
}

static void it_is_closed(void) {
    others_pass_often();
    ring_close(hub);
}

static int n_held, n_wrong;

static void expect(const char *what, void (*happens)(void), int result) {
    /* From every place in the block, those included from where the end is skipped. */
    for (uint64_t n_before = 0; n_before < RING_SIZE / RECORD_ALIGN; n_before++) {
        const int fd = eventfd(0, EFD_NONBLOCK);
        int given;
        uint64_t n_full;
        hub = hub_new(RING_SIZE, 1, fd, fd);
        atomic_store(&hub->n_topics, 1);
        atomic_store(&hub->tail, n_before * RECORD_ALIGN);
        atomic_store(&hub->head, n_before * RECORD_ALIGN);
        n_full = happens == others_fill_it; /* their own last one */
        meanwhile = happens;
        given = put();
        n_held++;
        n_full += given == FASTWS_FULL;
        if (given != result || meanwhile != NULL || hub_count(hub, FASTWS_COUNT_FULL) != n_full) {
            fprintf(stderr, "%s, from %llu on: %d\n", what, (unsigned long long)n_before * RECORD_ALIGN, given);
            n_wrong++;
        }
        empty();
        n_wrong += (atomic_load(&hub->tail) & ~RING_CLOSED) != atomic_load(&hub->head); /* what is left in it */
        hub_release(hub);
    }
}

int main(void) {
    expect("others passed once", others_pass_once, FASTWS_OK);
    expect("others passed often", others_pass_often, FASTWS_OK);
    expect("others filled it", others_fill_it, FASTWS_FULL);
    expect("it was closed", it_is_closed, FASTWS_CLOSED);
    printf("%d held up, %d wrong\n", n_held, n_wrong);
    return n_wrong != 0;
}
