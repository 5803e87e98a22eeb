# The structs of the client: plain C, so that the loop runs without the GIL and a connection costs little
# memory.

cdef enum:
    CHECK_NONE
    CHECK_EDGES
    CHECK_FULL

cdef enum:
    MAX_HOLES = 16
    SAMPLE_SIZE = 400
    NO_SEQ = -1                             # nothing known yet: the next number seen is the base

cdef struct Hole:                           # numbers that were skipped, both ends included
    int64_t first, last

cdef struct Holes:
    int n
    Hole items[MAX_HOLES]

cdef struct Stream:                         # one numbered stream of one connection
    int64_t last_seq
    Holes* holes                            # owned; NULL until the first hole

cdef struct Entry:                          # of a connection's open-addressing table of streams
    int32_t symbol                          # index into Client.symbols; -1: free
    uint8_t price_size
    char price[27]
    bint is_unwanted                        # nobody subscribed to it
    int64_t n_messages
    uint64_t digest                         # of the newest message up to its `sequence`
    Stream stream

cdef struct Symbol:
    char* key                               # owned; type, a NUL, code
    uint32_t type_size, key_size
    uint64_t hash

cdef struct Stats:
    int64_t n_messages, n_snapshots, n_snapshot_messages, n_control, n_binary, n_frames, n_bytes, n_receives
    int64_t n_lost, n_duplicates, n_reordered, n_conflated, n_sequence_backwards
    int64_t n_overflows, n_declared, n_errors, n_unparsed, n_untimed, n_violations
    int64_t n_compressed, n_shutdowns
    int64_t n_numbered, n_unnumbered, n_unwanted
    int64_t n_bad_text                      # text frames that are no UTF-8
    int64_t n_unfinished                    # messages in the middle of which the connection ended
    double n_early, n_overlong              # latencies under 0 and over the histogram's range
    int64_t earliest_us                     # the most that a message came before its timestamp
    int64_t slowest_us, slowest_at_us       # the largest latency, and when it was met (monotonic clock)
    int error_size, unparsed_size
    char error_text[SAMPLE_SIZE]            # the first of each kind, for the report
    char unparsed_text[SAMPLE_SIZE]
    Histogram latency


cdef enum:
    HEAD_SIZE = 1536                        # of an unfinished message: enough for a head and an order book
    SESSION_SIZE = 40                       # room for a UUID as text
    QUERY_SIZE = 192                        # room for what a restoration adds to the request
    TAIL_SIZE = 256                         # enough for the end of a message and of its batch
    RECEIVE_SIZE = 256 * 1024
    MAX_EVENTS = 1024
    MAX_HEADER = 14
    MAX_CONTROL = 125                       # RFC 6455 section 5.5

cdef enum:                                  # states of a connection, in the order they are passed
    UNOPENED
    CONNECTING
    UPGRADING
    SUBSCRIBING
    OPEN
    CLOSING                                 # a close frame was sent, the peer's end is awaited
    CLOSED

cdef enum:                                  # why connect() fails
    FAILED_CONNECT = 1                      # detail: errno
    FAILED_STATUS                           # text: the response head
    FAILED_ACCEPT                           # Sec-WebSocket-Accept is not that of our key
    FAILED_CLOSED                           # detail: close code
    FAILED_REPLY                            # text: the error message
    FAILED_REJECTED                         # text: the answer from its rejected targets on
    FAILED_DEFLATE                          # permessage-deflate was asked for and not agreed to
    FAILED_BROKEN                           # detail: the code that it was closed with
    FAILED_SYSTEM                           # detail: errno of a local system call

cdef struct Hold:                           # what is kept of a message while its end has not come
    Hold* next                              # in Client.spare_holds
    int64_t size
    Py_ssize_t tail_size, capacity
    char* whole                             # owned; all of the message, when the full check needs it
    Text text
    char head[HEAD_SIZE]
    char tail[TAIL_SIZE]

cdef struct Outgoing:                       # what the socket did not take
    Py_ssize_t size
    char data[0]

cdef struct Keys:                           # hashes of (type, code), sorted
    const uint64_t* items                   # borrowed from LoadClient._wanted
    Py_ssize_t n

cdef struct Conn:
    int fd                                  # -1: none
    uint8_t state, group                    # group 0 reads, group 1 has stopped reading (n_slow)
    bint is_writing, is_resting             # waits for room in the socket; is not read
    bint is_gone                            # ended for us: closed by the peer's frame, though the socket is there
    uint8_t header_size, control_size, opcode, message_opcode   # message_opcode 0: no data message has begun
    bint is_final, has_snapshot, is_compressed      # is_compressed: the data message that has begun
    uint16_t close_code
    char header[MAX_HEADER]
    int64_t frame_left                      # payload bytes still to come; -1 in a header
    Hold* hold                              # owned
    char* control                           # owned; a control frame's payload when it comes in parts
    Outgoing* outgoing                      # owned
    const char* subscribe                   # borrowed from LoadClient._payloads: whole frames, masked
    uint32_t subscribe_size
    uint32_t n_answers, n_awaited           # to `subscribe`; of these, still to come before it is open
    char session[SESSION_SIZE]              # id from the greeting, NUL-terminated; empty: none kept
    int64_t n_messages, n_lost, n_declared, last_sequence
    int64_t ping_us, n_pings_due            # when the open ping was due, 0: none; pings that fell due since
    Keys wanted                             # its own, beside those of all; items NULL: not known
    Stream stream                           # of the edge check
    Entry* streams                          # owned; of the full check
    uint32_t n_streams, stream_slots

cdef struct Client:
    int epoll_fd, n_conns, n_slow, n_ping
    Conn* conns                             # owned
    int check
    bint is_conflated, wants_deflate
    Keys wanted                             # by every connection
    bint keeps_sessions, is_restoring       # is_restoring: what connects now asks for its session
    sockaddr_storage address
    uint32_t address_size
    int slow_receive_buffer                 # bytes; 0: the system's default
    const char* request                     # borrowed from LoadClient, like the next four
    const char* accept
    const char* wait_type                   # NULL: a connection is open once it has sent its subscription
    const char* ping
    Py_ssize_t request_size, accept_size, wait_size, ping_size
    Py_ssize_t target_size                  # where the target of the request ends
    bint has_query                          # whether the target has one
    char epoch[SESSION_SIZE]                # from the newest greeting
    int64_t ping_interval_us, next_ping_us
    int nap_us
    # Owned memory, shared by all connections.
    char* receive_buffer
    char* frame_buffer
    epoll_event* events
    Hold* spare_holds
    Symbol* symbols
    int32_t* symbol_index
    int32_t n_symbols
    uint32_t symbol_slots
    # Progress of connect().
    int n_opened, n_in_flight, n_ready, n_live
    int failure, failure_detail, failure_size
    char failure_text[SAMPLE_SIZE]
    # Measured.
    int64_t wall_us                         # wall clock, read once per receive
    int64_t blocked_us                      # time spent waiting in epoll
    int64_t n_wakeups, n_pings_skipped, n_pings, n_pings_answered, n_pings_lost
    int64_t last_wake_us                    # when epoll last returned or a nap ended; 0: not yet
    int64_t stall_max_us, stalled_us        # own pauses: the longest, and all of those that count
    int64_t last_message_us, stalled_then_us        # of the newest message: when, and stalled_us by then
    int64_t silence_max_us                  # between two messages, whatever connection they came on
    int64_t n_restored, n_recovered, n_missed       # answers to restorations, and what they announced
    uint32_t mask_state
    Stats stats[2]                          # by group
    Histogram ping_time
    Histogram return_delay                  # what `server_shutdown` told the connections to wait
