"""What becomes of faults of ours in what the loop calls for the relay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog

from fastws.logs import log_limited

_log = structlog.get_logger("fastws.relay")


def log_failure() -> None:
    """Log the exception that is being handled."""
    log_limited(_log, "relay-failed", "the relay failed", level="error", exc_info=True)


def guarded(function: Callable[..., object], *arguments: Any) -> None:
    """Call `function`; its fault is logged, and is not the end of what calls it."""
    try:
        function(*arguments)
    except Exception:
        log_failure()
