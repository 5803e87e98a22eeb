/* The C API of fastws: publish prices and order books from any thread, without Python's GIL.
 *
 *     #include <fastws.h>
 *
 *     if (fastws_import() < 0) return NULL;                  // with the GIL, once per source file
 *     fastws_hub *hub = fastws_hub_from_object(server);      // with the GIL
 *     int32_t topic = fastws_intern(hub, "005930", 6);       // with the GIL
 *
 *     fastws_price price = fastws_price_of(topic, fastws_whole(71500));      // from here on: any thread, no GIL
 *     price.volume = 1234567;
 *     if (fastws_publish_price(hub, &price) == FASTWS_FULL) ...              // later again, or not at all
 *
 *     fastws_hub_release(hub);
 *
 * Compile with the directory that `fastws.get_include()` returns; nothing has to be linked. What is published is copied
 * into a ring of bounded size, from which the event loop of the server takes it, in the order of the publications of
 * each thread. Nothing here allocates, waits or takes a lock, but for what is said to need the GIL.
 *
 * The layout only ever grows at its end: FASTWS_API_VERSION counts what was added, FASTWS_ABI what was broken. An
 * extension runs with every fastws of the same FASTWS_ABI whose version is at least the one it was compiled with;
 * otherwise fastws_import() raises an ImportError that says which of the two to renew.
 *
 * C99 and C++11.
 */
#ifndef FASTWS_H
#define FASTWS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define FASTWS_ABI 1u
#define FASTWS_API_VERSION 1u
#define FASTWS_CAPSULE "fastws._inlet._C_API"

