# Internal to the fastws distribution: the layout of these classes is not a public interface.
from cpython.object cimport PyObject
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t, uintptr_t

from fastws._frames cimport FrameParser


cdef enum:
    N_BUCKETS = 38


cdef struct Histogram:
    int64_t counts[38]
    # Not an integer: at a million updates a second that wait 15 ms, one of nanoseconds is full within a week.
    double sum_ns


cdef class Dialect:
    cdef readonly str name
    cdef readonly object encode
    cdef readonly int index
    cdef readonly bint batches


cdef class Options:
    cdef readonly bint latest
    cdef readonly int interval_ms
    cdef readonly uint8_t channels
    cdef readonly double max_rate
    cdef object __weakref__


# One cohort's wish for one topic. The pointer is borrowed: a cohort takes its interests back before it dies.
cdef struct Interest:
    PyObject* lane
    uint32_t sub_index
    uint8_t channels
    uint8_t latest


# One subscription of a cohort. The topic is owned.
cdef struct Sub:
    PyObject* topic
    uint32_t interest_index
    uint32_t options_index          # in `Cohort.options`


cdef class Topic:
    cdef readonly str kind
    cdef readonly str name
    cdef readonly uint32_t kind_index
    cdef readonly uint32_t number
    cdef readonly list channels
    cdef bint has_private           # channels
    cdef Interest* interests
    cdef uint32_t n_interests
    cdef uint32_t interests_size

    cdef uint32_t add_interest(self, Lane lane, uint32_t sub_index, Options options) except? 0xffffffff
    cdef void remove_interest(self, uint32_t index) noexcept


cdef class Channel:
    cdef readonly str key
    cdef readonly str name
    cdef readonly tuple topics
    cdef readonly bint is_numbered
    cdef readonly bint is_private
    cdef readonly uint8_t bit
    cdef readonly int64_t seq
    cdef Update last
    cdef uint64_t mark
    # Of a relay, which nobody else reads: when what was published last was, wherever that was; how many updates this
    # instance has handed to it; how many of others will never come and are not declared yet; its shard, plus 1.
    cdef readonly int64_t stamp
    cdef int64_t n_relayed
    cdef int64_t n_missed
    cdef int32_t shard
    # Of the ledger; see `Audit`.
    cdef int64_t n_due
    cdef int64_t n_conflated
    cdef int64_t n_dropped
    cdef int64_t n_unflushed
    cdef int64_t n_absent           # never came from another instance, and were declared
    cdef int64_t n_lost             # in the outboxes of slow clients
    cdef int64_t n_counted          # flushed, counted one by one in a debug build
    cdef int64_t n_pending          # at the last `Audit`


cdef class Update:
    cdef Channel channel
    cdef object payload
    cdef int64_t position           # among all that was published
    cdef int64_t sequence           # among what takes a number; of a private one, of the last such before it
    cdef int64_t seq
    cdef int64_t previous           # number of the update before it in its channel, or 0
    cdef bint is_superseded         # by the next one of its channel
    cdef int64_t published_ms
    cdef int64_t published_ns       # monotonic clock
    cdef int64_t origin_ns          # when it was received, or else published: monotonic clock
    cdef int64_t flushed_ns         # begin and end of the last flush that had it; 0: none had, yet
    cdef int64_t sent_ns
    cdef int64_t stamp              # that of the channel once it was published, or 0; see `Channel`
    cdef bytes text0
    cdef bytes text1

    cdef bytes text(self, Dialect dialect)
    cdef Py_ssize_t write_tail(self, char* out) noexcept
    cdef bytes whole_text(self, const char* head, Py_ssize_t head_size)
    cdef Update again(self, Hub hub)
    cdef int keep_text(self, Dialect dialect, bytes text) except -1


# Is handed every update that is published here, right when it is and before anybody gets it.
cdef class Tap:
    cdef int take(self, Update update) except -1


cdef class Frame:
    cdef bytes data
    cdef uintptr_t* entries
    cdef uint32_t n_entries
    cdef uint32_t n_messages
    cdef uint32_t n_conflated
    cdef int64_t n_declared         # updates that it tells the client are lost
    cdef bint has_latest
    cdef bint is_addressed
    cdef int64_t first_position     # of its entries, and of the last of them
    cdef int64_t position
    cdef int64_t first_sequence     # everything before this number was published before it
    cdef int64_t sequence
    cdef Loss loss                  # what it declares, or None

    cdef inline Py_ssize_t size(self)


