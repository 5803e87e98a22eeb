"""Log output: structlog for our own lines and those of the standard library, secrets removed, floods bounded.

Modules take a logger with ``structlog.get_logger("fastws.part")`` and give an event and fields. What repeats
with the number of clients or messages goes through :func:`log_limited`.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor

REMOVED: Final = "[removed]"

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

# Loggers that do not know the limiter; what a client does may be behind each of their lines.
_OTHERS: Final = frozenset({"aiohttp", "asyncio", "fastws.core", "py.warnings"})

# Fields whose whole value is a secret.
_SECRET_FIELDS: Final = frozenset(
    {
        "access_token",
        "admin_token",
        "app_key",
        "app_secret",
        "appkey",
        "appsecret",
        "approval_key",
        "authorization",
        "cookie",
        "jwt_keys",
        "jwt_previous_secret",
        "jwt_secret",
        "password",
        "secret",
        "secretkey",
        "session_id",
        "token",
    }
)

# Each pattern is linear: one anchor, then classes that exclude what ends them. The text may be an attacker's.
_SECRETS: Final = (
    # Authorization header, as a header line or as an item of a printed mapping.
    re.compile(
        r"(?i)(\bauthorization\b[\"']?\s{0,8}[:=,]\s{0,8}(?:b?[\"'])?)(?:(?:bearer|basic)\s{1,8})?[^\s\"',;]+"
    ),
    # "Bearer <token>" and the subprotocol "bearer.<token>".
    re.compile(r"(?i)(\bbearer(?:\.|\s{1,8}))[A-Za-z0-9._~+/=-]+"),
    # Query parameters, whatever stands before them.
    re.compile(r"(?i)((?:token|session_id|secret|password)(?:=|%3d))[^\s&#\"'<>;,]*"),
    # Members of JSON texts.
    re.compile(
        r"(?i)(\\?\"(?:[a-z_]*token|session_id|authorization|password|app_?key|app_?secret|secretkey|approval_key)"
        r"\\?\"\s{0,8}:\s{0,8}\\?\")[^\"\\]*"
    ),
    # A JWT, wherever it stands.
    re.compile(r"()\beyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]+\.?[A-Za-z0-9_-]*"),
)


_python: Final = logging.getLogger("python")

# In every line of this process.
_labels: Final[dict[str, object]] = {}


def label(**fields: object) -> None:
    """Let every line of this process from now on have `fields`."""
    _labels.update(fields)


def _add_labels(logger: object, method: str, event: EventDict) -> EventDict:
    """structlog processor."""
    for name, value in _labels.items():
        event.setdefault(name, value)
    return event


def redact_text(text: str) -> str:
    """Return `text` without tokens, session ids and credentials."""
    for pattern in _SECRETS:
        text = pattern.sub(rf"\g<1>{REMOVED}", text)
    return text


def redact(logger: object, method: str, event: EventDict) -> EventDict:
    """structlog processor: remove secrets from the event and every field, however deep."""
    for key, value in event.items():
        # The underscored entries belong to structlog and are taken out before anything is written.
        if not key.startswith("_"):
            event[key] = REMOVED if key.lower() in _SECRET_FIELDS else _redact_value(value, 6)
    return event


def _redact_value(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return redact_text(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if depth == 0:
        return redact_text(repr(value))
    if isinstance(value, dict):
        return {
            _redact_value(key, depth - 1): REMOVED
            if isinstance(key, str) and key.lower() in _SECRET_FIELDS
            else _redact_value(item, depth - 1)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_redact_value(item, depth - 1) for item in value]
    return redact_text(repr(value))


def escape_controls(logger: object, method: str, event: EventDict) -> EventDict:
    """structlog processor: keep what a client sent from moving a terminal's cursor or forging lines."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable() and key not in ("exception", "stack"):
            event[key] = "".join(char if char.isprintable() else repr(char)[1:-1] for char in value)
    return event


def configure(
    level: Literal["debug", "info", "warning", "error"] = "info",
    style: Literal["console", "json"] = "console",
    stream: TextIO | None = None,
) -> None:
    """Send every log line of this process to `stream` (default: standard error).

    `level` is the least important level written. `style` console is for people, coloured on a terminal; json
    writes one object per line with the keys timestamp (UTC), level, logger, event and the fields. Lines of
    the standard library (asyncio, aiohttp) take the same way. May be called again; the last call holds.
    """
    stream = sys.stderr if stream is None else stream
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        _add_labels,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderers: list[Processor] = (
        [structlog.processors.JSONRenderer()]
        if style == "json"
        else [
            escape_controls,
            structlog.dev.ConsoleRenderer(
                colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ]
    )
    handler = _Handler(stream)
    handler.addFilter(_is_within_limit)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                # Tracebacks become text first, so that secrets in them are removed as well.
                structlog.processors.format_exc_info,
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                redact,
                *renderers,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[level])
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def configure_embedded() -> None:
    """Hand log lines to `logging`, as text with the fields behind it: levels and handlers are the program's.

    For a server within another program. Does nothing where structlog is configured already, by the program or before.
    """
    if structlog.is_configured():
        return
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.processors.format_exc_info,
            redact,
            structlog.processors.KeyValueRenderer(key_order=["event"]),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