#ifdef __cplusplus
extern "C" {
#endif

/* What publishing returns. */
enum {
    FASTWS_OK = 0,
    FASTWS_FULL = -1,    /* no room in the ring: nothing was taken; the server is behind, try later */
    FASTWS_CLOSED = -2,  /* the server has ended, is ending, or is that of a parent process: nothing is taken any more */
    FASTWS_INVALID = -3  /* an argument is outside of what its field may hold: nothing was taken */
};

enum {
    FASTWS_BOOK_LEVELS = 10,
    FASTWS_MAX_SCALE = 18,
    FASTWS_MAX_JSON = 65536 /* bytes of one fastws_publish_json() */
};

/* Absent, as a mantissa or a volume. */
#define FASTWS_NONE INT64_MIN

/* mantissa / 10**scale, exact: 71.50 is {7150, 2} and leaves as 71.50. */
typedef struct {
    int64_t mantissa; /* FASTWS_NONE: absent */
    int32_t scale;    /* 0 to FASTWS_MAX_SCALE */
    int32_t reserved; /* 0 */
} fastws_decimal;

/* A trade or a polled price. Start from fastws_price_of(), which leaves everything else absent. */
typedef struct {
    uint32_t struct_size;          /* sizeof(fastws_price), by which later versions know what is there */
    int32_t topic;                 /* from fastws_intern() */
    fastws_decimal price;          /* never absent */
    fastws_decimal change;         /* to the previous close */
    fastws_decimal change_percent; /* 1.39 is 1.39 % */
    fastws_decimal high;           /* of the day */
    fastws_decimal low;
    int64_t volume;        /* of the day, or FASTWS_NONE */
    int64_t trade_volume;  /* of this trade, or FASTWS_NONE */
    int64_t event_time_ms; /* the exchange's time, ms since the Unix epoch; 0: unknown */
    char venue[8];         /* such as "KRX", padded with zeros; printable ASCII; "": none */
    char quality[16];      /* such as "realtime"; like venue */
} fastws_price;

typedef struct {
    int64_t price;    /* mantissa, with the price_scale of the book */
    int64_t quantity; /* whole, not negative */
} fastws_level;

/* A whole order book, best levels first. Start from fastws_book_of(). */
typedef struct {
    uint32_t struct_size; /* sizeof(fastws_book) */
    int32_t topic;
    int32_t n_bids; /* 0 to FASTWS_BOOK_LEVELS */
    int32_t n_asks;
    int32_t price_scale; /* of all prices, 0 to FASTWS_MAX_SCALE */
    int32_t reserved;    /* 0 */
    int64_t event_time_ms;
    char venue[8];
    char quality[16];
    fastws_level bids[FASTWS_BOOK_LEVELS];
    fastws_level asks[FASTWS_BOOK_LEVELS];
} fastws_book;

/* What fastws_count() counts, since the start of the server. */
enum {
    FASTWS_COUNT_TAKEN = 0,       /* publications that the server has taken from the ring */
    FASTWS_COUNT_PUBLISHED = 1,   /* of these, what the server has published */
    FASTWS_COUNT_REJECTED = 2,    /* of these, what it could not publish; the log says why */
    FASTWS_COUNT_UNDELIVERED = 3, /* of these, what was left when the server ended */
    FASTWS_COUNT_FULL = 4,        /* publications answered with FASTWS_FULL */
    FASTWS_COUNT_INVALID = 5      /* publications answered with FASTWS_INVALID */
};

/* One server, as this API sees it. */
typedef struct fastws_hub fastws_hub;

/* The table behind the functions below. Fields are only ever added at the end. */
typedef struct {
    uint32_t abi;
    uint32_t version;
    uint32_t struct_size;
    uint32_t flags;
    fastws_hub *(*hub_from_object)(void *object);
    void (*hub_release)(fastws_hub *hub);
    int32_t (*intern)(fastws_hub *hub, const char *code, size_t size);
    int (*publish_price)(fastws_hub *hub, const fastws_price *price);
    int (*publish_book)(fastws_hub *hub, const fastws_book *book);
    int (*publish_json)(fastws_hub *hub, const char *json, size_t size);
    ptrdiff_t (*publish_many)(fastws_hub *hub, const fastws_price *prices, size_t n);
    int32_t (*subscriber_count)(fastws_hub *hub, int32_t topic);
    uint64_t (*count)(fastws_hub *hub, int which);
} fastws_api;

/* Values. */

static inline fastws_decimal fastws_decimal_of(int64_t mantissa, int32_t scale) {
    fastws_decimal value = {mantissa, scale, 0};
    return value;
}

static inline fastws_decimal fastws_whole(int64_t value) { return fastws_decimal_of(value, 0); }

static inline fastws_decimal fastws_absent(void) { return fastws_decimal_of(FASTWS_NONE, 0); }

static inline fastws_price fastws_price_of(int32_t topic, fastws_decimal price) {
    fastws_price out;
    memset(&out, 0, sizeof out);
    out.struct_size = (uint32_t)sizeof out;
    out.topic = topic;
    out.price = price;
    out.change = out.change_percent = out.high = out.low = fastws_absent();
    out.volume = out.trade_volume = FASTWS_NONE;
    return out;
}

static inline fastws_book fastws_book_of(int32_t topic, int32_t price_scale) {
    fastws_book out;
    memset(&out, 0, sizeof out);
    out.struct_size = (uint32_t)sizeof out;
    out.topic = topic;
    out.price_scale = price_scale;
    return out;
}

#ifdef Py_PYTHON_H

/* Each source file that includes this has a pointer of its own, so each calls fastws_import(). */
static const fastws_api *fastws_table = NULL;

/* Call with the GIL, before anything below. 0, or -1 with an ImportError set. */
static inline int fastws_import(void) {
    const fastws_api *table;
    /* The capsule is an attribute of a module inside the package, which has to be imported first. */
    PyObject *module = PyImport_ImportModule("fastws._inlet");
    if (module == NULL) return -1;
    Py_DECREF(module);
    table = (const fastws_api *)PyCapsule_Import(FASTWS_CAPSULE, 0);
    if (table == NULL) return -1;
    if (table->abi != FASTWS_ABI) {
        PyErr_Format(PyExc_ImportError,
                     "this extension was compiled for ABI %u of fastws, and the installed fastws has ABI %u: %s",
                     FASTWS_ABI, table->abi,
                     table->abi > FASTWS_ABI ? "compile the extension again" : "install a newer fastws");
        return -1;
    }
    if (table->version < FASTWS_API_VERSION || table->struct_size < sizeof(fastws_api)) {
        PyErr_Format(PyExc_ImportError,
                     "this extension needs version %u of the C API of fastws, and the installed fastws has version %u: "
                     "install a newer fastws",
                     FASTWS_API_VERSION, table->version);
        return -1;
    }
    fastws_table = table;
    return 0;
}

/* GIL. The hub of a `fastws.Server` or of its `hub`; NULL with a TypeError for anything else. The caller owns the
 * handle, which stays usable after the server has ended (publishing then returns FASTWS_CLOSED), and releases it. */
static inline fastws_hub *fastws_hub_from_object(PyObject *object) { return fastws_table->hub_from_object(object); }

/* Any thread, no GIL. The handle is not used any more. NULL is allowed. */
static inline void fastws_hub_release(fastws_hub *hub) { fastws_table->hub_release(hub); }

/* GIL. The number of an instrument's code (UTF-8, 1 to 64 characters without blanks), the same one for the same code;
 * -1 with a ValueError for a code that cannot be one, and when there are as many as a server takes. A code in no table
 * becomes an instrument with its first publication. */
static inline int32_t fastws_intern(fastws_hub *hub, const char *code, size_t size) {
    return fastws_table->intern(hub, code, size);
}

/* Any thread, no GIL: FASTWS_OK, FASTWS_FULL, FASTWS_CLOSED or FASTWS_INVALID. The value is copied. */
static inline int fastws_publish_price(fastws_hub *hub, const fastws_price *price) {
    return fastws_table->publish_price(hub, price);
}

/* Like fastws_publish_price(). */
static inline int fastws_publish_book(fastws_hub *hub, const fastws_book *book) {
    return fastws_table->publish_book(hub, book);
}

/* Like fastws_publish_price(): one object as POST /v1/publish takes it, such as {"type":"market_status",…}. It is read
 * in the server; one that cannot be published is logged and counted as rejected. */
static inline int fastws_publish_json(fastws_hub *hub, const char *json, size_t size) {
    return fastws_table->publish_json(hub, json, size);
}

/* Any thread, no GIL. Publishes prices in order, until one is invalid or the ring is full, and wakes the server once.
 * How many were taken; FASTWS_CLOSED, FASTWS_FULL or FASTWS_INVALID where that is none of `n` > 0. */
static inline ptrdiff_t fastws_publish_many(fastws_hub *hub, const fastws_price *prices, size_t n) {
    return fastws_table->publish_many(hub, prices, n);
}

/* Any thread, no GIL. Connections that get prices of this topic by a subscription to its stock, sector or market, of
 * about a second ago; -1 while that is not known, which it is a second after the first call, and for a wrong topic. A
 * producer that leaves out what nobody looks at saves work, and lets last values, alerts and portfolios grow old. */
static inline int32_t fastws_subscriber_count(fastws_hub *hub, int32_t topic) {
    return fastws_table->subscriber_count(hub, topic);
}

/* Any thread, no GIL. One of FASTWS_COUNT_…; 0 for anything else. */
static inline uint64_t fastws_count(fastws_hub *hub, int which) { return fastws_table->count(hub, which); }

#endif /* Py_PYTHON_H */

#ifdef __cplusplus
}
#endif

#endif /* FASTWS_H */
