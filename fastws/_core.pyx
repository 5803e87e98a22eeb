# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The fan-out hot path: topics, cohorts, the flusher and connections.

One compilation unit of several files, so that calls between them are direct. Everything here runs on the thread of
the event loop; the GIL is released only around the `send()` loop of a flush. This module knows topics, updates and
bytes, and no field of any market message.

    publish ─> Topic.interests ─> Lane.pending ─> Flusher ─> Frame ─> Connection ─> socket
"""

include "_core_impl/clock.pxi"
include "_core_impl/meters.pxi"
include "_core_impl/topic.pxi"
include "_core_impl/frame.pxi"
include "_core_impl/cohort.pxi"
include "_core_impl/flusher.pxi"
include "_core_impl/history.pxi"
include "_core_impl/outbox.pxi"
include "_core_impl/subscriber.pxi"
include "_core_impl/connection.pxi"
include "_core_impl/registry.pxi"
include "_core_impl/hub.pxi"
include "_core_impl/ledger.pxi"
