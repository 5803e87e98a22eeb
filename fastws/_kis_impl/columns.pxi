# The column table of kis_columns.json, and what the fast path needs of it.

cdef int TRADE = 1
cdef int BOOK = 2

cdef struct Layout:             # a TR of the fast path; the numbers are places in a record
    uint64_t key                # the eight bytes of the TR id
    int kind                    # TRADE or BOOK
    int code
    int clock                   # time of day
    int date                    # from here on: trades only
    int price
    int sign
    int change
    int change_percent
    int volume
    int trade_volume
    int high
    int low
    int asks                    # from here on: books only; ten in a row each
    int bids
    int ask_quantities
    int bid_quantities
    Py_ssize_t min_width        # the shortest record that holds every column above

cdef enum:
    MAX_LAYOUTS = 8
    TR_ID_SIZE = 8

cdef Layout LAYOUTS[MAX_LAYOUTS]
cdef int N_LAYOUTS = 0
cdef list LAYOUT_TR_IDS = []    # TR id and venue, in the order of LAYOUTS
cdef list LAYOUT_VENUES = []
cdef str REALTIME = "realtime"

cdef dict COLUMNS = {}          # TR id -> names of the usual layout
cdef dict ALTERNATIVES = {}     # (TR id, width) -> names of a layout that is used for this width only
cdef dict TYPES = {}            # TR id -> types of the usual layout, as the file names them
cdef dict OTHER_TYPES = {}      # (TR id, width) -> types of ALTERNATIVES
cdef dict KNOWN_WIDTHS = {}     # TR id -> widths seen or documented, ascending
cdef dict TR_IDS = {}           # TR id as bytes -> TR id


cdef int first_of_ten(list names, str stem) except -1:
    cdef int first = names.index(f"{stem}1")
    if names[first:first + BOOK_LEVELS] != [f"{stem}{i}" for i in range(1, BOOK_LEVELS + 1)]:
        raise AssertionError(f"{stem}1 to {stem}{BOOK_LEVELS} do not follow each other in kis_columns.json")
    return first


cdef int load_columns() except -1:
    global N_LAYOUTS
    cdef Layout layout
    cdef list names, types
    cdef bytes key
    table = json.loads(files("fastws.data").joinpath("kis_columns.json").read_text(encoding="utf-8"))
    for tr_id, entry in table["tr"].items():
        names = [name for name, _ in entry["columns"]]
        key = tr_id.encode("ascii")
        TR_IDS[key] = tr_id
        types = [kind for _, kind in entry["columns"]]
        COLUMNS[tr_id] = tuple(names)
        TYPES[tr_id] = tuple(types)
        KNOWN_WIDTHS[tr_id] = tuple(entry["widths"])
        for other in entry.get("alternatives", ()):
            ALTERNATIVES[tr_id, other["width"]] = (
                *names[:other["keep"]], *[name for name, _ in other["columns"]]
            )
            OTHER_TYPES[tr_id, other["width"]] = (
                *types[:other["keep"]], *[kind for _, kind in other["columns"]]
            )
        if entry["kind"] not in ("trade", "order_book"):
            continue
        if len(key) != TR_ID_SIZE or N_LAYOUTS == MAX_LAYOUTS:
            raise AssertionError(f"no room for {tr_id} on the fast path")
        layout.kind = TRADE if entry["kind"] == "trade" else BOOK
        memcpy(&layout.key, PyBytes_AS_STRING(key), TR_ID_SIZE)
        layout.code = names.index("MKSC_SHRN_ISCD")
        if layout.kind == TRADE:
            layout.clock = names.index("STCK_CNTG_HOUR")
            layout.date = names.index("BSOP_DATE")
            layout.price = names.index("STCK_PRPR")
            layout.sign = names.index("PRDY_VRSS_SIGN")
            layout.change = names.index("PRDY_VRSS")
            layout.change_percent = names.index("PRDY_CTRT")
            layout.volume = names.index("ACML_VOL")
            layout.trade_volume = names.index("CNTG_VOL")
            layout.high = names.index("STCK_HGPR")
            layout.low = names.index("STCK_LWPR")
            layout.min_width = 1 + max(
                layout.code, layout.clock, layout.date, layout.price, layout.sign, layout.change,
                layout.change_percent, layout.volume, layout.trade_volume, layout.high, layout.low,
            )
        else:
            layout.clock = names.index("BSOP_HOUR")
            layout.asks = first_of_ten(names, "ASKP")
            layout.bids = first_of_ten(names, "BIDP")
            layout.ask_quantities = first_of_ten(names, "ASKP_RSQN")
            layout.bid_quantities = first_of_ten(names, "BIDP_RSQN")
            layout.min_width = BOOK_LEVELS + max(
                layout.asks, layout.bids, layout.ask_quantities, layout.bid_quantities
            )
        LAYOUTS[N_LAYOUTS] = layout
        N_LAYOUTS += 1
        LAYOUT_TR_IDS.append(tr_id)
        LAYOUT_VENUES.append(entry["venue"])
    return 0


load_columns()


def columns_for(str tr_id not None, Py_ssize_t width):
    """Names of the values of a record; see `_kis.pyi`."""
    if tr_id not in COLUMNS:
        raise KISFrameError("unknown TR")
    if width < 1:
        raise ValueError(f"a record has at least one value, not {width}")
    names = ALTERNATIVES.get((tr_id, width), COLUMNS[tr_id])
    return (*names[:width], *[f"EXTRA_{i}" for i in range(len(names), width)])


cdef tuple types_for(str tr_id, Py_ssize_t width):
    """Types of the values of a record, those behind the last known column being text."""
    types = OTHER_TYPES.get((tr_id, width), TYPES[tr_id])
    return (*types[:width], *["text"] * (width - len(types)))
