"""fastws inside another Python program, and other code inside fastws: `Server`, `Hub`, and what ``--load`` names.

    async with fastws.Server(port=8000) as server:
        server.hub.publish_price("005930", 71500, volume=1234567)

The loop is the caller's: uvloop, asyncio's own, or that of an application that serves something else beside. C
extensions take `Server` or `Hub` for `fastws_hub_from_object`; see include/fastws.h.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec
import structlog

from fastws import configuration, logs
from fastws._inlet import Inlet
from fastws._market import BookUpdate, MarketStatus, PriceUpdate
from fastws.dialects.own_requests import OwnRequests
from fastws.errors import SettingsError
from fastws.feeds.lines import decode_body
from fastws.market.instruments import MAX_INSTRUMENTS
from fastws.server import server as inner
from fastws.server.mounting import add_to_aiohttp, check_prefix, uvicorn_protocol
from fastws.settings import SETTINGS

if TYPE_CHECKING:
    from types import TracebackType

    from aiohttp import web

    from fastws._market import Instrument
    from fastws._rings import BookRing
    from fastws.auth import Callback
    from fastws.dialects.own_requests import Handler
    from fastws.feeds.base import Feed
    from fastws.server.listener import Listener
    from fastws.settings import Settings

MAX_WAITING: Final = 65_536
"""Updates of `Hub.publish_threadsafe` that may wait for the loop."""

Update = PriceUpdate | BookUpdate | MarketStatus
Ending = Callable[[], Awaitable[None] | None]

_log = structlog.get_logger("fastws")


class Hub:
    """Publishes into a server, and reads what was published last.

    All of it belongs to the thread of the server's loop, but for `publish_threadsafe` and `make_price`. Numbers are as
    in `fastws.PriceUpdate`: int, Decimal, float or text, and their digits are kept.
    """

    def __init__(self, server: inner.Server) -> None:
        self._server = server
        self._market = server.market
        self._inlet: Inlet | None = None
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._waiting: deque[Update] = deque()
        self._is_called = False
        self._is_closed = False
        server.before_drain.append(self._close)

    # Publishing.

    def publish_price(self, code: str, price: Any, **members: Any) -> int:
        """Publish a price; return its sequence. `members` are those of `fastws.PriceUpdate`: change, volume, venue, …

        Raises:
            ValueError: naming the field; or there are as many instruments as a server takes.
            RuntimeError: the server has ended, or this is not the thread of its loop; see `publish_threadsafe`.
        """
        return self.publish(self.make_price(code, price, **members))

    def publish_book(
        self, code: str, bids: Iterable[tuple[Any, Any]], asks: Iterable[tuple[Any, Any]], **members: Any
    ) -> int:
        """Publish a whole order book, pairs of price and quantity, best first; see `publish_price`."""
        return self.publish(BookUpdate(self._instrument(code), bids, asks, **members))

    def publish_status(self, market: str, status: str) -> int:
        """Publish the trading status of a market, such as ``("KOSPI", "open")``; return its sequence."""
        return self.publish(MarketStatus(market, status))

    def publish_json(self, data: bytes) -> int:
        """Publish an object in JSON text as POST /v1/publish takes it, but for alerts; return its sequence.

        Raises:
            ValueError: it cannot be read.
            RuntimeError: the server has ended.
        """
        try:
            update = decode_body(msgspec.json.format(data, indent=-1), self._instrument)
        except msgspec.DecodeError as error:
            raise ValueError(f"expected an object as JSON: {error}") from None
        if update is None:
            raise ValueError("type: missing")
        return self.publish(update)

    def publish(self, update: Update) -> int:
        """Publish a value; return its sequence.

        Raises:
            RuntimeError: the server has ended, or this is not the thread of its loop.
        """
        if self._is_closed:
            raise RuntimeError("the server has ended")
        # It would seem to work, and sooner or later lose updates or end the process.
        if threading.get_ident() != self._thread:
            raise RuntimeError(
                "publishing belongs to the thread of the server's loop; from another one use "
                "hub.publish_threadsafe(hub.make_price(…))"
            )
        if isinstance(update, PriceUpdate):
            return self._market.publish_price(update)
        if isinstance(update, BookUpdate):
            return self._market.publish_book(update)
        return self._market.publish_status(update)

    def make_price(self, code: str, price: Any, **members: Any) -> PriceUpdate:
        """Make a price for `publish` or `publish_threadsafe`. Any thread."""
        return PriceUpdate(self._instrument(code), price, **members)

    def publish_threadsafe(self, update: Update) -> bool:
        """Publish a value from any thread, in the order of the calls of each; returns at once.

        Returns:
            False when it was not taken: `MAX_WAITING` wait already, or the server has ended.

        Raises:
            TypeError: it is no update; whoever calls hears it, not the loop.
        """
        if not isinstance(update, Update):
            raise TypeError(
                f"expected a PriceUpdate, BookUpdate or MarketStatus, not {type(update).__name__}"
            )
        if self._is_closed or len(self._waiting) >= MAX_WAITING:
            return False
        self._waiting.append(update)
        # One wake-up for all that come until the loop is there. Two threads may both call: the second finds nothing.
        if not self._is_called:
            self._is_called = True
            self._loop.call_soon_threadsafe(self._publish_waiting)
        return True

    def _publish_waiting(self) -> None:
        self._is_called = False
        # Those that come meanwhile have called again.
        for _ in range(len(self._waiting)):
            self.publish(self._waiting.popleft())

    def _instrument(self, code: str) -> Instrument:
        market = self._market
        known = market.instrument(code)
        if known is None and len(market.instruments) >= MAX_INSTRUMENTS:
            raise ValueError(f"code: {code} is new, and there may be {MAX_INSTRUMENTS} instruments")
        return market.ensure_instrument(code) if known is None else known

    # Being asked.

    def answer(self, kind: str, handler: Handler) -> None:
        """Have messages of type `kind`, which ``/v1/ws`` does not have, answered by ``handler(caller, message)``.

        See `fastws.dialects.own_requests.Handler` for what it gets, returns and raises.

        Raises:
            ValueError: ``/v1/ws`` has that type, or it is taken.
        """
        screener = self._server.screener
        if screener.own_requests is None:
            screener.own_requests = OwnRequests()
        screener.own_requests.add(kind, handler)

    # Reading.

    def last_price(self, code: str) -> PriceUpdate | None:
        """Return the last price of `code`, or None before its first."""
        return self._market.last_price(code)

    def last_book(self, code: str) -> BookUpdate | None:
        """Return the last order book of `code`, or None before its first."""
        return self._market.last_book(code)

    def books(self, code: str) -> BookRing | None:
        """Return the ring of the last books of `code`, whose numpy views see each new one; None before its first."""
        return self._market.book_ring(code)

    def subscriber_count(self, kind: str, name: str) -> int:
        """How many connections hold a subscription to a stock, market or sector."""
        topic = self._server.hub.find_topic(kind, name)
        return 0 if topic is None else topic.n_subscribers

    # C extensions.

    @property
    def __fastws_inlet__(self) -> Inlet:
        """Where C extensions publish; made when the first one asks."""
        if self._inlet is None:
            if self._is_closed:
                raise RuntimeError("the server has ended")
            self._inlet = Inlet(
                self._loop,
                self._market,
                publish_json=self.publish_json,
                on_rejected=_log_rejected,
                size=self._server.settings.inlet_bytes,
            )
            self._server.inlet = self._inlet
        return self._inlet

    def _close(self) -> None:
        """Publish what waits, and take nothing more."""
        self._publish_waiting()
        if self._inlet is not None and (n_left := self._inlet.close()):
            _log.warning("publications of extensions were left undelivered", publications=n_left)
        self._is_closed = True


def _log_rejected(error: Exception) -> None:
    logs.log_limited(
        _log, "inlet", "a publication of an extension cannot be published", error=str(error)[:200]
    )


class Server:
    """A server on the running loop, for ``async with``; it listens once that is entered, and drains when it is left.

    `settings` are by their names as in the configuration; the environment is not read, and a file only where `config`
    names one. `feed` is the setting of that name, or a `fastws.Feed` in its place. `authenticator` says who a client
    is, in the place of the setting `auth_url` and bounded by those that begin with `auth_`; see
    `fastws.auth.Callback`. Log lines go to `logging`, under "fastws"; `log_level` and `log_format` say nothing.

    Raises:
        SettingsError: naming the setting and what to do; on entering also for a port that is taken.
    """

    def __init__(
        self,
        *,
        config: str | None = None,
        feed: Feed | str | None = None,
        authenticator: Callback | None = None,
        **settings: Any,
    ) -> None:
        if isinstance(feed, str):
            settings["feed"], feed = feed, None
        unknown = settings.keys() - SETTINGS.keys()
        if unknown:
            name = min(unknown)
            raise SettingsError(f"{name}: there is no such setting", setting=name)
        logs.configure_embedded()
        self.settings: Settings = configuration.load(config, {}, settings, are_keywords=True)
        if self.settings.workers > 1:
            raise SettingsError(
                "workers: an embedded server is one process; fastws serve has several", setting="workers"
            )
        if self.settings.upgrade_socket is not None:
            raise SettingsError(
                "upgrade_socket: an embedded server ends with its program; fastws serve can be taken over",
                setting="upgrade_socket",
            )
        if authenticator is not None:
            _check_authenticator(authenticator, self.settings)
        self._feed = feed
        self._authenticator = authenticator
        self._is_mounted = False
        self._is_up = False
        self._inner: inner.Server | None = None
        self._hub: Hub | None = None

    async def __aenter__(self) -> Self:
        if self._inner is not None:
            raise RuntimeError("a Server is entered once; make another one")
        self._inner = inner.Server(
            self.settings,
            feed=self._feed,
            authenticator=self._authenticator,
            listens=not self._is_mounted,
        )
        self._hub = Hub(self._inner)
        await self._inner.start()
        self._is_up = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._inner is not None:
            await self._inner.stop()
            self._is_up = False

    def mount(self, app: web.Application, prefix: str = "/") -> None:
        """Serve at a path of an aiohttp application in the place of a port, from its startup to its cleanup.

        All that a server of its own has is below `prefix`: WebSockets, endpoints, pages. With ``/`` it is what the
        application has no route for. The application's middlewares are around all of it.

        Raises:
            ValueError: `prefix` is no path.
            RuntimeError: the application has started, or the server has been entered.
        """
        add_to_aiohttp(app, self._begin_mounting(prefix), self._find_listener)

        async def life(app: web.Application) -> AsyncIterator[None]:
            async with self:
                yield

        app.cleanup_ctx.append(life)

    def for_uvicorn(self, prefix: str = "/") -> Callable[..., asyncio.Protocol]:
        """Return what uvicorn takes as `ws`, to open WebSockets at a path of its port in the place of one of one's own.

        ``/v1/ws`` below `prefix` and the other WebSocket path are fastws's, while the server is entered, as in the
        application's lifespan; others are the application's, as without this. HTTP is the application's altogether.

        Raises:
            ValueError: `prefix` is no path.
            RuntimeError: the server has been entered.
        """
        return uvicorn_protocol(self._begin_mounting(prefix), self._find_listener)

    def _begin_mounting(self, prefix: str) -> str:
        if self._inner is not None:
            raise RuntimeError("the server runs already; mount it before it is entered")
        self._is_mounted = True
        return check_prefix(prefix)

    def _find_listener(self) -> Listener | None:
        return None if self._inner is None or not self._is_up else self._inner.listener

    @property
    def hub(self) -> Hub:
        """Raises RuntimeError before the server is entered."""
        if self._hub is None:
            raise RuntimeError("the server does not run yet: async with fastws.Server(…) as server")
        return self._hub

    @property
    def __fastws_inlet__(self) -> Inlet:
        return self.hub.__fastws_inlet__

    @property
    def url(self) -> str:
        """``ws://HOST:PORT/v1/ws``, with the port that it got."""
        return f"ws{self._base()}/v1/ws"

    @property
    def http_url(self) -> str:
        """What paths such as ``/health`` are appended to."""
        return f"http{self._base()}"

    def _base(self) -> str:
        if self._inner is None or not self._inner.listener.addresses:
            raise RuntimeError("the server does not listen to a port of its own")
        host, port = self._inner.listener.addresses[0]
        return f"{'s' if self._inner.listener.is_tls else ''}://{f'[{host}]' if ':' in host else host}:{port}"

    def stats(self) -> Mapping[str, Any]:
        """The body of ``/v1/ws/stats``."""
        if self._inner is None:
            raise RuntimeError("the server does not run yet: async with fastws.Server(…) as server")
        return self._inner.stats()


