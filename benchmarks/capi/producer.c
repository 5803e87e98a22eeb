/* Publishes into a fastws server from threads of its own, for `python -m benchmarks.load inlet`. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include <fastws.h>

enum { MAX_THREADS = 64, MAX_TOPICS = 65536 };

static int64_t now_ns(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * INT64_C(1000000000) + at.tv_nsec;
}

static fastws_price price_of(int32_t topic, int64_t i) {
    fastws_price price = fastws_price_of(topic, fastws_whole(70000 + i % 1000));
    price.change = fastws_decimal_of(i % 1000, 2);
    price.volume = i;
    price.trade_volume = 1;
    memcpy(price.venue, "KRX", 3);
    return price;
}

/* As fast as it goes, until n are published or the ring is full. */

typedef struct {
    fastws_hub *hub;
    pthread_barrier_t *start;
    int32_t topic;
    int64_t n, taken, began, ended;
} filler;

static void *fill_one(void *given) {
    filler *f = given;
    if (f->start != NULL) pthread_barrier_wait(f->start);
    f->began = now_ns();
    for (int64_t i = 0; i < f->n; i++) {
        const fastws_price price = price_of(f->topic, i);
        if (fastws_publish_price(f->hub, &price) != FASTWS_OK) break;
        f->taken++;
    }
    f->ended = now_ns();
    return NULL;
}

/* fill(server, threads, n): each thread publishes n prices; how many were taken, and the ns from the first to the last. */
static PyObject *fill(PyObject *self, PyObject *args) {
    PyObject *server;
    int n_threads;
    long long n;
    filler fillers[MAX_THREADS];
    pthread_t threads[MAX_THREADS];
    pthread_barrier_t start;
    if (!PyArg_ParseTuple(args, "OiL", &server, &n_threads, &n)) return NULL;
    if (n_threads < 1 || n_threads > MAX_THREADS) return PyErr_Format(PyExc_ValueError, "threads: 1 to 64");
    fastws_hub *hub = fastws_hub_from_object(server);
    if (hub == NULL) return NULL;
    const int32_t topic = fastws_intern(hub, "005930", 6);
    if (topic < 0) {
        fastws_hub_release(hub);
        return NULL;
    }
    for (int i = 0; i < n_threads; i++)
        fillers[i] = (filler){.hub = hub, .topic = topic, .n = n, .start = n_threads > 1 ? &start : NULL};
    if (n_threads == 1)
        fill_one(&fillers[0]);
    else {
        pthread_barrier_init(&start, NULL, (unsigned)n_threads);
        Py_BEGIN_ALLOW_THREADS
        for (int i = 0; i < n_threads; i++) pthread_create(&threads[i], NULL, fill_one, &fillers[i]);
        for (int i = 0; i < n_threads; i++) pthread_join(threads[i], NULL);
        Py_END_ALLOW_THREADS
        pthread_barrier_destroy(&start);
    }
    fastws_hub_release(hub);
    int64_t taken = 0, began = INT64_MAX, ended = 0;
    for (int i = 0; i < n_threads; i++) {
        taken += fillers[i].taken;
        if (fillers[i].began < began) began = fillers[i].began;
        if (fillers[i].ended > ended) ended = fillers[i].ended;
    }
    return Py_BuildValue("LL", (long long)taken, (long long)(ended - began));
}

/* copy(size, n): the same prices made and copied into a plain ring of so many bytes, a power of two, by this thread. */
static PyObject *copy(PyObject *self, PyObject *args) {
    Py_ssize_t size;
    long long n;
    if (!PyArg_ParseTuple(args, "nL", &size, &n)) return NULL;
    char *ring = calloc(1, (size_t)size + sizeof(fastws_price));
    if (ring == NULL) return PyErr_NoMemory();
    memset(ring, 1, (size_t)size); /* pages that are there, as those of a ring that is in use */
    const int64_t began = now_ns();
    for (int64_t i = 0; i < n; i++) {
        const fastws_price price = price_of(0, i);
        char *at = ring + (((size_t)i * 160) & ((size_t)size - 1));
        memcpy(at, &price, sizeof price);
        atomic_signal_fence(memory_order_seq_cst); /* so that each is made, and not only the last of its place */
    }
    const int64_t took = now_ns() - began;
    const long long sum = ring[0];
    free(ring);
    return Py_BuildValue("LL", (long long)took, sum);
}

