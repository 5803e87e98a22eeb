"""Every setting of the server: its type, default, unit and meaning, and where its value came from.

Precedence: defaults < TOML file < environment < command line. The setting ``batch_interval_ms`` is the TOML
key ``batch_interval_ms``, the variable ``FASTWS_BATCH_INTERVAL_MS`` and the flag ``--batch-interval-ms``.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from fastws.errors import SettingsError

ENV_PREFIX: Final = "FASTWS_"
CONFIG_VARIABLE: Final = "FASTWS_CONFIG"

# Names that deployments of the price-feed service already set; the FASTWS_ name wins over them.
_ENV_ALIASES: Final = {"WEBSOCKET_TIMEOUT": "idle_timeout"}
# Read by the build, not by the server; a shell that has built fastws may still carry them.
_FOREIGN_VARIABLES: Final = frozenset({CONFIG_VARIABLE, "FASTWS_DEBUG", "FASTWS_SANITIZE", "FASTWS_ANNOTATE"})

# What Kubernetes sets in every container of a namespace with a Service named fastws or fastws-something. A port
# of that kind has the value tcp://10.0.0.1:8000.
_SERVICE_LINK: Final = re.compile(
    r"FASTWS_(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_LINKED_PORT: Final = re.compile(r"(tcp|udp|sctp)://")

_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})

_SPEED = float | Literal["max"]
_KEY_TABLE = dict[str, str]
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


def _meta(description: str, unit: str = "", *, secret: bool = False, **constraints: Any) -> Meta:
    return Meta(description=description, extra={"unit": unit, "secret": secret}, **constraints)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one server, complete and checked by :func:`load`.

    Constructing it directly checks only what concerns several settings at once. `sources` tells for each
    setting that was given where its value came from; a setting that is not in it has its default.
    """

    host: Annotated[str, _meta("address to listen on; 0.0.0.0 or :: for every interface", min_length=1)] = (
        "127.0.0.1"
    )
    port: Annotated[int, _meta("port to listen on; 0 picks a free one and prints it", ge=0, le=65535)] = 8000
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
        _meta(f"where prices come from: {', '.join(FEEDS)}; {SAMPLE_FEED} is the recording that is included"),
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
        _SPEED,
        _meta("speed of a replay: 2 is twice as fast as recorded, max is without pauses"),
    ] = 1.0
    replay_loop: Annotated[bool, _meta("start a replay over when it ends")] = False
    replay_max_gap: Annotated[
        float, _meta("longest pause of a replay, whatever was recorded; 0 keeps all", "s", ge=0, le=86_400)
    ] = 0.0
    simulator_rate: Annotated[
        float, _meta("updates of the simulator over all symbols", "updates/s", gt=0, le=100_000)
    ] = 200.0
    simulator_seed: Annotated[
        Annotated[int, Meta(ge=0, le=2**32 - 1)] | None,
        _meta("seed of the simulator: the same one gives the same prices; unset: a new one each start"),
    ] = None

    simulator_book_share: Annotated[
        float, _meta("share of the simulator's updates that are order books; the rest are prices", ge=0, le=1)
    ] = 0.5
    simulator_opening_burst: Annotated[
        float,
        _meta("how many times faster the simulator starts, as a market opens; 1 is evenly", ge=1, le=100),
    ] = 5.0

    database: Annotated[
        str | None,
        _meta(
            "SQL database of what outlives the process, a SQLAlchemy URL such as sqlite:///fastws.db; "
            "unset: in memory"
        ),
    ] = None

    batch_interval_ms: Annotated[
        int,
        _meta(
            "how long updates are gathered before they are sent; 0 sends each at once", "ms", ge=0, le=60_000
        ),
    ] = 30
    flush_share: Annotated[
        float, _meta("largest share of time spent sending before intervals stretch", ge=0.05, le=0.95)
    ] = 0.75
    book_history: Annotated[int, _meta("order books kept per symbol", "books", ge=1, le=65_536)] = 64

    connections_per_user: Annotated[
        int, _meta("connections a user may have; 0 is no limit", "connections", ge=0, le=1_000_000)
    ] = 5
    on_connection_limit: Annotated[
        Literal["reject", "evict_oldest"], _meta("what happens when a user has all of them")
    ] = "reject"
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

    rate_limit: Annotated[
        int,
        _meta(
            "messages accepted per connection, bursts as large; 0 is no limit",
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

    shutdown_spread: Annotated[
        float,
        _meta("clients are told to come back at random moments within this after a stop", "s", ge=0, le=3600),
    ] = 5.0

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
        if self.outbox_soft_bytes > self.outbox_hard_bytes:
            raise self._conflict("outbox_soft_bytes", "must not be over", "outbox_hard_bytes")
        if self.ping_interval >= self.pong_timeout:
            raise self._conflict("ping_interval", "must be under", "pong_timeout")
        if self.jwks_url is not None:
            self._check_jwks_url(self.jwks_url)

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

    def _conflict(self, lower: str, rule: str, upper: str) -> SettingsError:
        # The one that was given is to blame, not the other one's default.
        setting = upper if upper in self.sources and lower not in self.sources else lower
        problem = f"{lower} ({getattr(self, lower):.15g}) {rule} {upper} ({getattr(self, upper):.15g})"
        return self.error(setting, problem, f"lower {lower} or raise {upper}")

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
    `is_secret` is never shown.
    """

    name: str
    kind: Any
    default: Any
    description: str
    unit: str
    expects: str
    is_secret: bool

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
        problem = f"{text!r} is no feed{_suggest(kind, ('none', 'sim', 'replay'))}; available: {available}"
    raise SettingsError(f"feed: {problem} (from {source})", setting="feed", source=source)


def load(config_path: str | None, environ: Mapping[str, str], flags: Mapping[str, object]) -> Settings:
    """Put the settings together.

    `config_path` is a TOML file (None: the variable FASTWS_CONFIG, else no file). `flags` are the options
    given on the command line by setting name; a value is text or already of the setting's type. An
    environment variable with an empty value counts as absent, and so does a service link of Kubernetes (see
    :func:`linked_variables`). Paths are relative to the working directory.

    Raises:
        SettingsError: naming the setting, the source and what to do.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    path = config_path or environ.get(CONFIG_VARIABLE)
    if path:
        for name, value in _read_toml(path).items():
            values[name], sources[name] = _from_toml(name, value, path), path
    for variable, name in _variables(environ):
        values[name], sources[name] = _from_text(SETTINGS[name], environ[variable], variable), variable
    for name, value in flags.items():
        setting = SETTINGS[name]
        values[name] = (
            _from_text(setting, value, setting.flag)
            if isinstance(value, str)
            else _check(setting, value, setting.flag)
        )
        sources[name] = setting.flag
    settings = Settings(**values, sources=sources)
    _check_file(settings, "symbols_file", settings.symbols_file)
    _check_file(settings, "feed", parse_feed(settings.feed).path)
    return settings


def linked_variables(environ: Mapping[str, str]) -> list[str]:
    """Return the variables of settings that hold a service link of Kubernetes and therefore do not count.

    Where a Service is named fastws, FASTWS_PORT is tcp://10.0.0.1:8000 in every container.
    """
    variables = [setting.variable for setting in SETTINGS.values()]
    return [variable for variable in variables if _is_linked_port(variable, environ.get(variable, ""))]


def _is_linked_port(variable: str, value: str) -> bool:
    return variable.endswith("_PORT") and _LINKED_PORT.match(value) is not None


def shown(setting: Setting, value: Any, *, as_typed: bool = False) -> str:
    """Return a value of `setting` as it may be printed: never a secret, never long.

    It is spelled as in TOML; `as_typed` is for the text of a flag or a variable.
    """
    if setting.is_secret and value:
        return HIDDEN
    if isinstance(value, str) and "-----BEGIN" in value:
        # Even where a public key belongs, somebody may have put the private one.
        return "PEM text"
    is_plain = as_typed and value and value.isprintable() and " " not in value
    text = value if is_plain else _spelled(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _read_toml(path: str) -> dict[str, Any]:
    try:
        with Path(path).open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise SettingsError(
            f"config: cannot read {path}: {error.strerror}; check the path and its permissions",
            setting="config",
            source="--config",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"config: {path} is not valid TOML: {error}; write lines such as port = 8000",
            setting="config",
            source="--config",
        ) from None


def _from_toml(name: str, value: Any, path: str) -> Any:
    setting = SETTINGS.get(name)
    if setting is None:
        hint = (
            "; settings stand at the top level of the file, outside of tables"
            if isinstance(value, dict)
            else ""
        )
        raise SettingsError(
            f"{name}: unknown setting{_suggest(name.replace('-', '_'), SETTINGS)} (from {path}){hint}",
            setting=name,
            source=path,
        )
    if setting.kind == _KEY_TABLE and isinstance(value, str):
        value = _read_key_table(setting, value, path)
    return _check(setting, value, path)


def _read_key_table(setting: Setting, path: str, source: str) -> dict[str, Any]:
    # Neither the path nor what is in the file is shown: either may be a secret in the wrong place.
    try:
        with Path(path).open("rb") as file:
            return tomllib.load(file)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not TOML"
        raise SettingsError(
            f"{setting.name}: the file that {source} names cannot be read: {reason}; name a file of lines "
            'such as key-1 = "…"',
            setting=setting.name,
            source=source,
        ) from None


def _variables(environ: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """Yield (variable, setting name) of the variables that are set, aliases first so that real names win."""
    for variable, name in _ENV_ALIASES.items():
        if environ.get(variable):
            yield variable, name
    for variable in sorted(environ):
        if not variable.startswith(ENV_PREFIX) or variable in _FOREIGN_VARIABLES:
            continue
        if _SERVICE_LINK.fullmatch(variable) or _is_linked_port(variable, environ[variable]):
            continue
        name = variable.removeprefix(ENV_PREFIX).lower()
        if name not in SETTINGS or variable != variable.upper():
            hint = _suggest(variable.upper(), [setting.variable for setting in SETTINGS.values()])
            raise SettingsError(
                f"{variable}: unknown setting{hint} (from the environment); correct or unset it",
                setting=variable,
                source="environment",
            )
        if environ[variable]:
            yield variable, name


def _from_text(setting: Setting, text: str, source: str) -> Any:
    typed, text = text, text.strip()
    kind = setting.kind
    value: Any = text
    try:
        if kind is bool:
            value = True if text.lower() in _TRUE else False if text.lower() in _FALSE else text
        elif kind == _KEY_TABLE:
            value = _read_key_table(setting, text, source)
        elif get_origin(kind) is tuple:
            value = tuple(part.strip() for part in text.split(",") if part.strip())
        elif kind is int:
            value = int(text)
        elif kind is float or (kind == _SPEED and text != "max"):
            value = float(text)
    except ValueError:
        value = text  # of the wrong type, which _check reports
    return _check(setting, value, source, typed)


def _check(setting: Setting, value: Any, source: str, typed: str | None = None) -> Any:
    """Return `value` as the setting has it; `typed` is the text that it was read from, if it was."""
    try:
        checked = msgspec.convert(value, _HINTS[setting.name])
        is_wrong = isinstance(checked, float) and (
            not math.isfinite(checked) or (setting.name == "replay_speed" and checked <= 0)
        )
    except msgspec.ValidationError:
        is_wrong = True
    if is_wrong:
        given = shown(setting, value) if typed is None else shown(setting, typed, as_typed=True)
        raise SettingsError(
            f"{setting.name}: {given} (from {source}) is not usable; expected {setting.expects}",
            setting=setting.name,
            source=source,
        )
    return checked


def _check_file(settings: Settings, name: str, path: str | None) -> None:
    if path is None or (file := Path(path)).is_file():
        return
    if file.is_dir():
        raise settings.error(name, f"{path} is a directory", "name a file")
    if file.exists():
        raise settings.error(name, f"{path} is not a regular file", "name one")
    raise settings.error(name, f"there is no file {path}", "check the path")


def _spelled(value: Any) -> str:
    """`value` as it is written in TOML."""
    if isinstance(value, bool | str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_spelled, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name} = {_spelled(item)}' for name, item in value.items())}}}"
    return str(value)


def _suggest(word: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f", did you mean {matches[0]}?" if matches else ""


def _expectation(kind: Any, meta: Meta) -> str:
    if kind is bool:
        return "true or false"
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(get_args(kind))
    if get_origin(kind) is tuple:
        return "a list of texts (in a variable or flag: separated by commas)"
    if kind == _KEY_TABLE:
        return "texts by key id, or the path of a TOML file with them"
    if kind is str:
        return "a text that is not empty" if meta.min_length else "a text"
    if kind == _SPEED:
        return "a number above 0, or max"
    text = "a whole number" if kind is int else "a number"
    if meta.gt is not None:
        return f"{text} above {meta.gt:g} and up to {meta.le:g}"
    return f"{text} from {meta.ge:.15g} to {meta.le:.15g}"


_HINTS: Final[dict[str, Any]] = get_type_hints(Settings, include_extras=True)


def _collect() -> dict[str, Setting]:
    settings = {}
    for field in msgspec.structs.fields(Settings):
        if field.name == "sources":
            continue
        kind, meta = get_args(_HINTS[field.name])
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
        )
    return settings


SETTINGS: Final[dict[str, Setting]] = _collect()
"""Every setting by name, in the order in which help and documentation show them."""
