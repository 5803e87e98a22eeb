"""Every setting of the server: its type, default, unit and meaning.

The setting ``batch_interval_ms`` is the TOML key ``batch_interval_ms``, the variable ``FASTWS_BATCH_INTERVAL_MS`` and
the flag ``--batch-interval-ms``; `fastws.configuration` reads them.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from importlib import resources
from ipaddress import IPv6Network, ip_address, ip_network
from types import NoneType
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from fastws.errors import SettingsError

ENV_PREFIX: Final = "FASTWS_"
SPEED = float | Literal["max"]
KEY_TABLE = dict[str, str]
_TEXT = Annotated[str, Meta(min_length=1)]

FEEDS: Final = ("none", "sim", "replay:FILE")
SAMPLE_FEED: Final = "replay:sample"

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

HIDDEN: Final = "***"
"""What stands for a secret wherever a setting is shown."""

# In a URL: behind the user, up to the last @ (SQLAlchemy allows any character before it), or as a parameter.
_PASSWORD: Final = re.compile(r"(://[^/:@]*:).*(?=@)|((?:password|passwd|pwd)=)[^&\"]*", re.IGNORECASE)


def _meta(
    description: str, unit: str = "", *, secret: bool = False, restart: bool = False, **constraints: Any
) -> Meta:
    """`restart`: a running server keeps the value that it was started with; the others it can read again."""
    return Meta(
        description=description, extra={"unit": unit, "secret": secret, "restart": restart}, **constraints
    )


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one server, complete and checked by :func:`load`.

    Constructing it directly checks only what concerns several settings at once. `sources` tells for each
    setting that was given where its value came from; a setting that is not in it has its default.
    """

    host: Annotated[
        str, _meta("address to listen on; 0.0.0.0 or :: for every interface", min_length=1, restart=True)
    ] = "127.0.0.1"
    port: Annotated[
        int, _meta("port to listen on; 0 picks a free one and prints it", ge=0, le=65535, restart=True)
    ] = 8000
    unix_socket: Annotated[
        _TEXT | None,
        _meta(
            "path of a Unix socket to listen on; then TCP only when host or port is given too", restart=True
        ),
    ] = None
    unix_socket_mode: Annotated[
        str, _meta("permissions of the Unix socket, in octal", pattern="^0?[0-7]{3}$", restart=True)
    ] = "600"
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
            "origins of browsers that may connect besides the server's own, as https://app.example; * for all"
        ),
    ] = ()
    handshake_timeout: Annotated[
        float, _meta("time from accept to a complete request head", "s", gt=0, le=300)
    ] = 10.0

    feed: Annotated[
        str,
        _meta(
            f"where prices come from: {', '.join(FEEDS)}; {SAMPLE_FEED} is the recording that is included",
            restart=True,
        ),
    ] = "none"
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
            "unsent data per connection before values are replaced or dropped", "bytes", ge=4096, le=1 << 30
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

    allow_anonymous: Annotated[bool, _meta("serve public data to clients without a token")] = True
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
        parse_feed(self.feed, source=self.sources.get("feed", "feed"))
        for origin in self.allowed_origins:
            self._check_origin(origin)
        for entry in self.trusted_proxies:
            self._check_proxy(entry)
        if self.outbox_soft_bytes > self.outbox_hard_bytes:
            raise self._conflict("outbox_soft_bytes", "must not be over", "outbox_hard_bytes")
        if self.ping_interval >= self.pong_timeout:
            raise self._conflict("ping_interval", "must be under", "pong_timeout")
        if self.jwks_url is not None:
            self._check_jwks_url(self.jwks_url)
        if self.admin_bind is not None and parse_bind(self.admin_bind) is None:
            raise self.error(
                "admin_bind",
                f"{self.admin_bind!r} is no HOST:PORT",
                "write one such as 127.0.0.1:9000 or [::1]:9000",
            )

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

    def _check_origin(self, origin: str) -> None:
        if origin == "*":
            return
        try:
            parts = urlsplit(origin)
            is_origin = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_origin = False
        # What a browser sends has no path, no query and no credentials, so such an entry could never match.
        if not is_origin or origin != f"{parts.scheme}://{parts.netloc}" or "@" in origin:
            raise self.error(
                "allowed_origins",
                f"{origin!r} is not an origin",
                "write scheme and host, such as https://app.example:8443, or * for all",
            )

    def _check_proxy(self, entry: str) -> None:
        if entry == "unix":
            return
        try:
            network = ip_network("" if "%" in entry else entry, strict=False)
        except ValueError:
            raise self.error(
                "trusted_proxies",
                f"{entry!r} is no address and no network",
                "write such as 10.0.0.7, 10.0.0.0/8 or 2001:db8::/32, or unix for the Unix socket",
            ) from None
        if network.network_address != ip_address(entry.partition("/")[0]):
            raise self.error("trusted_proxies", f"{entry!r} goes beyond its prefix", f"write {network}")
        if network.prefixlen == 0:
            raise self.error(
                "trusted_proxies",
                f"{entry!r} is everyone, and then every client may claim any address",
                "name the addresses of the proxies only",
            )
        if isinstance(network, IPv6Network) and (mapped := network.network_address.ipv4_mapped) is not None:
            fix = f"write {mapped}/{max(0, network.prefixlen - 96)}"
            raise self.error("trusted_proxies", f"{entry!r} is IPv4 written as IPv6", fix)

    def _conflict(self, lower: str, rule: str, upper: str) -> SettingsError:
        # The one that was given is to blame, not the other one's default.
        setting = upper if upper in self.sources and lower not in self.sources else lower
        problem = f"{lower} ({getattr(self, lower):.15g}) {rule} {upper} ({getattr(self, upper):.15g})"
        error = self.error(setting, problem, f"lower {lower} or raise {upper}")
        error.opposes = upper if setting == lower else lower
        return error

    def _check_jwks_url(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            is_usable = (
                parts.scheme in ("http", "https")
                and bool(parts.hostname)
                and parts.port != 0
                and "@" not in parts.netloc
                and url.isascii()
                and url.isprintable()
                and " " not in url
            )
        except ValueError:
            is_usable = False
        if not is_usable:
            # Not shown, because what is wrong with it may be the password in it.
            raise self.error(
                "jwks_url",
                "the value is not an address of key sets",
                "write one without user and password, such as https://id.example/.well-known/jwks.json",
            )


class Setting(NamedTuple):
    """What is known of one setting without its value.

    `kind` is its type without None and limits, `expects` completes "expected …". A value of a setting that
    `is_secret` is never shown, and one that `needs_restart` is not changed by SIGHUP.
    """

    name: str
    kind: Any
    default: Any
    description: str
    unit: str
    expects: str
    is_secret: bool
    needs_restart: bool

    @property
    def variable(self) -> str:
        return ENV_PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def default_text(self) -> str:
        """The default as a user would write it, with its unit; ``unset`` where there is none."""
        if self.default is None or self.default in ((), {}):
            return "unset"
        if isinstance(self.default, bool):
            return "on" if self.default else "off"
        text = f"{self.default:g}" if isinstance(self.default, float) else str(self.default)
        return f"{text} {self.unit}" if self.unit else text


class FeedSpec(NamedTuple):
    """What the setting `feed` names: `kind` is none, sim or replay; `path` is the file of a replay."""

    kind: str
    path: str | None = None


def parse_bind(text: str) -> tuple[str, int] | None:
    """Return the host and the port of ``HOST:PORT``, None where it is not that; IPv6 addresses are in brackets."""
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        return None
    if not host or not (len(port) <= 5 and port.isascii() and port.isdigit() and int(port) <= 65535):
        return None
    return host, int(port)


def parse_feed(text: str, *, source: str = "feed") -> FeedSpec:
    """Read a feed specification.

    The file named ``sample`` is the one that ships with fastws; one's own file of that name is ``./sample``.

    Raises:
        SettingsError: the feed does not exist; the text names those that do.
    """
    kind, separator, argument = text.partition(":")
    if kind in ("none", "sim") and not separator:
        return FeedSpec(kind)
    if text == SAMPLE_FEED:
        return FeedSpec(kind, str(resources.files("fastws.data") / "kis_frames.txt"))
    if kind == "replay" and argument:
        return FeedSpec(kind, argument)
    available = ", ".join(FEEDS)
    if kind == "replay":
        problem = "a replay needs its file: replay:FILE"
    elif kind in ("none", "sim"):
        problem = f"{text!r}: the feed {kind} takes no argument; write {kind}"
    elif kind in ("kis", "poll"):
        problem = f"the feed {kind!r} is not available in this version; available: {available}"
    else:
        problem = f"{text!r} is no feed{suggest(kind, ('none', 'sim', 'replay'))}; available: {available}"
    raise SettingsError(f"feed: {problem} (from {source})", setting="feed", source=source)


def shown(setting: Setting, value: Any, *, as_typed: bool = False, max_size: int = 80) -> str:
    """Return a value of `setting` as it may be printed: never a secret, and no longer than `max_size`.

    It is spelled as in TOML; `as_typed` is for the text of a flag or a variable.
    """
    if setting.is_secret and value:
        return HIDDEN
    if isinstance(value, str) and "-----BEGIN" in value:
        # Even where a public key belongs, somebody may have put the private one.
        return "PEM text"
    is_plain = as_typed and value and value.isprintable() and " " not in value
    text = _PASSWORD.sub(
        lambda found: (found[1] or found[2]) + HIDDEN, value if is_plain else _spelled(value)
    )
    return text if len(text) <= max_size else text[: max_size - 3] + "..."


def display(setting: Setting, value: Any, *, max_size: int = 80) -> str:
    """Return a value as `shown`, with its unit; ``unset`` where there is none."""
    if value is None or value in ((), {}):
        return "unset"
    text = f"{value:.15g}" if isinstance(value, float) else shown(setting, value, max_size=max_size)
    return f"{text} {setting.unit}" if setting.unit else text


def _spelled(value: Any) -> str:
    """`value` as it is written in TOML."""
    if isinstance(value, bool | str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_spelled, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name} = {_spelled(item)}' for name, item in value.items())}}}"
    return str(value)


def suggest(word: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f", did you mean {matches[0]}?" if matches else ""


def _expectation(kind: Any, meta: Meta) -> str:
    if kind is bool:
        return "true or false"
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(get_args(kind))
    if get_origin(kind) is tuple:
        return "a list of texts (in a variable or flag: separated by commas)"
    if kind == KEY_TABLE:
        return "texts by key id, or the path of a TOML file with them"
    if kind is str:
        if meta.pattern:
            return "three octal digits, such as 660"
        return "a text that is not empty" if meta.min_length else "a text"
    if kind == SPEED:
        return "a number above 0, or max"
    text = "a whole number" if kind is int else "a number"
    if meta.gt is not None:
        return f"{text} above {meta.gt:g} and up to {meta.le:g}"
    return f"{text} from {meta.ge:.15g} to {meta.le:.15g}"


HINTS: Final[dict[str, Any]] = get_type_hints(Settings, include_extras=True)


def _collect() -> dict[str, Setting]:
    settings = {}
    for field in msgspec.structs.fields(Settings):
        if field.name == "sources":
            continue
        kind, meta = get_args(HINTS[field.name])
        limits = meta
        if NoneType in get_args(kind):
            kind = get_args(kind)[0]
            if get_origin(kind) is Annotated:
                kind, limits = get_args(kind)
        has_factory = field.default_factory is not msgspec.NODEFAULT
        settings[field.name] = Setting(
            name=field.name,
            kind=kind,
            default=field.default_factory() if has_factory else field.default,
            description=meta.description,
            unit=meta.extra["unit"],
            expects=_expectation(kind, limits),
            is_secret=meta.extra["secret"],
            needs_restart=meta.extra["restart"],
        )
    return settings


SETTINGS: Final[dict[str, Setting]] = _collect()
"""Every setting by name, in the order in which help and documentation show them."""
