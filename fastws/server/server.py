"""Puts a server together: hub, market, feed, alerts and listener, wired once."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import structlog

from fastws.auth import Authenticator, Callback
from fastws.errors import CloseCode
from fastws.feeds.base import Feed
from fastws.feeds.simulator import SimulatorFeed
from fastws.limits import Limits
from fastws.market.alert_messages import Alert
from fastws.market.alerts import AlertBook
from fastws.market.market import Market
from fastws.market.portfolio_queries import QueryError
from fastws.market.portfolio_reader import Reloaded
from fastws.market.portfolio_store import PortfolioStore
from fastws.market.portfolios import Portfolios
from fastws.market.store import StoreError
from fastws.server import cluster_stats, stats
from fastws.server.application import ApplicationClient
from fastws.server.conversations import Conversations, announce_shutdown
from fastws.server.demand import Demand
from fastws.server.departure import Departure
from fastws.server.drain import Drain
from fastws.server.feed_runner import FeedRunner
from fastws.server.fetch import fetch
from fastws.server.freshness_watch import FreshnessWatch
from fastws.server.handed import Handed
from fastws.server.joining import make_relay
from fastws.server.last_values import LastValues
from fastws.server.ledger import Ledger
from fastws.server.listener import Listener
from fastws.server.parts import load_instruments, make_feed, make_freshness, make_hub, make_store
from fastws.server.peers import Peers
from fastws.server.places import admin_places, main_places
from fastws.server.routes import make_admin_app, make_app
from fastws.server.shared import Shared
from fastws.server.shared_rules import SharedRules
from fastws.server.sources import Sources
from fastws.server.stored import (
    check_stored,
    claim,
    find_queries,
    query_error,
    take_instruments,
    warn_of_unknown,
)
from fastws.server.tls import make_tls
from fastws.server.users import Users
from fastws.server.workers import Worker
from fastws.settings import Settings
from fastws.settings_checks import check_standby, serves_tcp

if TYPE_CHECKING:
    from fastws._inlet import Inlet
    from fastws.server.predecessor import Predecessor

_log = structlog.get_logger("fastws")


class Server:
    """One fastws server on the running loop: hub, market, feed and listener.

    `start` and `stop` are called once each; `stop` drains: nothing new is accepted, the feed ends, what was
    published leaves, every client is told when to come back, and is closed with 1012.

    With a `worker` it is one of several that serve the same port, and whichever is asked answers for all; see
    `fastws.server.shared`.
    """

    def __init__(
        self,
        settings: Settings,
        worker: Worker | None = None,
        *,
        feed: Feed | None = None,
        handed: Handed | None = None,
        authenticator: Callback | None = None,
        listens: bool = True,
        predecessor: Predecessor | None = None,
    ) -> None:
        self.settings = settings
        self.worker = worker
        # Where extensions publish, once there is one.
        self.inlet: Inlet | None = None
        self.is_draining = False
        self.takes_updates = True
        # The process that served until now.
        self._predecessor = predecessor
        self._made_at = time.monotonic()
        self._stopped_by = math.inf
        check_standby(settings)
        self.hub = make_hub(settings)
        self.market = Market(self.hub, load_instruments(settings), book_history=settings.book_history)
        self.store = make_store(settings)
        self.alerts = AlertBook(
            self.store,
            self.market.instruments,
            self.tell,
            alerts_per_user=settings.alerts_per_user,
        )
        self.portfolios = Portfolios(
            self.market,
            PortfolioStore(self.store, find_queries(settings)),
            interval_ms=settings.portfolio_interval_ms,
            poll_interval=settings.portfolio_poll_interval,
        )
        self.market.on_price.append(self.alerts.on_price)
        is_owner = worker is None or worker.is_owner
        self.last_values = LastValues(
            self.market, self.store, interval=settings.save_interval, is_saving=is_owner
        )
        demand = Demand(self.hub, self.market, lambda: self.alerts.codes() | self.portfolios.codes())
        self.feed_runner = FeedRunner(
            make_feed(settings, self.market.instruments, demand.whole) if feed is None else feed, self.market
        )
        self._sources = Sources(self.feed_runner)
        # Called in a stop once the feed has ended: what publishes besides it publishes its last then.
        self.before_drain = self._sources.endings
        self.freshness = make_freshness(settings, self.market, is_quiet=self.feed_runner.is_quiet)
        self._freshness_watch = FreshnessWatch(self.freshness, self.feed_runner.supervisor)
        self._application = ApplicationClient()
        self.authenticator = Authenticator(
            settings, fetch=fetch, ask=self._application.ask, callback=authenticator
        )
        self.peers = Peers(settings.trusted_proxies)
        self.limits = Limits(
            connection_limit=settings.connection_limit,
            connections_per_ip=settings.connections_per_ip,
            handshake_rate=settings.handshake_rate,
            half_open_per_ip=settings.half_open_per_ip,
            elsewhere=None if worker is None else worker.elsewhere,
        )
        self.conversations = Conversations(
            settings, self.hub, self.market, self.portfolios, self.authenticator, self.limits
        )
        self.sessions = self.conversations.sessions
        self.admission = self.conversations.admission
        self.targets = self.conversations.targets
        self.screener = self.conversations.screener
        self.realtime = self.conversations.realtime
        self._users = Users(self.admission, self.alerts)
        # A socket that was handed over is wherever its owner has bound it.
        is_own = listens and not (handed is not None and handed.main) and serves_tcp(settings)
        self.relay = make_relay(
            settings,
            self.hub,
            self.market,
            self.screener.dialect,
            worker=worker,
            place=(settings.host, settings.port) if is_own else None,
            wanted=demand.own,
        )
        self._shared_rules: SharedRules | None = None
        if self.relay is not None:
            self.relay.meetings.figures = self._figures
            self.targets.elsewhere = self.relay
            demand.join(self.relay)
            self._shared_rules = SharedRules(self.relay, self.alerts)
            self._users.join(
                self.relay,
                # Workers that have no other relay are asked by whoever answers for all; see `together`.
                asks_others=worker is None or settings.relay is not None,
                sessions_bytes=settings.relay_sessions_bytes,
            )
            self.feed_runner.join(
                self.relay,
                rank=settings.feed_standby,
                patience=settings.feed_takeover,
                is_clustered=settings.relay is not None,
                is_owner=settings.relay is None and worker is None and predecessor is None,
                predecessor=predecessor,
            )
            if worker is not None:
                worker.on_ended = self.relay.meetings.end
        self.shared = None if worker is None else Shared(self, worker)
        self.tls = make_tls(settings)
        handed = handed or (Handed() if predecessor is None else predecessor.handed)
        admin = handed.admin or admin_places(settings)
        self.admin_listener = (
            None
            if not admin
            else Listener(
                make_admin_app(self, shared=self.shared),
                {},
                admin,
                tls=self.tls,
                handshake_timeout=settings.handshake_timeout,
            )
        )
        self.listener = Listener(
            make_app(
                self,
                websocket_paths=tuple(self.conversations.by_path),
                has_admin=not admin,
                shared=self.shared,
            ),
            self.conversations.by_path,
            main_places(settings, handed.main, handed.unix) if listens else (),
            tls=self.tls,
            handshake_timeout=settings.handshake_timeout,
            allowed_origins=settings.allowed_origins,
            compression=settings.compression,
            peers=self.peers,
            limits=self.limits,
        )
        self._departure = Departure(
            self.hub,
            tuple(filter(None, (self.listener, self.admin_listener))),
            self._sources,
            self.feed_runner,
            self.last_values,
            self.sessions,
        )
        if settings.upgrade_socket is not None:
            self._departure.end_keepalives()

    async def start(self) -> None:
        """Listen, then run the feed. If it fails or is cancelled, what had begun has ended again.

        Raises:
            SettingsError: naming the setting that turned out to be unusable, such as a port that is taken.
            StoreError: the database is not there, which may be another time.
        """
        async with AsyncExitStack() as begun:
            begun.callback(self.hub.stop)
            begun.push_async_callback(self._close_store)
            await self.store.open()
            await check_stored(self.store, self.settings)
            await self.alerts.load()
            self.admission.mail.claim_later(await self.alerts.untold(self.settings.session_ttl))
            # A file of symbols says what is to be played, and that is all.
            feed = None if self.settings.symbols_file is not None else self.feed_runner.feed
            await take_instruments(self.store, self.market, feed if isinstance(feed, SimulatorFeed) else None)
            if self.worker is None or self.worker.is_owner:
                claim(self.store, is_joined=self.settings.relay is not None or self._predecessor is not None)
            if self.store.is_in_memory or (
                self.worker is not None and self.worker.is_database_private and self.worker.is_owner
            ):
                _log.info(
                    "alerts and last values are kept in memory and end with this process; --database keeps them"
                )
            if n_restored := await self.last_values.restore():
                _log.info("last values are back, marked stale until newer ones come", values=n_restored)
            warn_of_unknown(self.alerts)
            # After the last values: the first sums are of those.
            try:
                await self.portfolios.load()
            except QueryError as error:
                raise query_error(self.settings, error) from None
            self.portfolios.start()
            begun.push_async_callback(self.portfolios.stop)
            self.hub.configure(history_size=self.settings.history_bytes)
            self.last_values.start()
            begun.push_async_callback(self._save_values)
            begun.push_async_callback(self._application.close)
            begun.callback(self.admission.credentials.close)
            self.authenticator.start()
            begun.push_async_callback(self.authenticator.close)
            if self.shared is not None:
                self.shared.start()
                begun.push_async_callback(self.shared.stop)
            if self.relay is not None:
                if self._shared_rules is not None:
                    self._shared_rules.start()
                    begun.push_async_callback(self._shared_rules.stop)
                # After what is of before the start, which is for nobody else.
                self.relay.start()
                begun.push_async_callback(self.relay.stop)
            if self._predecessor is not None:
                await self._predecessor.join(self)
            # First here and last to go: it tells how the start and the stop of the rest are coming on.
            if self.admin_listener is not None:
                await self.admin_listener.start()
                begun.push_async_callback(self.admin_listener.close)
            await self.listener.start()
            begun.push_async_callback(self.listener.close)
            self._freshness_watch.start()
            begun.push_async_callback(self._freshness_watch.stop)
            self.feed_runner.start()
            self._begun = begun.pop_all()

    async def stop(self) -> int:
        """Take everything down, losing no value that was published; see `Drain` for the clients.

        It takes `shutdown_timeout` at most, after `shutdown_delay`, in which only ``/ready`` has changed. Returns how
        many clients had to be cut off before they had taken everything. If it is cancelled, all clients are cut off at
        once, and the rest is taken down nevertheless.
        """
        self.is_draining = True
        try:
            n_cut = await self._drain()
        except BaseException:
            await self._cut_off()
            raise
        await self._take_down()
        return n_cut

    async def _drain(self) -> int:
        if not self._departure.is_under_way:
            await asyncio.sleep(self.settings.shutdown_delay)
        timeout = self.settings.shutdown_timeout
        began = time.monotonic()
        # A little before the process is given up for what does not end.
        self._stopped_by = began + 0.95 * timeout
        self.listener.stop_accepting()
        self.takes_updates = False
        # Nothing will come of any symbol, and clients have been told why.
        await self._freshness_watch.stop()
        await self._sources.end(timeout)
        await self.alerts.stop(timeout / 8)
        await self.portfolios.stop()
        # A quarter is left for what ends after the clients.
        return await Drain(
            self.hub,
            announce_shutdown,
            spread=self.settings.shutdown_spread,
            deadline=began + timeout * 3 / 4,
        ).run()

    async def _cut_off(self) -> None:
        """End what :meth:`_drain` has not ended, over the exception that has ended that: nothing goes on."""
        timeout = self.settings.shutdown_timeout
        self._stopped_by = min(self._stopped_by, time.monotonic() + 0.95 * timeout)
        self.listener.stop_accepting()
        self.takes_updates = False
        for connection in self.hub.connection_list():
            connection.abort(CloseCode.RESTART, CloseCode.RESTART.meaning)
        await self._sources.end(timeout)
        await self.alerts.stop(timeout / 8)
        await self._take_down()

    async def _take_down(self) -> None:
        try:
            async with asyncio.timeout(self._time_left()):
                await self._begun.aclose()
        except TimeoutError:
            _log.warning("the stop took too long, and not everything was taken down in order")

    async def hand_over(self, is_hurried: asyncio.Event) -> int:
        """Let clients go to another process, which serves at the same sockets already and is joined by the relay.

        Nothing is accepted here meanwhile, and the feed is given up to the other one. Clients go one after another
        within `shutdown_spread`, and hear until then what is published there. Returns when most sessions
        have followed their clients, or when `is_hurried` is set: how many clients were closed before they had taken
        everything. To follow is :meth:`let_go` with :meth:`stop`, which leaves the other sessions to the other
        process, or :meth:`take_back`.
        """
        self.is_draining = True
        return await self._departure.hand_over(
            is_hurried,
            stop_seconds=self.settings.shutdown_timeout,
            spread=self.settings.shutdown_spread,
        )

    def let_go(self) -> None:
        """Leave the places for good to the process that everything was handed over to."""
        self._departure.let_go()

    async def take_back(self) -> None:
        """Serve on after :meth:`hand_over`, for the other process is gone.

        What `before_drain` was to end has ended, and is the caller's to begin again.
        """
        self.is_draining = False
        await self._departure.take_back(stop_seconds=self.settings.shutdown_timeout)

    def _time_left(self) -> float:
        return max(0.0, self._stopped_by - time.monotonic())

    async def _save_values(self) -> None:
        # The rest is for closing the database.
        await self.last_values.stop(self._time_left() / 2)

    async def _close_store(self) -> None:
        try:
            await self.store.close(min(5.0, self._time_left()))
        except StoreError as error:
            _log.warning("the database was left behind", error=str(error))

    async def force_update(self, codes: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        """Poll symbols now, or have them polled by whoever runs the feed; see `FeedRunner.force_update`."""
        if self.shared is not None and not self.shared.is_owner:
            return await self.shared.force_update(codes)
        return await self.feed_runner.force_update(codes)

    async def hear(self, code: str) -> None:
        """Wait until what other instances have published of `code` is here; see `Relay.missing`."""
        missing = frozenset() if self.relay is None else self.relay.missing("stock", (code,))
        if self.relay is not None and missing:
            heard = asyncio.Event()
            self.relay.when_heard(missing, heard.set)
            await heard.wait()

    # What the HTTP routes read.

    @property
    def n_connections(self) -> int:
        return self.hub.n_connections

    @property
    def is_cut_off(self) -> bool:
        return self.settings.relay_in_ready and self.relay is not None and not self.relay.is_up

    @property
    def feeds(self) -> dict[str, str]:
        return self.market.feeds

    @property
    def last_update_ms(self) -> int | None:
        return self.market.last_update_ms

    def describe_freshness(self, code: str) -> dict[str, Any] | None:
        return self.freshness.describe(code, time.monotonic(), time.time())

    def stats(self) -> dict[str, Any]:
        """The body of ``/v1/ws/stats``."""
        relay = self.relay
        more: dict[str, Any] = {}
        if relay is not None and relay.sessions is not None:
            more["sessions_elsewhere"] = len(relay.sessions.known)
        if relay is not None and self.settings.relay is not None:
            more["relay"] = cluster_stats.relay_state(relay)
        return more | stats.totals(
            self.hub,
            self.market,
            self.sessions,
            self.listener,
            self.limits,
            freshness=self.freshness.counts,
            feed_roles=self.feed_runner.roles,
            uptime=time.monotonic() - self._made_at,
            is_draining=self.is_draining,
        )

    def cluster_stats(self) -> dict[str, Any]:
        """The body of ``/v1/ws/stats?scope=cluster``; the figures of others are up to a second old."""
        body, relay = self.stats(), self.relay
        own = cluster_stats.Instance(
            "this one" if relay is None else relay.name, cluster_stats.summable(body), self.feed_runner.roles
        )
        return cluster_stats.together(body, own, () if relay is None else cluster_stats.others(relay))

    @property
    def allow_anonymous(self) -> bool:
        return self.settings.allow_anonymous

    @property
    def force_update_interval(self) -> float:
        return self.settings.force_update_interval

    @property
    def allowed_origins(self) -> Collection[str]:
        return self.settings.allowed_origins

    @property
    def has_pages(self) -> bool:
        return self.settings.web_pages

    @property
    def is_session_based(self) -> bool:
        return self.authenticator.asks(None)

    @property
    def admin_token(self) -> str | None:
        return self.settings.admin_token

    def realtime_totals(self) -> dict[str, Any]:
        """The member `global_stats` of ``/realtime/status/``."""
        return stats.realtime_totals(self.hub, self.admission)

    def user_stats(self, user_key: str) -> dict[str, Any]:
        """The member `user_stats` of ``/realtime/status/``."""
        found = stats.user_stats(self.admission, user_key)
        if self.relay is not None and self.settings.relay is not None:
            found["connections_elsewhere"] = self.relay.sharing.n_connections(user_key)
        return found

    def connections(self, *, has_subscriptions: bool = True) -> Iterator[dict[str, Any]]:
        """The elements of ``/v1/ws/connections``."""
        return stats.connections(self.admission, has_subscriptions=has_subscriptions)

    async def encode_ledger(self, *, has_topics: bool, has_connections: bool) -> bytes:
        """The body of ``/v1/ws/ledger``."""
        ledger = Ledger(self.hub, self.admission.presence.by_id)
        return await ledger.encode(has_topics=has_topics, has_connections=has_connections)

    async def kick(
        self, *, user_id: str | None, jti: str | None, connection_id: str | None
    ) -> tuple[int, list[str]]:
        """Close connections with 4401, also those of other instances; see `Users.kick`."""
        return await self._users.kick(user_id=user_id, jti=jti, connection_id=connection_id)

    async def reload_portfolios(self, ids: Sequence[int] | None) -> Reloaded:
        """Read portfolios again; see `Portfolios.reload`."""
        done = await self.portfolios.reload(ids)
        _log.info(
            "portfolios were read again",
            asked_for=None if ids is None else len(ids),
            portfolios=done.n_portfolios,
            positions=done.n_positions,
            owners_changed=done.n_moved,
            left_out=len(done.left_out),
            seconds=round(done.seconds, 3),
        )
        return done

    def tell(self, user_key: str, alert: Alert) -> int:
        """Publish an alert to a user, wherever connected; see `Mail`. Returns its sequence here."""
        return self._users.tell(user_key, alert)

    def _figures(self) -> dict[str, int]:
        return cluster_stats.summable(self.stats())
