/* The ring alone, for the sanitizers: producers on threads, a consumer that checks every record, and a close under way.
 *
 * Exit status 0: nothing torn, nothing lost, nothing out of order.
 */
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/eventfd.h>

#include "../../fastws/_inlet_impl/ring.h"

enum { N_PRODUCERS = 8 };

static fastws_hub *hub;
static int64_t n_each;
static int64_t taken[N_PRODUCERS]; /* by its producer; read once that has ended */

static void *produce(void *given) {
    const int32_t topic = (int32_t)(intptr_t)given;
    fastws_book book = fastws_book_of(topic, 2);
    book.n_bids = FASTWS_BOOK_LEVELS;
    for (int64_t i = 1; i <= n_each; i++) {
        int result;
        if (i % 8 == 0) {
            for (int level = 0; level < FASTWS_BOOK_LEVELS; level++) book.bids[level] = (fastws_level){i, i};
            result = publish_book(hub, &book);
        } else {
            fastws_price price = fastws_price_of(topic, fastws_whole(i));
            price.volume = price.trade_volume = i;
            price.low = fastws_whole(i);
            result = publish_price(hub, &price);
        }
        if (result == FASTWS_OK)
            taken[topic]++;
        else if (result == FASTWS_FULL) {
            i--;
            sched_yield();
        } else
            break; /* closed */
    }
    return NULL;
}

int main(int argc, char **argv) {
    pthread_t threads[N_PRODUCERS];
    int64_t last[N_PRODUCERS] = {0}, seen[N_PRODUCERS] = {0}, n_seen = 0;
    const int fd = eventfd(0, EFD_NONBLOCK);
    int n_torn = 0;
    if (argc != 3) return 2;
    n_each = atoll(argv[1]);
    const int64_t close_after = atoll(argv[2]); /* records; 0: never */
    hub = hub_new(1 << 16, N_PRODUCERS, fd, fd);
    atomic_store(&hub->n_topics, N_PRODUCERS);
    for (intptr_t i = 0; i < N_PRODUCERS; i++) pthread_create(&threads[i], NULL, produce, (void *)i);
    while (n_seen < n_each * N_PRODUCERS) {
        ring_record record;
        if (!ring_peek(hub, &record)) {
            struct pollfd waiting = {fd, POLLIN, 0};
            uint64_t n;
            if (!ring_sleep(hub)) continue;
            /* A wake-up that is lost ends it here. */
            if (poll(&waiting, 1, 20000) != 1) return fprintf(stderr, "nobody woke the consumer\n"), 1;
            if (read(fd, &n, sizeof n) != sizeof n) return 1;
            continue;
        }
        if (record.kind != RECORD_SKIP) {
            const fastws_price *price = (const fastws_price *)record.value;
            const fastws_book *book = (const fastws_book *)record.value;
            int64_t i = record.kind == RECORD_PRICE ? price->price.mantissa : book->bids[0].price;
            if (record.kind == RECORD_PRICE)
                n_torn += price->volume != i || price->trade_volume != i || price->low.mantissa != i;
            else
                for (int level = 0; level < FASTWS_BOOK_LEVELS; level++)
                    n_torn += book->bids[level].price != i || book->bids[level].quantity != i;
            n_torn += i != last[price->topic] + 1;
            last[price->topic] = i;
            seen[price->topic]++;
            n_seen++;
        }
        ring_pop(hub, &record);
        if (close_after && n_seen == close_after) break;
    }
    ring_close(hub);
    const uint64_t n_left = ring_abandon(hub);
    int64_t n_taken = 0;
    for (int i = 0; i < N_PRODUCERS; i++) {
        pthread_join(threads[i], NULL);
        n_taken += taken[i];
    }
    hub_release(hub);
    printf("%lld seen, %llu left, %lld taken, %d torn\n", (long long)n_seen, (unsigned long long)n_left,
           (long long)n_taken, n_torn);
    return n_torn != 0 || n_seen + (int64_t)n_left != n_taken;
}
