/* The layout that extensions have been compiled with: what stands here never changes but by a new FASTWS_ABI. */
#include <Python.h>

#include <assert.h>
#include <fastws.h>

#define AT(type, member, offset) static_assert(offsetof(type, member) == (offset), #type "." #member)
#define SIZE(type, size) static_assert(sizeof(type) == (size), #type)

AT(fastws_decimal, mantissa, 0);
AT(fastws_decimal, scale, 8);
SIZE(fastws_decimal, 16);

AT(fastws_price, struct_size, 0);
AT(fastws_price, topic, 4);
AT(fastws_price, price, 8);
AT(fastws_price, change, 24);
AT(fastws_price, change_percent, 40);
AT(fastws_price, high, 56);
AT(fastws_price, low, 72);
AT(fastws_price, volume, 88);
AT(fastws_price, trade_volume, 96);
AT(fastws_price, event_time_ms, 104);
AT(fastws_price, venue, 112);
AT(fastws_price, quality, 120);
SIZE(fastws_price, 136);

AT(fastws_book, struct_size, 0);
AT(fastws_book, topic, 4);
AT(fastws_book, n_bids, 8);
AT(fastws_book, n_asks, 12);
AT(fastws_book, price_scale, 16);
AT(fastws_book, event_time_ms, 24);
AT(fastws_book, venue, 32);
AT(fastws_book, quality, 40);
AT(fastws_book, bids, 56);
AT(fastws_book, asks, 216);
SIZE(fastws_book, 376);

AT(fastws_api, abi, 0);
AT(fastws_api, version, 4);
AT(fastws_api, struct_size, 8);
AT(fastws_api, hub_from_object, 16);
AT(fastws_api, hub_release, 24);
AT(fastws_api, intern, 32);
AT(fastws_api, publish_price, 40);
AT(fastws_api, publish_book, 48);
AT(fastws_api, publish_json, 56);
AT(fastws_api, publish_many, 64);
AT(fastws_api, subscriber_count, 72);
AT(fastws_api, count, 80);
SIZE(fastws_api, 88);

static_assert(FASTWS_ABI == 1 && FASTWS_API_VERSION == 1, "a new one has a new list");
static_assert(FASTWS_FULL == -1 && FASTWS_CLOSED == -2 && FASTWS_INVALID == -3, "answers");
static_assert(FASTWS_COUNT_TAKEN == 0 && FASTWS_COUNT_INVALID == 5, "counts");
