/* An extension that publishes into a fastws server from threads of its own. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pthread.h>
#include <time.h>

#include <fastws.h>

typedef struct {
    fastws_hub *hub;
    int32_t topic;
    int64_t n;      /* prices to publish */
    int insists;    /* try again where the ring is full */
    int64_t taken;
    int64_t full;
    int status;     /* the first other answer */
} producer;

static void *produce(void *given) {
    producer *p = given;
    for (int64_t i = 1; i <= p->n; i++) {
        /* Every field tells the same number, so that a torn one shows. */
        fastws_price price = fastws_price_of(p->topic, fastws_whole(i));
        int result;
        price.change = fastws_decimal_of(i, 2);
        price.volume = i;
        price.trade_volume = i;
        price.high = price.low = fastws_whole(i);
        memcpy(price.venue, "KRX", 3);
        while ((result = fastws_publish_price(p->hub, &price)) == FASTWS_FULL && p->insists) {
            const struct timespec while_ = {0, 50000};
            p->full++;
            nanosleep(&while_, NULL);
        }
        if (result == FASTWS_OK)
            p->taken++;
        else if (result == FASTWS_FULL)
            p->full++;
        else {
            p->status = result;
            break;
        }
    }
    return NULL;
}

/* run(server, codes, n, insists): a thread for each code publishes n prices, 1 to n. (taken, full, status) of each. */
static PyObject *run(PyObject *self, PyObject *args) {
    PyObject *server, *codes, *out = NULL;
    long long n;
    int insists;
    producer producers[64];
    pthread_t threads[64];
    if (!PyArg_ParseTuple(args, "OO!Lp", &server, &PyList_Type, &codes, &n, &insists)) return NULL;
    Py_ssize_t n_threads = PyList_GET_SIZE(codes);
    if (n_threads > 64) return PyErr_Format(PyExc_ValueError, "too many threads");
    fastws_hub *hub = fastws_hub_from_object(server);
    if (hub == NULL) return NULL;
    for (Py_ssize_t i = 0; i < n_threads; i++) {
        Py_ssize_t size;
        const char *code = PyUnicode_AsUTF8AndSize(PyList_GET_ITEM(codes, i), &size);
        int32_t topic = code == NULL ? -1 : fastws_intern(hub, code, (size_t)size);
        if (topic < 0) goto done;
        producers[i] = (producer){.hub = hub, .topic = topic, .n = n, .insists = insists};
    }
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < n_threads; i++) pthread_create(&threads[i], NULL, produce, &producers[i]);
    for (Py_ssize_t i = 0; i < n_threads; i++) pthread_join(threads[i], NULL);
    Py_END_ALLOW_THREADS
    out = PyList_New(n_threads);
    for (Py_ssize_t i = 0; out != NULL && i < n_threads; i++)
        PyList_SET_ITEM(out, i,
                        Py_BuildValue("LLi", (long long)producers[i].taken, (long long)producers[i].full,
                                      producers[i].status));
done:
    fastws_hub_release(hub);
    return out;
}

/* speed(server, code, n): publications of one thread that the ring took, and the nanoseconds that n tries took. */
static PyObject *speed(PyObject *self, PyObject *args) {
    PyObject *server;
    const char *code;
    long long n;
    struct timespec start, end;
    if (!PyArg_ParseTuple(args, "OsL", &server, &code, &n)) return NULL;
    fastws_hub *hub = fastws_hub_from_object(server);
    if (hub == NULL) return NULL;
    int32_t topic = fastws_intern(hub, code, strlen(code));
    producer p = {.hub = hub, .topic = topic, .n = n};
    if (topic < 0) {
        fastws_hub_release(hub);
        return NULL;
    }
    clock_gettime(CLOCK_MONOTONIC, &start);
    produce(&p);
    clock_gettime(CLOCK_MONOTONIC, &end);
    fastws_hub_release(hub);
    return Py_BuildValue("LL", (long long)p.taken,
                         (end.tv_sec - start.tv_sec) * 1000000000LL + (end.tv_nsec - start.tv_nsec));
}

/* A handle that outlives its server. */
static fastws_hub *kept;

