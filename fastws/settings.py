"""Every setting of the server: its type, default, unit and meaning.

The setting ``batch_interval_ms`` is the TOML key ``batch_interval_ms``, the variable ``FASTWS_BATCH_INTERVAL_MS`` and
the flag ``--batch-interval-ms``; `fastws.configuration` reads them.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, get_type_hints

import msgspec
from msgspec import Meta

from fastws.errors import SettingsError
from fastws.settings_catalog import SPEED, Setting, collect, shown
from fastws.settings_catalog import meta as _meta
from fastws.settings_checks import FEEDS, SAMPLE_FEED, check

_TEXT = Annotated[str, Meta(min_length=1)]
_SHORT_TEXT = Annotated[str, Meta(min_length=1, max_length=100)]

JwtAlgorithm = Literal[
    "HS256",
    "HS384",
    "HS512",
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one server, complete and checked by `fastws.configuration.load`.

    Constructing it directly checks only what concerns several settings at once. `sources` tells for each
    setting that was given where its value came from; a setting that is not in it has its default.
    """

    host: Annotated[
        str, _meta("address to listen on; 0.0.0.0 or :: for every interface", min_length=1, restart=True)
    ] = "127.0.0.1"
    port: Annotated[
        int, _meta("port to listen on; 0 picks a free one and prints it", ge=0, le=65535, restart=True)
    ] = 8000
    workers: Annotated[
        int,
        _meta(
            "processes that serve the port together; what one can do on one processor is enough for most",
            "processes",
            ge=1,
            le=128,
            restart=True,
        ),
    ] = 1
    unix_socket: Annotated[
        _TEXT | None,
        _meta(
            "path of a Unix socket to listen on; then TCP only when host or port is given too", restart=True
        ),
    ] = None
    unix_socket_mode: Annotated[
        str, _meta("permissions of the Unix socket, in octal", pattern="^0?[0-7]{3}$", restart=True)
    ] = "600"
    upgrade_socket: Annotated[
        _TEXT | None,
        _meta(
            "path of a Unix socket where a new process of this user takes over the port and the clients of this one",
            restart=True,
        ),
    ] = None
    certfile: Annotated[
        _TEXT | None,
        _meta(
            "certificate chain in PEM; with it TLS is spoken, also at admin_bind, but not at the Unix socket"
        ),
    ] = None
    keyfile: Annotated[
        _TEXT | None, _meta("private key of the certificate in PEM; unset: it is in certfile")
    ] = None
    admin_bind: Annotated[
        _TEXT | None,
        _meta(
            "HOST:PORT of the administrator's endpoints and /metrics, then not on the main port; with TLS as there",
            restart=True,
        ),
    ] = None
    trusted_proxies: Annotated[
        tuple[str, ...],
        _meta(
            "addresses or networks of proxies whose Forwarded and X-Forwarded-* headers count; "
            "unix for the Unix socket"
        ),
    ] = ()
    allowed_origins: Annotated[
        tuple[str, ...],
        _meta(
            "origins of pages that may connect and ask besides the server's own, as https://app.example; * for all"
        ),
    ] = ()
    web_pages: Annotated[
        bool,
        _meta(
            "serve the dashboard and the test page; /static/fastws.js is there without them, too",
            restart=True,
        ),
    ] = True
    handshake_timeout: Annotated[
        float, _meta("time from accept to a complete request head", "s", gt=0, le=300)
    ] = 10.0

    feed: Annotated[
        str,
        _meta(
            f"where prices come from: {', '.join(FEEDS)}; {SAMPLE_FEED} is included",
            restart=True,
        ),
    ] = "none"
    feed_standby: Annotated[
        int,
        _meta(
            "place in the row of servers with this feed and relay, of which one runs it; 0 is the first, 1 stands by",
            ge=0,
            le=1000,
            restart=True,
        ),
    ] = 0
    feed_takeover: Annotated[
        float,
        _meta(
            "how long the server that runs the feed is not heard over the relay before another one runs it",
            "s",
            ge=2,
            le=3600,
            restart=True,
        ),
    ] = 10.0
    load: Annotated[
        Annotated[str, Meta(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")] | None,
        _meta(
            "MODULE:FUNCTION that is called with the hub once the server listens, to publish or to start C extensions",
            restart=True,
        ),
    ] = None
    inlet_bytes: Annotated[
        int,
        _meta(
            "ring in which publications of C extensions wait; a MiB has room for 6,500 prices",
            "bytes",
            ge=262144,
            le=1 << 34,
            restart=True,
        ),
    ] = 4 * 1024 * 1024
    symbols_file: Annotated[
        str | None,
        _meta(
            "instrument table: CSV with symbol,name,market,sector,previous_close[,currency], or a code a line"
        ),
    ] = None
    unknown_symbols: Annotated[
        Literal["reject", "accept"], _meta("what a subscription to a symbol that is in no table gets")
    ] = "reject"
    replay_speed: Annotated[
        SPEED,
        _meta("speed of a replay: 2 is twice as fast as recorded, max is without pauses", restart=True),
    ] = 1.0
    replay_loop: Annotated[bool, _meta("start a replay over when it ends", restart=True)] = False
    replay_max_gap: Annotated[
        float,
        _meta(
            "longest pause of a replay, whatever was recorded; 0 keeps all",
            "s",
            ge=0,
            le=86_400,
            restart=True,
        ),
    ] = 0.0
    simulator_rate: Annotated[
        float, _meta("updates of the simulator over all symbols", "updates/s", gt=0, le=100_000, restart=True)
    ] = 200.0
    simulator_seed: Annotated[
        Annotated[int, Meta(ge=0, le=2**32 - 1)] | None,
        _meta(
            "seed of the simulator: the same one gives the same prices; unset: a new one each start",
            restart=True,
        ),
    ] = None

    simulator_book_share: Annotated[
        float,
        _meta(
            "share of the simulator's updates that are order books; the rest are prices",
            ge=0,
            le=1,
            restart=True,
        ),
    ] = 0.5
    simulator_opening_burst: Annotated[
        float,
        _meta(
            "how many times faster the simulator starts, as a market opens; 1 is evenly",
            ge=1,
            le=100,
            restart=True,
        ),
    ] = 5.0

    kis_keys: Annotated[
        dict[str, str],
        _meta(
            "app keys of KIS with their secrets: a table, or the path of a TOML file; unset: those of KIS_* variables",
            secret=True,
            restart=True,
        ),
    ] = {}
    kis_exchange: Annotated[
        Literal["auto", "KRX", "NXT", "UN", "SOR"],
        _meta(
            "where KIS's prices are from: UN is KRX and NXT in one, SOR the same; auto is UN, or KRX in paper trading",
            restart=True,
        ),
    ] = "auto"
    kis_books: Annotated[
        bool,
        _meta(
            "register order books of KIS, too; without them there is room for twice the symbols", restart=True
        ),
    ] = True
    kis_registrations: Annotated[
        int,
        _meta(
            "registrations per app key, of which a symbol takes two; KIS grants 41 at most",
            "registrations",
            ge=2,
            le=41,
            restart=True,
        ),
    ] = 40
    kis_fixed_symbols: Annotated[
        Annotated[int, Meta(ge=0, le=100_000)] | None,
        _meta(
            "how many symbols of symbols_file, the first ones, come before those that clients look at; unset: all"
        ),
    ] = None
    kis_min_dwell: Annotated[
        float,
        _meta("how long a symbol stays registered at KIS at least", "s", ge=10, le=3600, restart=True),
    ] = 60.0
    kis_poll_rate: Annotated[
        Annotated[float, Meta(ge=0, le=18)] | None,
        _meta(
            "polls of KIS for symbols without a registration, by app key; unset: 15, in paper trading 0.8",
            "calls/s",
            restart=True,
        ),
    ] = None
    kis_poll_interval: Annotated[
        float, _meta("least time between two polls of a symbol of KIS", "s", ge=0.2, le=3600, restart=True)
    ] = 1.0

    source: Annotated[
        str,
        _meta(
            "what fastws feed and update-prices ask for prices: kis, yahoo, csv:FILE, simulator, or a package's",
            min_length=1,
            restart=True,
        ),
    ] = "yahoo"
    poll_interval: Annotated[
        float,
        _meta("pause between two polls of a symbol of a source", "s", ge=0.2, le=86_400, restart=True),
    ] = 30.0
    poll_batch_size: Annotated[
        int,
        _meta(
            "symbols asked for at once, where the source takes so many",
            "symbols",
            ge=1,
            le=5000,
            restart=True,
        ),
    ] = 50
    poll_fresh: Annotated[
        float,
        _meta(
            "how long a polled price counts as fresh; one that is older when it comes is refused",
            "s",
            ge=1,
            le=604_800,
            restart=True,
        ),
    ] = 300.0
    force_update_interval: Annotated[
        float,
        _meta("least time between two forced price updates of a user; 0 is no limit", "s", ge=0, le=86_400),
    ] = 10.0
    publish_url: Annotated[
        tuple[str, ...],
        _meta(
            "servers that fastws feed publishes to, with the admin_token of all; unset: the one of host and port",
            restart=True,
        ),
    ] = ()

    database: Annotated[
        str | None,
        _meta(
            "SQL database of what outlives the process, a SQLAlchemy URL such as sqlite:///fastws.db; "
            "unset: in memory",
            restart=True,
        ),
    ] = None

    save_interval: Annotated[
        float,
        _meta(
            "pause between writes of last prices and books to the database; 0 writes them at the stop only",
            "s",
            ge=0,
            le=3600,
        ),
    ] = 5.0

    portfolios_query: Annotated[
        _TEXT | None,
        _meta(
            "SQL query for another application's portfolios: id, owner, name[, currency]; unset: the table portfolios",
            restart=True,
        ),
    ] = None
    positions_query: Annotated[
        _TEXT | None,
        _meta(
            "SQL query for their positions: portfolio_id, symbol, quantity; unset: the table positions",
            restart=True,
        ),
    ] = None
    closes_query: Annotated[
        _TEXT | None,
        _meta(
            "SQL query for last known prices: symbol, close[, date][, currency]; unset: only those of fastws's tables",
            restart=True,
        ),
    ] = None
    changes_query: Annotated[
        _TEXT | None,
        _meta(
            "SQL query whose answer differs once what these queries return does; unset: all of it is compared",
            restart=True,
        ),
    ] = None
    portfolio_interval_ms: Annotated[
        int,
        _meta(
            "least time between two values of a watched portfolio, all of whose prices go into the next one",
            "ms",
            ge=0,
            le=60_000,
        ),
    ] = 90
    portfolio_poll_interval: Annotated[
        float,
        _meta(
            "pause between looks for changed portfolios and positions in the database; 0 waits to be told",
            "s",
            ge=0,
            le=86_400,
        ),
    ] = 5.0

    relay: Annotated[
        _TEXT | None,
        _meta(
            "Redis that joins this server with others: redis://, rediss://, unix:// or redis+sentinel://; unset: none",
            restart=True,
        ),
    ] = None
    relay_name: Annotated[
        _SHORT_TEXT | None,
        _meta(
            "what this server is called in logs and statistics of all; unset: by the host and port that it listens at",
            restart=True,
        ),
    ] = None
    relay_prefix: Annotated[
        str,
        _meta(
            "beginning of the names of the relay's channels; servers with another one do not hear each other",
            min_length=1,
            restart=True,
        ),
    ] = "fastws"
    relay_shards: Annotated[
        int,
        _meta(
            "how many channels of the relay symbols are spread over, the same on all servers; a power of two",
            "channels",
            ge=1,
            le=1024,
            restart=True,
        ),
    ] = 4
    relay_interval_ms: Annotated[
        int,
        _meta(
            "how long updates for other servers are gathered; 0 sends those of each turn of the loop",
            "ms",
            ge=0,
            le=1000,
            restart=True,
        ),
    ] = 5
    relay_history_bytes: Annotated[
        int,
        _meta(
            "what was sent to other servers and is kept for those that miss some",
            "bytes",
            ge=0,
            le=1 << 34,
            restart=True,
        ),
    ] = 16 << 20
    relay_sessions_bytes: Annotated[
        int,
        _meta(
            "what is kept of the sessions of other servers, so that their clients can go on here; 0: they cannot",
            "bytes",
            ge=0,
            le=1 << 34,
            restart=True,
        ),
    ] = 64 << 20
    relay_in_ready: Annotated[
        bool,
        _meta("/ready says 503 while the relay is away; else only while the server stops"),
    ] = False

    batch_interval_ms: Annotated[
        int,
        _meta(
            "how long updates are gathered before they are sent; 0 sends each at once",
            "ms",
            ge=0,
            le=60_000,
            restart=True,
        ),
    ] = 30
    flush_share: Annotated[
        float, _meta("largest share of time spent sending before intervals stretch", ge=0.05, le=0.95)
    ] = 0.75
    book_history: Annotated[
        int, _meta("order books kept per symbol", "books", ge=1, le=65_536, restart=True)
    ] = 64

    symbol_stale_min: Annotated[
        float,
        _meta(
            "no symbol is stale before it was silent for this, however often it is updated",
            "s",
            ge=1,
            le=86_400,
        ),
    ] = 10.0
    symbol_stale_max: Annotated[
        float,
        _meta(
            "symbols whose silence would have to last longer are never stale: they are updated too seldom",
            "s",
            ge=1,
            le=86_400,
        ),
    ] = 600.0
    symbol_stale_learning: Annotated[
        float,
        _meta(
            "symbols are never stale before so much of their sessions was seen since the start",
            "s",
            ge=0,
            le=3600,
        ),
    ] = 600.0
    calendars: Annotated[
        tuple[str, ...],
        _meta(
            "when markets trade: MARKET=KRX, NXT, UN (both), always, or an exchange such as XNYS (extra calendars)",
            restart=True,
        ),
    ] = ()
    holidays: Annotated[
        tuple[str, ...],
        _meta(
            "more days off of KRX and NXT, or of other hours: 2028-04-12, 2028-11-16 10:00-16:30; XKRX: see the docs",
            restart=True,
        ),
    ] = ()

    connections_per_user: Annotated[
        int, _meta("connections a user may have; 0 is no limit", "connections", ge=0, le=1_000_000)
    ] = 5
    on_connection_limit: Annotated[
        Literal["reject", "evict_oldest"], _meta("what happens when a user has all of them")
    ] = "reject"
    connections_per_ip: Annotated[
        int,
        _meta(
            "connections an address (IPv6: a /64) may have, the next is closed with 4429; 0 is no limit",
            "connections",
            ge=0,
            le=1_000_000,
        ),
    ] = 0
    connection_limit: Annotated[
        int,
        _meta(
            "connections in all, the next is closed with 4429; 0 is no limit",
            "connections",
            ge=0,
            le=10_000_000,
        ),
    ] = 0
    handshake_rate: Annotated[
        int,
        _meta(
            "handshakes, and bad tokens over HTTP, per address (IPv6: a /64); beyond: 429; 0 is no limit",
            "handshakes/s",
            ge=0,
            le=1_000_000,
        ),
    ] = 0
    half_open_per_ip: Annotated[
        int,
        _meta(
            "connections an address (IPv6: a /64) may have waiting for a request; then the oldest close; 0 is no limit",
            "connections",
            ge=0,
            le=1_000_000,
        ),
    ] = 100
    session_ttl: Annotated[
        float, _meta("how long a session can be restored after its connection ended", "s", gt=0, le=86_400)
    ] = 300.0
    session_limit: Annotated[
        int, _meta("sessions kept; beyond, the oldest go", "sessions", ge=1, le=10_000_000)
    ] = 100_000
    history_bytes: Annotated[
        int, _meta("updates kept for restored sessions; 0 keeps none", "bytes", ge=0, le=1 << 40)
    ] = 64 << 20
    compression: Annotated[bool, _meta("offer permessage-deflate to clients that ask for it")] = True
    compression_threshold: Annotated[
        int, _meta("messages under this size are sent plain", "bytes", ge=0, le=1 << 30)
    ] = 256
    compression_level: Annotated[int, _meta("0 is fastest, 3 smallest (levels of ISA-L)", ge=0, le=3)] = 1

    rate_limit: Annotated[
        int,
        _meta(
            "messages accepted per connection, bursts as large; one with a token counts as ten at most; "
            "0 is no limit",
            "messages/s",
            ge=0,
            le=1_000_000,
        ),
    ] = 100
    control_rate_limit: Annotated[
        int, _meta("control frames and fragments accepted per connection", "frames/s", ge=1, le=1_000_000)
    ] = 200
    subscription_limit: Annotated[
        int, _meta("subscriptions per connection", "subscriptions", ge=1, le=1_000_000)
    ] = 50
    alerts_per_user: Annotated[
        int, _meta("alerts a user may have, fired ones included", "alerts", ge=1, le=1_000_000)
    ] = 1000
    kept_messages_per_user: Annotated[
        int,
        _meta("alerts kept for a user's sessions that wait to be restored", "messages", ge=0, le=100_000),
    ] = 100
    message_bytes: Annotated[
        int, _meta("largest message accepted from a client", "bytes", ge=1024, le=64 << 20)
    ] = 65_536
    outbox_soft_bytes: Annotated[
        int,
        _meta(
            "unsent data per connection before values are replaced or dropped; the same of what waits for a late flush",
            "bytes",
            ge=4096,
            le=1 << 30,
        ),
    ] = 256 << 10
    outbox_hard_bytes: Annotated[
        int, _meta("unsent data per connection that closes it with 4408", "bytes", ge=4096, le=1 << 30)
    ] = 1 << 20
    stall_timeout: Annotated[
        float, _meta("a client that takes no data for this long is closed with 4408", "s", gt=0, le=86_400)
    ] = 30.0
    ping_interval: Annotated[float, _meta("pause between pings to a client", "s", gt=0, le=86_400)] = 25.0
    pong_timeout: Annotated[
        float, _meta("a client that answers nothing for this long is closed with 4409", "s", gt=0, le=86_400)
    ] = 60.0
    idle_timeout: Annotated[
        float, _meta("a client that never subscribes is closed after this", "s", gt=0, le=86_400)
    ] = 300.0

    allow_anonymous: Annotated[
        bool,
        _meta(
            "serve prices to clients without a token, over WebSocket and HTTP; health and statistics are open to all"
        ),
    ] = True
    auth_timeout: Annotated[
        float, _meta("time to authenticate where anonymous clients are not served", "s", gt=0, le=300)
    ] = 10.0
    jwt_algorithm: Annotated[
        JwtAlgorithm, _meta("the one algorithm with which tokens are signed; no token can choose another")
    ] = "HS256"
    admin_token: Annotated[
        _TEXT | None,
        _meta("token of the administrator's endpoints; without one they are closed", secret=True),
    ] = None
    jwt_secret: Annotated[
        _TEXT | None,
        _meta(
            "secret of HS tokens; flags show in lists of processes, so prefer the variable",
            secret=True,
        ),
    ] = None
    jwt_previous_secret: Annotated[
        _TEXT | None, _meta("secret before the last change, accepted as well", secret=True)
    ] = None
    jwt_public_key: Annotated[
        _TEXT | None,
        _meta("public key of RS, PS, ES and EdDSA tokens: PEM text, or the path of its file"),
    ] = None
    jwt_keys: Annotated[
        dict[str, str],
        _meta("secrets or public keys by key id (kid): a table, or the path of a TOML file", secret=True),
    ] = {}
    jwks_url: Annotated[
        _TEXT | None,
        _meta("where the issuer publishes its keys, as https://id.example/.well-known/jwks.json"),
    ] = None
    jwt_audience: Annotated[_TEXT | None, _meta("audience (aud) that tokens must name")] = None
    jwt_issuer: Annotated[_TEXT | None, _meta("issuer (iss) that tokens must name")] = None
    jwt_leeway: Annotated[
        float, _meta("how far clocks may differ when times in tokens are checked", "s", ge=0, le=3600)
    ] = 0.0
    require_exp: Annotated[bool, _meta("refuse tokens that never expire")] = False
    user_id_claim: Annotated[str, _meta("claim of a token that is the user's id", min_length=1)] = "sub"
    auth_url: Annotated[
        _TEXT | None,
        _meta(
            "where the application says whose session a request belongs to, by its cookies: https://app.example/whoami"
        ),
    ] = None
    auth_url_timeout: Annotated[
        float,
        _meta("time in which the application has to answer, or the client is refused", "s", gt=0, le=60),
    ] = 3.0
    auth_cache_ttl: Annotated[
        float, _meta("how long an answer of the application counts; 0 asks every time", "s", ge=0, le=3600)
    ] = 10.0
    auth_session_ttl: Annotated[
        float,
        _meta(
            "how long an open connection lives by an answer, at most; then the client has to connect again",
            "s",
            ge=1,
            le=30 * 86_400,
        ),
    ] = 3600.0

    shutdown_delay: Annotated[
        float,
        _meta(
            "how long a stopping server goes on while /ready says 503, so that load balancers see it",
            "s",
            ge=0,
            le=3600,
        ),
    ] = 0.0
    shutdown_spread: Annotated[
        float,
        _meta("clients are told to come back at random moments within this after a stop", "s", ge=0, le=3600),
    ] = 5.0

    shutdown_timeout: Annotated[
        float,
        _meta("a stop takes at most this after shutdown_delay, whatever clients do", "s", ge=1, le=3600),
    ] = 10.0

    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], _meta("least important log lines written")
    ] = "info"
    log_format: Annotated[Literal["console", "json"], _meta("log lines for people or for programs")] = (
        "console"
    )

    sources: dict[str, str] = {}

    def __post_init__(self) -> None:
        check(self)

    def __repr__(self) -> str:
        values = ((setting, getattr(self, name)) for name, setting in SETTINGS.items())
        changed = (
            f"{setting.name}={shown(setting, value)}" for setting, value in values if value != setting.default
        )
        return f"Settings({', '.join(changed)})"

    def error(self, setting: str, problem: str, fix: str) -> SettingsError:
        """Return the error that blames `setting`, whose value came from where `sources` says."""
        source = self.sources.get(setting, "default")
        return SettingsError(f"{setting}: {problem} (from {source}); {fix}", setting=setting, source=source)


HINTS: Final[dict[str, Any]] = get_type_hints(Settings, include_extras=True)
SETTINGS: Final[dict[str, Setting]] = collect(Settings)
"""Every setting by name, in the order in which help and documentation show them."""