cdef class Loss:
    cdef dict ranges                # list[[count, first seq, last seq]] by Channel
    cdef uint32_t n
    cdef int64_t first_position
    cdef int64_t position
    cdef int64_t first_sequence
    cdef dict late                  # Loss by `join_position`, or None

    cdef int add(self, Update update) except -1
    cdef int add_missed(
        self, Channel channel, int64_t first, int64_t last, int64_t position, int64_t sequence
    ) except -1
    cdef Loss since(self, int64_t after_position)


cdef class Meters:
    cdef Histogram feed
    cdef Histogram wait
    cdef Histogram send
    cdef Histogram total
    cdef Histogram flush_delay
    cdef Histogram loop_lag
    cdef readonly dict opened           # connections ever opened, by dialect
    cdef readonly int64_t n_bytes_sent
    cdef readonly int64_t n_bytes_received
    cdef readonly int64_t n_rate_limited
    cdef readonly int64_t n_blocks
    cdef readonly int64_t n_overflows
    cdef readonly int64_t n_restores
    cdef readonly int64_t n_compressed
    cdef readonly int64_t n_bytes_to_compress
    cdef readonly int64_t n_bytes_compressed
    cdef readonly int64_t n_expanded
    cdef readonly int64_t n_bytes_to_expand
    cdef readonly int64_t n_bytes_expanded

    cdef int end_flush(self, list frames, int64_t begun_ns, int64_t ended_ns, bint is_paced) except -1


# What an append reads and writes comes first: it is one line of the cache and a bit.
cdef class Lane:
    cdef uint32_t n_pending
    cdef uint32_t pending_size
    cdef uintptr_t* pending
    cdef int64_t* claim             # the place in the cohort's own lane, of the last update that it took or refused
    cdef int64_t claimed_position
    cdef uint8_t state
    cdef uint8_t has_latest
    cdef uint8_t is_copy            # what becomes of its entries is no matter of the ledger
    cdef int interval_ms
    cdef uint32_t n_conflated
    cdef int64_t due_ms
    cdef PyObject* next_lane
    cdef Cohort cohort
    cdef Flusher flusher
    cdef Loss loss                  # what was dropped since the last flush, or None

    cdef int append(self, Update update, bint latest) except -1
    cdef int make_room(self) except -1
    cdef uint32_t keep_to_limit(self) except 0
    cdef int drop_oldest(self, Py_ssize_t excess) except -1
    cdef int begin_loss(self, int64_t first_position, int64_t first_sequence) except -1
    cdef int miss(self, Channel channel, int64_t first, int64_t last) except -1
    cdef uint32_t conflate(self) noexcept
    cdef uint32_t conflate_by_channel(self) noexcept
    cdef list frames(self, int64_t after_position, Lane giver=*)
    cdef void give_pending(self, uintptr_t* entries) noexcept
    cdef Lane copy(self)
    cdef int merge(self, Lane other) except -1
    cdef void clear(self) noexcept
    cdef void discard(self) noexcept


cdef class Cohort:
    cdef readonly Hub hub
    cdef readonly Dialect dialect
    cdef readonly bint is_paused
    cdef int window_bits
    cdef object key
    cdef Lane lane
    cdef list slow_lanes
    cdef Sub* subs
    cdef list options               # each that a subscription has, once
    cdef uint32_t n_subs
    cdef PyObject** members         # `only_member`, or an array of its own
    cdef PyObject* only_member
    cdef uint32_t n_members
    cdef uint32_t members_size
    cdef uint32_t limit
    # The ring of those with equal subscriptions; borrowed, a cohort leaves it when it retires.
    cdef PyObject* next_part
    cdef PyObject* previous_part

    cdef int open(self, list subscriptions) except -1
    cdef uint32_t place_of(self, Options options) except? 0xffffffff
    cdef dict subscriptions(self, bytes order)
    cdef int window_bits_now(self) noexcept
    cdef Lane lane_for(self, Options options)
    cdef list frames_after(self, int64_t position)
    cdef int retire(self) except -1
    cdef int enter_ring(self, Cohort first) except -1
    cdef int leave_ring(self) except -1
    cdef int add_member(self, Subscriber connection) except -1
    cdef int remove_member(self, Subscriber connection) except -1
    cdef inline void place(self, uint32_t source, uint32_t target) noexcept