static PyObject *keep(PyObject *self, PyObject *server) {
    kept = fastws_hub_from_object(server);
    if (kept == NULL) return NULL;
    Py_RETURN_NONE;
}

static PyObject *let_go(PyObject *self, PyObject *unused) {
    fastws_hub_release(kept);
    kept = NULL;
    Py_RETURN_NONE;
}

/* Each of these acts on what keep() has kept, and returns what the API does. */

static PyObject *intern(PyObject *self, PyObject *code) {
    Py_ssize_t size;
    const char *text = PyUnicode_AsUTF8AndSize(code, &size);
    int32_t topic = text == NULL ? -1 : fastws_intern(kept, text, (size_t)size);
    return topic < 0 ? NULL : PyLong_FromLong(topic);
}

static PyObject *book(PyObject *self, PyObject *args) {
    int topic, scale, n;
    if (!PyArg_ParseTuple(args, "iii", &topic, &scale, &n)) return NULL;
    fastws_book out = fastws_book_of(topic, scale);
    out.n_bids = out.n_asks = n;
    for (int i = 0; i < n && i < FASTWS_BOOK_LEVELS; i++) {
        out.bids[i].price = 1000 - i;
        out.asks[i].price = 1001 + i;
        out.bids[i].quantity = 10 * (i + 1);
        out.asks[i].quantity = 20 * (i + 1);
    }
    return PyLong_FromLong(fastws_publish_book(kept, &out));
}

static PyObject *price(PyObject *self, PyObject *args) {
    int topic, scale;
    long long mantissa, time_ms = 0;
    const char *venue = "";
    if (!PyArg_ParseTuple(args, "iLi|sL", &topic, &mantissa, &scale, &venue, &time_ms)) return NULL;
    fastws_price out = fastws_price_of(topic, fastws_decimal_of(mantissa, scale));
    memcpy(out.venue, venue, strlen(venue) < sizeof out.venue ? strlen(venue) : sizeof out.venue);
    out.event_time_ms = time_ms;
    return PyLong_FromLong(fastws_publish_price(kept, &out));
}

static PyObject *json(PyObject *self, PyObject *args) {
    const char *text;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "y#", &text, &size)) return NULL;
    return PyLong_FromLong(fastws_publish_json(kept, text, (size_t)size));
}

static PyObject *many(PyObject *self, PyObject *args) {
    int topic, n, wrong;
    if (!PyArg_ParseTuple(args, "iii", &topic, &n, &wrong)) return NULL;
    fastws_price *prices = malloc(sizeof *prices * (size_t)(n + 1));
    for (int i = 0; i < n; i++) prices[i] = fastws_price_of(topic, fastws_whole(i == wrong ? FASTWS_NONE : i + 1));
    ptrdiff_t taken = fastws_publish_many(kept, prices, (size_t)n);
    free(prices);
    return PyLong_FromSsize_t(taken);
}

static PyObject *subscribers(PyObject *self, PyObject *topic) {
    return PyLong_FromLong(fastws_subscriber_count(kept, (int32_t)PyLong_AsLong(topic)));
}

static PyObject *count(PyObject *self, PyObject *which) {
    return PyLong_FromUnsignedLongLong(fastws_count(kept, (int)PyLong_AsLong(which)));
}

static PyMethodDef methods[] = {
    {"run", run, METH_VARARGS, NULL},          {"speed", speed, METH_VARARGS, NULL},
    {"keep", keep, METH_O, NULL},              {"let_go", let_go, METH_NOARGS, NULL},
    {"intern", intern, METH_O, NULL},          {"book", book, METH_VARARGS, NULL},
    {"price", price, METH_VARARGS, NULL},      {"json", json, METH_VARARGS, NULL},
    {"many", many, METH_VARARGS, NULL},        {"subscribers", subscribers, METH_O, NULL},
    {"count", count, METH_O, NULL},            {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, CONSUMER_NAME, NULL, -1, methods, NULL, NULL, NULL, NULL};

#define JOIN(a, b) a##b
#define INIT(name) JOIN(PyInit_, name)

PyMODINIT_FUNC INIT(CONSUMER)(void) {
    if (fastws_import() < 0) return NULL;
    return PyModule_Create(&module);
}
