"""The fake KIS server: both hosts of KIS on one port, with its rules, its market and whatever is to go wrong."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import time
from collections.abc import Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Any, Final, Self

import structlog
from aiohttp import web

from fastws._market import Instrument
from fastws.kis.testing import actions, records, replies
from fastws.kis.testing.actions import Action
from fastws.kis.testing.control import Control
from fastws.kis.testing.credentials import Credentials
from fastws.kis.testing.discipline import Discipline
from fastws.kis.testing.faults import Faults
from fastws.kis.testing.journal import Journal, SessionEntry
from fastws.kis.testing.market import FakeMarket, phase_at
from fastws.kis.testing.performer import Performer, read_fields
from fastws.kis.testing.replies import KST, Registration
from fastws.kis.testing.rest import Rest
from fastws.kis.testing.script import Script
from fastws.kis.testing.session import Session
from fastws.kis.testing.settings import EXAMPLE_HTS_ID, FakeSettings, changed
from fastws.market.instruments import Instruments

_TICK_S: Final = 0.01
_MAX_TICK_S: Final = 0.1
_MAX_CATCH_UP_S: Final = 1.0
_SLICE: Final = 256  # records between two turns of the loop
_MAX_MESSAGE_SIZE: Final = 1 << 16

_log = structlog.get_logger("fastws.kis.testing")


class FakeKIS:
    """A KIS server on a port of this machine, for programs that are developed or tested against it.

    ::

        async with FakeKIS(rate=200.0) as kis:
            os.environ.update(kis.variables())
            ...
            kis.do("drop")
            kis.do("answer", code="OPSP8996", times=2)
            assert kis.journal.max_registrations() <= 41

    `settings` are given as :class:`FakeSettings` or as keywords. `script` adds its settings under these and its
    steps. `instruments` are the symbols that the market has from the start (default: those of fastws); any other
    code is made up when it is asked for. Port 0 is a free one.

    1. Everything is done in the event loop in which it was started; nothing here is thread-safe.
    2. It never raises for what a client does. What KIS would refuse is refused as KIS does; what KIS forbids is in
       `journal.violations`, and whoever keeps on is blocked for `block_seconds`.
    3. :meth:`do` is what scripts and the control endpoint call, too: all three can do the same.
    """

    def __init__(
        self,
        settings: FakeSettings | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        script: Script | None = None,
        instruments: Iterable[Instrument] | None = None,
        **values: Any,
    ) -> None:
        """Raises ScriptError for a setting that is unknown or of no use."""
        given = {} if settings is None else _differing(settings)
        self.settings = changed(FakeSettings(), {**(script.settings if script else {}), **given, **values})
        self.host = host
        self.port = port
        self.journal = Journal()
        self.credentials = Credentials()
        self.discipline = Discipline(self.journal, self.credentials, self._on_blocked)
        self.faults = Faults()
        self.sessions: list[Session] = []
        self.last_registered: float | None = None
        table = Instruments.load_default() if instruments is None else instruments
        self.market = FakeMarket(table, self.settings, self._emit)
        self.performer = Performer(self, script.steps if script else ())
        self._receivers: dict[Registration, list[Session]] = {}
        self._n_sessions = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._started = time.monotonic()
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None

    # Life

    async def start(self) -> None:
        """Listen; `port`, `rest_url` and `ws_url` hold from then on. Raises OSError where that is not possible."""
        app = web.Application()
        Rest(self).add_routes(app.router)
        Control(self).add_routes(app.router)
        for path in ("/", "/tryitout", "/tryitout/{tr_id}"):
            app.router.add_get(path, self._serve_socket)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        self._started = time.monotonic()
        try:
            await self._listen(self._runner)
        except OSError:
            await self._runner.cleanup()
            raise
        self.set({"phase": self.settings.phase})
        self.run(self._run_market())
        self.performer.start()

    async def stop(self) -> None:
        """Cut all connections and stop listening."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for session in list(self.sessions):
            session.cut("the server stops")
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def _listen(self, runner: web.AppRunner) -> None:
        site = web.TCPSite(runner, self.host, self.port, reuse_address=True)
        await site.start()
        self._site, self.port = site, site.port

    async def refuse_connections(self, seconds: float) -> None:
        """Do not listen for so long."""
        site, self._site = self._site, None
        if site is None or self._runner is None:
            return  # it does not listen as it is
        await site.stop()
        await asyncio.sleep(seconds)
        await self._listen(self._runner)

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something in the background, at most until the server stops."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("the fake KIS server has failed at something", exc_info=error)

    # What a user needs

    @property
    def rest_url(self) -> str:
        return f"http://{self._shown_host}:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://{self._shown_host}:{self.port}"

    @property
    def _shown_host(self) -> str:
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::", "") else self.host  # noqa: S104
        return f"[{host}]" if ":" in host else host

    @property
    def app_key(self) -> str:
        """The first app key."""
        return next(iter(self.settings.app_keys), "")

    @property
    def app_secret(self) -> str:
        """Its secret."""
        return next(iter(self.settings.app_keys.values()), "")

    def variables(self) -> dict[str, str]:
        """The environment variables with which a client of KIS connects here."""
        return {
            "KIS_REST_URL": self.rest_url,
            "KIS_WS_URL": self.ws_url,
            "KIS_APP_KEY": self.app_key,
            "KIS_APP_SECRET": self.app_secret,
            "KIS_HTS_ID": EXAMPLE_HTS_ID,
            "KIS_PAPER": "1" if self.settings.environment == "paper" else "0",
        }

    def now(self) -> float:
        """Seconds since the start: the times of the journal."""
        return time.monotonic() - self._started

    def do(self, action: Action | Mapping[str, Any] | str, /, **fields: Any) -> int:
        """Do something: ``do("drop")``, ``do("answer", code="OPSP8996")``, ``do({"do": "drop"})``.

        Returns how many sessions, registrations, messages or keys it concerned; 0 for faults, which wait to be met.
        Raises ScriptError that begins with the field that is wrong. See :mod:`fastws.kis.testing.actions`.
        """
        return self.performer.perform(read_fields(action, fields))

    def set(self, values: dict[str, Any]) -> None:
        """Change settings. Raises ScriptError naming the one that is wrong."""
        self.settings = changed(self.settings, values)
        self.market.use(self.settings)
        if "phase" in values:
            self._follow_phase()

    def state(self) -> dict[str, Any]:
        """What is going on, for people and tests."""
        now = self.now()
        return {
            "time": now,
            "phase": self.market.phase,
            "rest_url": self.rest_url,
            "ws_url": self.ws_url,
            "sessions": [session.state() for session in self.sessions],
            "faults": self.faults.standing(now),
            "blocked": self.credentials.blocked(now),
            "journal": self.journal.summary(),
        }

    # The market

    async def _run_market(self) -> None:
        credit, last = 0.0, self.now()
        while True:
            rate = self.settings.rate
            await asyncio.sleep(min(_MAX_TICK_S, max(_TICK_S, 1.0 / rate)))
            self._follow_phase()
            now = self.now()
            credit = min(credit + (now - last) * rate, rate * _MAX_CATCH_UP_S + 1.0)
            last = now
            if self.settings.market == "none":
                credit = 0.0
            while credit >= 1.0:
                n = min(int(credit), _SLICE)
                # A step may make several records: what is ahead of the rate is made up for later.
                credit -= max(n, self.market.advance(n, time.time()))
                await asyncio.sleep(0.0)

    def _follow_phase(self) -> None:
        phase: str = self.settings.phase
        if phase == "clock":
            phase = phase_at(datetime.datetime.now(KST))
        if phase != self.market.phase:
            self.market.enter(phase)

    def _emit(self, tr_id: str, code: str, made: list[str]) -> int:
        frame = replies.frame(tr_id, len(made), "^".join(made).encode())
        return self.deliver((tr_id, code), frame, len(made))

    def deliver(self, registration: Registration, frame: bytes, n_records: int) -> int:
        """Send a frame to whom has registered it, with any key where that of `registration` is ""."""
        if registration[1]:
            sessions = self._receivers.get(registration)
            if sessions is None:
                return 0
            targets = [(session, registration) for session in sessions]
        else:
            targets = [
                (session, held)
                for held, sessions in self._receivers.items()
                if held[0] == registration[0]
                for session in sessions
            ]
        return sum(session.send_data(held, frame, n_records) for session, held in targets)

    def add(self, session: Session, registration: Registration) -> None:
        """A session has registered something."""
        self.last_registered = self.now()
        self._receivers.setdefault(registration, []).append(session)
        if registration[0] in records.USUAL_WIDTHS:
            self.market.want(*registration)

    def remove(self, session: Session, registration: Registration) -> None:
        """A registration of a session has ended."""
        receivers = self._receivers[registration]
        receivers.remove(session)
        if not receivers:
            del self._receivers[registration]
            self.market.unwant(*registration)

    # Sessions

    async def _serve_socket(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() != "websocket":
            return web.Response(
                text="The fake KIS server. Connect a WebSocket here; /_fake tells what goes on.\n"
            )
        now = self.now()
        if self.faults.take(actions.HangUpgrade, now) is not None:
            with contextlib.suppress(asyncio.CancelledError):  # the client has given up, or the server stops
                await asyncio.Event().wait()
            return web.Response(status=503)
        refused = self.faults.take(actions.RefuseUpgrade, now)
        if refused is not None:
            return web.Response(status=refused.status, text="refused by a fault\n")
        socket = web.WebSocketResponse(
            timeout=1.0, autoping=False, compress=False, max_msg_size=_MAX_MESSAGE_SIZE
        )
        await socket.prepare(request)
        transport = request.transport
        if transport is None:
            return socket  # the client has gone meanwhile
        self._n_sessions += 1
        entry = SessionEntry(
            number=self._n_sessions, address=str(request.remote), path=request.path, opened_at=now
        )
        self.journal.sessions.append(entry)
        session = Session(self, socket, transport, entry)
        self.sessions.append(session)
        try:
            self.performer.on_session(session)
            await session.run()
        finally:
            self.sessions.remove(session)
            for registration in session.registered:
                self.remove(session, registration)
            session.registered.clear()
            self.discipline.leave(self.settings, entry, self.now())
        return socket

    def _on_blocked(self, app_key: str, seconds: float) -> None:
        _log.warning("app key blocked", app_key=app_key, seconds=seconds)
        for session in list(self.sessions):
            if session.app_key == app_key:
                session.cut("the app key is blocked")

    def unavailable(self, tr_id: str) -> str:
        """The message code that a registration gets in this environment, "" when it may be made."""
        settings = self.settings
        if tr_id == ("H0STCNI9" if settings.environment == "real" else "H0STCNI0"):
            return "OPSP8991"
        is_unified = tr_id[2:4] in ("NX", "UN")
        if settings.environment == "paper" and is_unified and settings.paper_unified == "refuse":
            return "OPSP8991"
        return ""

    def is_silent_tr(self, tr_id: str) -> bool:
        """Whether this environment acknowledges a registration and has no data for it."""
        settings = self.settings
        return (
            settings.environment == "paper"
            and tr_id[2:4] in ("NX", "UN")
            and settings.paper_unified == "silent"
        )


def _differing(settings: FakeSettings) -> dict[str, Any]:
    """What is not as it is by default: only that overrides a script."""
    usual = FakeSettings()
    names = FakeSettings.__struct_fields__
    return {
        name: getattr(settings, name) for name in names if getattr(settings, name) != getattr(usual, name)
    }