# One send of a chunk; filled with the GIL, executed without it.
cdef struct SendItem:
    int fd
    const char* data
    Py_ssize_t size
    int64_t offset                  # in the flusher's file; -1: not there
    Py_ssize_t n_sent
    uint8_t* is_blocked
    PyObject* connection
    PyObject* frame


# A flush of which all is gathered and not yet all sent. `frames` is owned.
cdef struct EndedJob:
    PyObject* frames
    int64_t begun_ns
    bint is_paced


cdef class Flusher:
    cdef Hub hub
    cdef object loop
    cdef object step_callback
    cdef object timer
    cdef int64_t timer_ms
    cdef bint is_scheduled
    cdef bint is_stopped
    cdef PyObject** heads
    cdef PyObject** tails
    cdef uint32_t* counts
    cdef PyObject* ready_head
    cdef PyObject* ready_tail
    cdef int64_t cursor_ms
    cdef uint32_t n_armed
    cdef int64_t resting_until_ns
    cdef double credit_ns
    cdef int64_t credited_at_ns
    cdef readonly double effective_interval_ms
    cdef readonly double share
    cdef readonly int64_t busy_ns
    cdef readonly int64_t n_flushes
    cdef readonly int64_t n_sends
    cdef readonly int64_t last_flush_ns
    cdef Cohort job_cohort
    cdef list job_frames
    cdef int64_t job_begun_ns
    cdef bint job_is_paced
    cdef Py_ssize_t job_frame
    cdef uint32_t job_member
    cdef dict job_variants
    cdef SendItem* items
    cdef int n_items
    cdef EndedJob* ended
    cdef int n_ended
    cdef int file
    cdef int64_t file_size
    cdef Frame shared_frame
    cdef int64_t shared_offset

    cdef int lead(self, Lane lane) except -1
    cdef int push_ready(self, Lane lane) except -1
    cdef Lane pop_ready(self)
    cdef void make_due(self, int slot) noexcept
    cdef int arm(self, Lane lane, int64_t due_ms) except -1
    cdef int collect_due(self, int64_t now_ms) except -1
    cdef int schedule(self) except -1
    cdef int schedule_timer(self, int64_t now_ns) except -1
    cdef int start_job(self, Lane lane, int64_t now_ns) except -1
    cdef int end_job(self) except -1
    cdef int count_ended(self, int64_t now_ns) except -1
    cdef void forget_ended(self) noexcept
    cdef int64_t share_frame(self, Frame frame) except -2
    cdef int empty_file(self) except -1
    cdef int gather(self) except -1
    cdef int send_gathered(self) except -1
    cdef int hand_over(self, Subscriber connection) except -1
    cdef Frame variant(self, Frame frame, int64_t after_position)
    cdef int drop_gathered(self) except -1


cdef class History:
    cdef PyObject** places
    cdef int64_t n_places
    cdef int64_t start
    cdef int64_t end
    cdef readonly int64_t n_kept
    cdef Py_ssize_t size
    cdef Py_ssize_t limit

    cdef int set_limit(self, Py_ssize_t limit, int64_t sequence) except -1
    cdef int remember(self, Update update) except -1
    cdef inline void keep_to_limit(self) noexcept
    cdef void forget(self, int64_t last) noexcept
    cdef inline Update past(self, int64_t sequence)
    cdef int64_t time_of(self, int64_t sequence)
    cdef inline int64_t before(self, int64_t sequence) noexcept
    cdef bint reaches(self, int64_t cursor) noexcept
    cdef int64_t count(self, Hub hub, dict wanted, int64_t cursor, dict starts) except -1
    cdef list marks(self, Hub hub, dict wanted, int64_t cursor)
    cdef tuple starts_of(self, Hub hub, dict wanted, list marks, int64_t since)
    cdef int64_t start_of(self, Channel channel, int64_t first, int64_t last) except -2
    cdef Missed missed(self, Hub hub, dict wanted, dict starts, dict known, set also, int64_t cursor)


cdef class Missed:
    cdef int64_t* sequences
    cdef uint32_t n
    cdef uint32_t size
    cdef uint32_t next
    cdef bint is_sparse
    cdef int64_t until

    cdef int note(self, int64_t sequence) except -1
    cdef void clear(self) noexcept
    cdef inline int64_t after(self, int64_t sequence) noexcept