def _check_authenticator(authenticator: object, settings: Settings) -> None:
    if not callable(authenticator):
        raise SettingsError(
            f"authenticator: expected a function that is called with a request, not {type(authenticator).__name__}",
            setting="authenticator",
        )
    try:
        inspect.signature(authenticator).bind(None)
    except TypeError as error:
        raise SettingsError(
            f"authenticator: it has to take one argument, the request: {error}", setting="authenticator"
        ) from None
    except ValueError:
        pass  # it does not tell what it takes
    if settings.auth_url is not None:
        raise settings.error(
            "auth_url", "there is an authenticator, which says the same", "leave one of them out"
        )
    if "*" in settings.allowed_origins:
        raise settings.error(
            "allowed_origins",
            "with * any page that a user opens could connect with the user's cookies, which the authenticator gets",
            "name the origins of the pages that may",
        )


async def load(server: inner.Server) -> None:
    """Call what the setting `load` names with the hub of `server`: ``setup(hub)``, plain or async.

    What it returns, if anything, is called when the server stops, before its clients are told: plain or async, too.

    Raises:
        SettingsError: there is no such function, or it raises.
    """
    spec = server.settings.load
    if spec is None:
        return
    name, _, attribute = spec.partition(":")
    # As with python -m, whatever the program was started by.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        setup = getattr(importlib.import_module(name), attribute)
    except (ImportError, AttributeError) as error:
        raise server.settings.error(
            "load", str(error), "name a function of a module that Python finds, such as my_feed:setup"
        ) from error
    ending = setup(Hub(server))
    if inspect.isawaitable(ending):
        ending = await ending
    if ending is not None:
        if not callable(ending):
            raise server.settings.error(
                "load", f"{spec} has returned {ending!r}", "return None, or what is to be called at the stop"
            )
        # Before the hub is closed, which takes what it publishes last.
        server.before_drain.insert(0, ending)
    _log.info("loaded", load=spec)