class _Handler(logging.StreamHandler[TextIO]):
    """Writes lines, and goes on when one cannot be written."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            return  # nobody reads the log, or its disk is full; the server has other things to do
        substitute = logging.LogRecord(
            record.name,
            logging.ERROR,
            record.pathname,
            record.lineno,
            "a log line cannot be written",
            (),
            None,
        )
        # Where it was written and why not, in the form of all the others; its text may be what is wrong with it.
        substitute.where, substitute.error = f"{record.pathname}:{record.lineno}", repr(error)
        self.stream.write(self.format(substitute) + self.terminator)
        self.flush()


def capture() -> None:
    """Let what Python itself prints to standard error go the way of log lines from now on.

    That is warnings, and exceptions that nobody has caught: in the main thread, in others, and in destructors.
    """
    logging.captureWarnings(True)
    sys.excepthook = _on_uncaught
    threading.excepthook = _on_uncaught_in_thread
    sys.unraisablehook = _on_unraisable


def _on_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    _python.critical("an exception was not caught", exc_info=error)


def _on_uncaught_in_thread(failure: threading.ExceptHookArgs) -> None:
    if failure.exc_type is not SystemExit:  # which ends a thread as intended
        name = None if failure.thread is None else failure.thread.name
        _python.error("an exception has ended the thread %s", name, exc_info=failure.exc_value)


def _on_unraisable(failure: sys.UnraisableHookArgs) -> None:
    _python.error("%s: %r", failure.err_msg or "ignored", failure.object, exc_info=failure.exc_value)


def _is_within_limit(record: logging.LogRecord) -> bool:
    """Let a line of others pass, or count it."""
    if record.name not in _OTHERS and record.name.partition(".")[0] not in _OTHERS:
        return True
    error = record.exc_info[0] if record.exc_info else None
    # What follows the first line of asyncio's names objects by their addresses.
    text = str(record.msg).partition("\n")[0]
    suppressed = limiter.take(f"{record.name} {error and error.__name__} {text[:100]}")
    if suppressed:
        record.suppressed = suppressed
    return suppressed is not None


class LogLimiter:
    """Writes at most one line per kind and interval, and says how many it left out.

    1. The first line of a kind is written at once.
    2. Lines of that kind within `interval` seconds after a written one are counted, not written.
    3. The next written line of that kind carries the count as `suppressed`; :meth:`flush` tells the rest.
    4. At most `max_kinds` kinds are told apart; all further ones share one, so memory is bounded even if a
       kind is mistakenly made from what a client sends.

    Not thread-safe; used from the loop's thread. `clock` returns seconds and is monotonic.
    """

    OTHER: Final = "other"

    def __init__(
        self, interval: float = 10.0, max_kinds: int = 256, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._interval = interval
        self._max_kinds = max_kinds
        self._clock = clock
        self._written: dict[str, float] = {}
        self._suppressed: dict[str, int] = {}

    def log(self, logger: Any, kind: str, event: str, *, level: str = "warning", **fields: Any) -> bool:
        """Write `event` with `fields` through `logger`, or count it; returns whether it was written."""
        suppressed = self.take(kind)
        if suppressed is None:
            return False
        if suppressed:
            fields["suppressed"] = suppressed
        getattr(logger, level)(event, **fields)
        return True

    def take(self, kind: str) -> int | None:
        """Count a line of `kind`. Returns None where it is not to be written, else how many were left out before."""
        now = self._clock()
        if kind not in self._written and len(self._written) >= self._max_kinds:
            kind = self.OTHER
        last = self._written.get(kind)
        if last is not None and now - last < self._interval:
            self._suppressed[kind] = self._suppressed.get(kind, 0) + 1
            return None
        self._written[kind] = now
        return self._suppressed.pop(kind, 0)

    def flush(self, logger: Any) -> None:
        """Write one line for each kind with lines that were only counted, as at the end of the process."""
        for kind, count in sorted(self._suppressed.items()):
            logger.warning("log lines were left out", kind=kind, suppressed=count)
        self._suppressed.clear()


limiter: Final = LogLimiter()
"""The limiter of the process."""


def log_limited(logger: Any, kind: str, event: str, *, level: str = "warning", **fields: Any) -> bool:
    """Write through the limiter of the process; see :meth:`LogLimiter.log`."""
    return limiter.log(logger, kind, event, level=level, **fields)