cdef class Registry:
    cdef readonly object loop
    cdef readonly Meters meters
    cdef object logger
    # Live connections, for the sweep; borrowed, a connection leaves the array in connection_lost.
    cdef PyObject** connections
    cdef readonly uint32_t n_connections
    cdef uint32_t connections_size
    cdef uint32_t sweep_slot
    cdef object sweep_timer
    # Connections whose end is not dealt with yet.
    cdef list departing
    cdef bint is_parting
    cdef int64_t parting_until_ns
    cdef int64_t sweep_due_ns
    cdef readonly double loop_lag_ms
    # Totals of the conservation law; those of live connections are added when asked.
    cdef int64_t n_published
    cdef int64_t n_delivered
    cdef int64_t n_conflated
    cdef int64_t n_lost
    cdef int64_t n_undelivered
    cdef int64_t n_declared
    cdef int64_t n_flushed
    cdef readonly int64_t n_messages_sent
    cdef readonly int64_t n_messages_received
    cdef readonly int64_t n_accepted
    cdef readonly dict closes

    cdef int add_connection(self, Connection connection) except -1
    cdef int remove_connection(self, Connection connection) except -1
    cdef int depart(self, Connection connection) except -1
    cdef int part_until(self, int64_t until_ns) except -1
    cdef int count_close(self, int code) except -1
    cdef int check_books(self) except -1


cdef class Hub(Registry):
    cdef readonly str epoch
    cdef readonly int64_t sequence
    cdef int64_t position           # of the last update
    cdef readonly int interval_ms
    cdef readonly Flusher flusher
    cdef int64_t received_ns
    cdef Tap tap                    # None without a relay
    cdef readonly dict topics
    cdef readonly dict cohorts
    cdef uint32_t cohort_size
    cdef list kinds
    cdef list channels
    cdef list common_channels       # those of no topic, which everyone gets
    cdef object options_table
    cdef object compress
    cdef object inflate
    cdef Py_ssize_t deflate_threshold
    cdef int64_t subscriptions_by_kind[8]
    cdef uint64_t mark
    cdef int64_t moved_position     # channels were moved after this one
    cdef uint32_t n_topics
    # Limits shared by all connections.
    cdef readonly Py_ssize_t outbox_soft_size
    cdef readonly Py_ssize_t outbox_hard_size
    cdef readonly int rate_limit
    cdef readonly int control_rate_limit
    cdef int64_t stall_ns
    cdef int64_t ping_interval_ns
    cdef int64_t pong_timeout_ns
    cdef int64_t idle_timeout_ns
    cdef History history
    cdef object snapshot_key
    cdef Frame snapshot_frame

    cdef int publish_update(self, Channel channel, object payload) except -1
    cdef int declare_missed(self, Channel channel) except -1
    cdef int join(self, Subscriber connection, Dialect dialect, bint is_paused, dict wanted) except -1
    cdef int leave(self, Subscriber connection) except -1
    cdef list all_cohorts(self)
    cdef list channels_of(self, dict wanted, int64_t limit)
    cdef Frame snapshot(self, Dialect dialect, list topics, int window_bits, int64_t sequence)


cdef class Audit:
    cdef Hub hub
    cdef list faults

    cdef int fault(self, str text) except -1
    cdef int count_pending(self) except -1
    cdef dict cohorts(self)
    cdef dict connections(self)
    cdef list channels(self)


cdef class Outbox(FrameParser):
    cdef readonly Hub hub
    cdef readonly object transport
    cdef readonly Dialect dialect
    cdef int fd
    cdef uint8_t is_blocked
    cdef uint8_t state
    cdef uint8_t window_bits
    cdef uint8_t is_held            # the kernel keeps what was sent last for something to follow; see `push`
    cdef int64_t assigned_sequence
    cdef int64_t delivered_sequence
    cdef int64_t refused_sequence   # of the first update that was neither sent nor kept; -1: of a frame without any
    # What waits to be sent, in order: the cut frame (in the transport), outbox, backlog.
    cdef Frame cut
    cdef object outbox
    cdef Py_ssize_t outbox_size
    cdef dict backlog
    cdef list backlog_all
    cdef Py_ssize_t backlog_size
    cdef Py_ssize_t allowance       # size of the largest snapshot among it
    cdef dict overflow
    # Conservation law: n_published = n_delivered + n_conflated + n_lost + what still waits.
    cdef int64_t n_published
    cdef int64_t n_delivered
    cdef int64_t n_conflated
    cdef int64_t n_lost
    cdef int64_t n_declared         # of these, told to the client
    cdef int64_t n_refused          # neither sent nor kept, because the socket is broken
    cdef int64_t taken_ns
    cdef Py_ssize_t waiting_size

    cdef bint is_usable(self) except? 0
    cdef Py_ssize_t queued_size(self)
    cdef int send_ahead(self, bytes data, bint is_followed=*) except -1
    cdef int push(self) except -1
    cdef int check_cap(self) except -1
    cdef int send_frame(self, Frame frame) except -1
    cdef int assign(self, Frame frame) except -1
    cdef int write_frame(self, Frame frame) except -1
    cdef int on_sent(self, Frame frame, Py_ssize_t n_sent) except -1
    cdef int64_t n_held(self) except -1
    cdef int64_t n_undeclared(self) except -1
    cdef void refuse(self, Frame frame) noexcept
    cdef int on_cut_written(self) except -1
    cdef int enqueue(self, Frame frame) except -1
    cdef int drop_oldest(self, Py_ssize_t n_kept) except -1
    cdef int declare_lost(self, Update update) except -1
    cdef int enqueue_backlog(self, Frame frame) except -1
    cdef int move_backlog(self, int64_t sequence) except -1
    cdef int drain(self) except -1
    cpdef abort(self, int code, str reason=*)
    cdef int on_drained(self) except -1


