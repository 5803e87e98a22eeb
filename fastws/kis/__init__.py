"""The real-time feed of KIS (Korea Investment & Securities)."""

from fastws.kis.auth import KISAuthManager
from fastws.kis.connection import KISConnection
from fastws.kis.errors import (
    KISCallbackError,
    KISConnectionError,
    KISCredentialsError,
    KISError,
    KISInUseError,
    KISOverflowError,
    KISSubscriptionError,
    KISTokenLimitError,
)
from fastws.kis.events import Timing
from fastws.kis.handler import KISWebSocketHandler
from fastws.kis.registrations import Limits, Registrations
from fastws.kis.volume import Gap

__all__ = [
    "Gap",
    "KISAuthManager",
    "KISCallbackError",
    "KISConnection",
    "KISConnectionError",
    "KISCredentialsError",
    "KISError",
    "KISInUseError",
    "KISOverflowError",
    "KISSubscriptionError",
    "KISTokenLimitError",
    "KISWebSocketHandler",
    "Limits",
    "Registrations",
    "Timing",
]