/* At a rate, until it is told to stop. */

static struct {
    fastws_hub *hub;
    int32_t *topics;
    Py_ssize_t n_topics;
    double rate; /* publications/s; 0: as fast as they are taken */
    _Atomic int stops;
    _Atomic int64_t taken, full;
    pthread_t thread;
} pacer;

static void *pace(void *unused) {
    const struct timespec moment = {0, 200000};
    const int64_t began = now_ns();
    int64_t i = 0;
    while (!atomic_load(&pacer.stops)) {
        const int64_t due = pacer.rate > 0 ? (int64_t)((double)(now_ns() - began) * pacer.rate / 1e9) : i + 1000;
        while (i < due && !atomic_load_explicit(&pacer.stops, memory_order_relaxed)) {
            const fastws_price price = price_of(pacer.topics[i % pacer.n_topics], i);
            const int result = fastws_publish_price(pacer.hub, &price);
            if (result == FASTWS_FULL) {
                atomic_fetch_add(&pacer.full, 1);
                break;
            }
            if (result != FASTWS_OK) return NULL;
            i++;
        }
        atomic_store(&pacer.taken, i);
        if (i >= due ? pacer.rate > 0 : 1) nanosleep(&moment, NULL);
    }
    return unused;
}

/* begin(hub, codes, rate): publish from a thread, the codes in turn. */
static PyObject *begin(PyObject *self, PyObject *args) {
    PyObject *server, *codes;
    if (!PyArg_ParseTuple(args, "OO!d", &server, &PyList_Type, &codes, &pacer.rate)) return NULL;
    pacer.n_topics = PyList_GET_SIZE(codes);
    if (pacer.n_topics < 1 || pacer.n_topics > MAX_TOPICS) return PyErr_Format(PyExc_ValueError, "codes: some");
    pacer.hub = fastws_hub_from_object(server);
    if (pacer.hub == NULL) return NULL;
    pacer.topics = calloc((size_t)pacer.n_topics, sizeof(int32_t));
    if (pacer.topics == NULL) return PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < pacer.n_topics; i++) {
        Py_ssize_t size;
        const char *code = PyUnicode_AsUTF8AndSize(PyList_GET_ITEM(codes, i), &size);
        if (code == NULL || (pacer.topics[i] = fastws_intern(pacer.hub, code, (size_t)size)) < 0) return NULL;
    }
    if (pthread_create(&pacer.thread, NULL, pace, NULL)) return PyErr_Format(PyExc_OSError, "no thread");
    Py_RETURN_NONE;
}

/* end(): stop; how many were taken, and how often the ring was full. */
static PyObject *end(PyObject *self, PyObject *unused) {
    atomic_store(&pacer.stops, 1);
    Py_BEGIN_ALLOW_THREADS
    pthread_join(pacer.thread, NULL);
    Py_END_ALLOW_THREADS
    fastws_hub_release(pacer.hub);
    free(pacer.topics);
    return Py_BuildValue("LL", (long long)atomic_load(&pacer.taken), (long long)atomic_load(&pacer.full));
}

static PyMethodDef methods[] = {
    {"fill", fill, METH_VARARGS, NULL},
    {"copy", copy, METH_VARARGS, NULL},
    {"begin", begin, METH_VARARGS, NULL},
    {"end", end, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "producer", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_producer(void) {
    if (fastws_import() < 0) return NULL;
    return PyModule_Create(&module);
}