cdef class Subscriber(Outbox):
    cdef Cohort cohort
    cdef bytes order                # places of what is held among `Cohort.subs`, 4 bytes each; None: just so
    cdef uint32_t member_index
    cdef uint8_t has_subscribed
    cdef int64_t join_position
    cdef int64_t join_sequence
    cdef int64_t base_sequence
    # A restored session catches up with history before it joins a cohort.
    cdef dict replay_wanted         # what it will hold then
    cdef dict replay_starts         # topics of which only what comes after a number is missed
    cdef dict replay_given          # positions up to which there is nothing private of a topic to come
    cdef set replay_fresh           # topics that the last change of subscriptions has added
    cdef list replay_snapshots      # topics, by request, of which a snapshot comes behind what is caught up; or None
    cdef bint replay_lacks_base     # such a snapshot is the first that the client gets of a topic
    cdef dict replay_channels       # what was found out about channels, see `wish_for`
    cdef Missed replay_missed       # where to look; None when that is not known any more
    cdef set replay_also            # numbers of updates that were addressed to this connection
    cdef int64_t replay_sequence
    cdef bint replay_paused
    # What was held when the connection left its cohort for good, and up to where it was served; not `left_whole`: a
    # snapshot did not arrive, so what it was served has no base.
    cdef readonly dict left_subscriptions
    cdef readonly int64_t left_sequence
    cdef readonly bint left_paused
    cdef readonly bint left_whole

    cdef int give_snapshot(self, list topics) except -1
    cdef bint settle(self) except? 0
    cdef int note_settled(self, int64_t position, int64_t sequence) except -1
    cdef int look_again(self) except -1
    cdef int send_held(self, dict wanted, int64_t cursor) except -1
    cdef int send_private(self) except -1
    cdef int send_latest(self, list updates, int64_t sequence) except -1
    cdef int catch_up(self) except -1
    cdef int end_catching_up(self) except -1
    cdef int end_replay(self) except -1
    cdef int64_t served_until(self) except? -2
    cdef int64_t assigned_until(self) except? -2
    cdef bint owes_snapshot(self)
    cdef int leave_for_good(self) except -1
    cdef int on_cut_written(self) except -1
    cdef int fail(self, int code, str reason) except -1


cdef class Connection(Subscriber):
    cdef readonly object handler
    cdef public object context
    cdef uint32_t registry_index
    cdef uint8_t abuse_seconds
    cdef uint8_t is_lost            # the transport is gone
    cdef int close_code
    cdef readonly str close_reason
    cdef readonly int64_t message_count
    cdef int64_t opened_ms
    cdef int64_t received_ns
    cdef int64_t heard_ns
    cdef int64_t pinged_ns
    cdef int64_t deadline_ns
    cdef float tokens
    cdef uint32_t n_recent
    cdef int64_t refilled_ns
    cdef int64_t complained_ns
    cdef int64_t swept_ns

    cdef int feed_bytes(self, uint8_t* data, Py_ssize_t size) except -1
    cdef bytes inflated(self, bytes payload, bint is_text)
    cdef bint take_token(self, int64_t now_ns) noexcept
    cdef void excuse(self, int64_t ns) noexcept
    cdef int sweep(self, int64_t now_ns) except -1
    cdef int part(self) except -1
    cdef int finish(self, int code) except -1
