"""One WebSocket connection of a client."""

from __future__ import annotations

import asyncio
import datetime
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from aiohttp import WSMsgType, web

from fastws.kis.testing import actions, notices, replies
from fastws.kis.testing.journal import RequestEntry, SessionEntry
from fastws.kis.testing.replies import Keepalive, Refusal, Registration, Request

if TYPE_CHECKING:
    from fastws.kis.testing.server import FakeKIS

_MAX_QUEUE_SIZE: Final = 64 << 20
_LOOK_S: Final = 0.25  # how soon a change of the settings is noticed
_POSTPONED_S: Final = 10.0  # the server's PINGPONG after one of the client


class _Registered:
    """State of a registration."""

    __slots__ = ("is_muted", "n_frames")

    def __init__(self, is_muted: bool) -> None:
        self.is_muted = is_muted
        self.n_frames = 0


class Session:
    """Answers requests and sends what is registered, until either side or the network ends it.

    1. Nothing but the upgrade is needed to connect. The first request with a valid approval key takes the slot of
       its app key; when the slot is taken, the answer is OPSP8996 and a close.
    2. All that is sent goes through one queue, so its order is the order of events.
    3. A silent session reads and does nothing else; what it would have sent is lost, not late.
    """

    def __init__(
        self,
        server: FakeKIS,
        socket: web.WebSocketResponse,
        transport: asyncio.Transport,
        entry: SessionEntry,
    ) -> None:
        self._server = server
        self._socket = socket
        self._transport = transport
        self.entry = entry
        self.registered: dict[Registration, _Registered] = {}
        self._ciphers: dict[str, tuple[str, str]] = {}
        self._queue: deque[bytes | tuple[int, str]] = deque()
        self._queue_size = 0
        self._wake = asyncio.Event()
        self._silent_until = 0.0
        self._last_request: float | None = None
        self._last_sent = server.now()
        self._last_pingpong = server.now()
        self._pingpong_not_before = 0.0
        self._unanswered: dict[bytes, float] = {}
        self._held: list[bytes] = []
        self._hold: actions.ReorderAcks | None = None
        self._after_data: dict[Registration, list[bytes]] = {}
        self.is_over = False

    @property
    def app_key(self) -> str:
        return self.entry.app_key

    async def run(self) -> None:
        """Serve the connection to its end."""
        helpers = [asyncio.create_task(self._send_queue()), asyncio.create_task(self._keep_alive())]
        try:
            while not self.is_over:
                message = await self._socket.receive()
                if message.type is WSMsgType.TEXT:
                    self._on_text(message.data)
                elif message.type is WSMsgType.PING:
                    await self._on_ping(message.data)
                elif message.type is WSMsgType.PONG:
                    self._on_reply(bytes(message.data), is_frame=True)
                elif message.type is WSMsgType.BINARY:
                    self._refuse(Refusal("OPSP9999"))
                else:
                    break
        finally:
            self.is_over = True
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            self._note_end()

    def _note_end(self) -> None:
        entry = self.entry
        entry.closed_at = self._server.now()
        if not entry.closed_by:
            code = self._socket.close_code
            is_closed = code is not None and code != 1006
            entry.closed_by, entry.close_code = ("client", code) if is_closed else ("network", None)
        entry.n_registrations = 0

    # Ends

    def cut(self, reason: str) -> None:
        """End the TCP connection, without a close frame."""
        if not self.entry.closed_by:
            self.entry.closed_by, self.entry.reason = "server", reason
        self.is_over = True
        self._transport.abort()

    def close(self, code: int, text: str, reason: str) -> None:
        """Send what is queued, then a close frame."""
        if not self.entry.closed_by:
            self.entry.closed_by, self.entry.close_code, self.entry.reason = "server", code, reason
        self._queue.append((code, text))
        self._wake.set()

    def fall_silent(self, seconds: float | None) -> None:
        self._silent_until = float("inf") if seconds is None else self._server.now() + seconds

    def heal(self) -> None:
        """End its silence and its mutes, and send the answers that are held back."""
        self._silent_until = 0.0
        for state in self.registered.values():
            state.is_muted = False
        self._release_acks()

    @property
    def is_silent(self) -> bool:
        return self._server.now() < self._silent_until

    # Sending

    def send(self, message: bytes) -> None:
        if self.is_over or self.is_silent:
            return
        self._queue.append(message)
        self._queue_size += len(message)
        self._last_sent = self._server.now()
        self._wake.set()
        if self._queue_size > _MAX_QUEUE_SIZE:
            self._note("slow_reader")
            self.cut("the client did not read")

    def send_data(self, registration: Registration, frame: bytes, n_records: int) -> bool:
        """Send a frame of a registration; returns whether it went out."""
        state = self.registered.get(registration)
        if state is None or state.is_muted or self.is_over or self.is_silent:
            return False
        state.n_frames += 1
        self.entry.n_frames += 1
        self.entry.n_records += n_records
        self.send(frame)
        for ack in self._after_data.pop(registration, ()):
            self.send(ack)
        self._server.performer.on_data(self)
        return True

    def send_notice(self, registration: Registration, text: str, *, is_damaged: bool) -> bool:
        key, iv = self._cipher(registration[0])
        payload = notices.encrypt(text, notices.new_key() if is_damaged else key, iv)
        return self.send_data(registration, replies.frame(registration[0], 1, payload, encrypted=True), 1)

    def send_pingpong(self) -> None:
        text = replies.pingpong(datetime.datetime.now(datetime.UTC))
        self.entry.n_pingpongs += 1
        self._unanswered.setdefault(text, self._server.now())
        self._last_pingpong = self._server.now()
        self.send(text)

    async def _send_queue(self) -> None:
        queue, socket = self._queue, self._socket
        try:
            while True:
                while queue:
                    message = queue.popleft()
                    if isinstance(message, tuple):
                        await socket.close(code=message[0], message=message[1].encode())
                        return
                    self._queue_size -= len(message)
                    await socket.send_frame(message, WSMsgType.TEXT)
                self._wake.clear()
                await self._wake.wait()
        except ConnectionError:
            pass  # `receive` sees it, too, and ends the session

    async def _keep_alive(self) -> None:
        while True:
            settings, now = self._server.settings, self._server.now()
            if self.is_silent:
                self._unanswered.clear()
                self._last_pingpong = now
            if self._unanswered and now - next(iter(self._unanswered.values())) >= settings.pong_timeout:
                self._note("no_pong")
                self.cut("PINGPONG was not answered")
                return
            since = self._last_pingpong
            if not settings.pingpong_always:
                since = max(since, self._last_sent)
            due = max(since + settings.pingpong_interval, self._pingpong_not_before)
            if now >= due and not self.is_silent:
                self.send_pingpong()
                due = now + settings.pingpong_interval
            waits = [due - now, _LOOK_S]
            if self._unanswered:
                waits.append(next(iter(self._unanswered.values())) + settings.pong_timeout - now)
            await asyncio.sleep(max(0.001, min(waits)))

    # Receiving

    async def _on_ping(self, payload: bytes) -> None:
        self.entry.n_rfc_pings += 1
        if self.is_silent:
            return
        if self._server.settings.rfc_ping == "pong":
            await self._socket.pong(payload)
        elif self._server.settings.rfc_ping == "error":
            self.send(replies.answer("OPSP8991"))
            self.close(1000, "", "an RFC 6455 ping")

    def _on_reply(self, payload: bytes, *, is_frame: bool) -> bool:
        """Take a possible reply to a PINGPONG; returns whether it was one."""
        if payload not in self._unanswered:
            return False
        if is_frame:
            self.entry.n_frame_replies += 1
        else:
            self.entry.n_text_replies += 1
        if self._server.settings.pong in ("any", "frame" if is_frame else "text"):
            self._unanswered.clear()
        return True

    def _on_text(self, text: str) -> None:
        message = replies.read_request(text)
        if isinstance(message, Keepalive):
            if not self._on_reply(text.encode(), is_frame=False):
                self.entry.n_own_pingpongs += 1
                self._pingpong_not_before = self._server.now() + _POSTPONED_S
            return
        entry = self._enter(message)
        self._server.performer.on_request(self)
        if self.is_over or self.is_silent:
            return
        fault = self._server.faults.take_for(actions.Answer, entry.at, entry.app_key, message)
        if fault is not None:
            entry.answer = fault.code
            self.send(replies.answer(fault.code, message.tr_id, message.tr_key, text=fault.text))
            if fault.close or (fault.close is None and fault.code == "OPSP8996"):
                self.close(1000, "", fault.code)
        elif isinstance(message, Refusal):
            entry.answer = message.code
            self._refuse(message)
        else:
            self._obey(message, entry)

    def _enter(self, message: Request | Refusal) -> RequestEntry:
        """Put a request into the journal, and look at its pace."""
        server, now = self._server, self._server.now()
        gap = None if self._last_request is None else now - self._last_request
        self._last_request = now
        entry = RequestEntry(
            at=now, session=self.entry.number, app_key="", approval_key="", tr_type="",
            tr_id=message.tr_id, tr_key=message.tr_key, gap=gap,
        )  # fmt: skip
        server.journal.requests.append(entry)
        self.entry.n_requests += 1
        if isinstance(message, Request):
            entry.approval_key = message.approval_key
            entry.tr_type = "1" if message.is_register else "2"
            entry.app_key = server.credentials.approved(message.approval_key, now) or ""
        if entry.app_key:
            entry.gap = server.discipline.gap(entry.app_key, now)
            server.discipline.check_pace(server.settings, self.entry, entry)
        return entry

    def _refuse(self, refusal: Refusal) -> None:
        self._note("malformed", replies.RESULTS[refusal.code][1])
        self.send(replies.answer(refusal.code, refusal.tr_id, refusal.tr_key))

    def _obey(self, request: Request, entry: RequestEntry) -> None:
        server, app_key = self._server, entry.app_key
        if not app_key or self.app_key not in ("", app_key):
            self._note("unknown_approval")
            entry.answer = "OPSP0011"
            self.send(replies.answer("OPSP0011", *request.registration))
            if server.settings.close_on_unknown_approval:
                self.close(1000, "", "OPSP0011")
            return
        if server.credentials.is_blocked(app_key, entry.at):
            server.discipline.note("blocked", entry.at, app_key, self.entry)
            self.cut("the app key is blocked")
            return
        if not self.app_key and not server.discipline.take_slot(
            server.settings, self.entry, app_key, entry.at
        ):
            entry.answer = "OPSP8996"
            self.send(replies.answer("OPSP8996"))
            self.close(1000, "", "OPSP8996")
            return
        no_ack = server.faults.take_for(actions.NoAck, entry.at, app_key, request)
        if no_ack is not None:
            if no_ack.obey:
                self._change(request)
            return
        entry.answer = self._change(request)
        if not self.is_over:
            self._acknowledge(request, entry)

    def _change(self, request: Request) -> str:
        return self._register(request) if request.is_register else self._unregister(request)

    def _register(self, request: Request) -> str:
        server, registration = self._server, request.registration
        state = self.registered.get(registration)
        if state is not None:
            state.is_muted = False
            self._note("repeated", " ".join(registration))
            return "OPSP0002"
        refused = server.unavailable(request.tr_id)
        if refused:
            return refused
        if len(self.registered) >= server.settings.cap:
            self._note("over_cap", " ".join(registration))
            return "OPSP0008"
        if not server.discipline.count_registration(server.settings, self.entry, registration, server.now()):
            return ""
        is_mute = server.faults.is_mute(registration) or server.is_silent_tr(request.tr_id)
        self.registered[registration] = _Registered(is_mute)
        self.entry.n_registrations = len(self.registered)
        self.entry.max_registrations = max(self.entry.max_registrations, len(self.registered))
        server.add(self, registration)
        return "OPSP0000"

    def _unregister(self, request: Request) -> str:
        registration = request.registration
        state = self.registered.pop(registration, None)
        if state is None:
            self._note("not_registered", " ".join(registration))
            return "OPSP0003"
        self._after_data.pop(registration, None)
        self.entry.n_registrations = len(self.registered)
        self._server.remove(self, registration)
        if state.n_frames == 0:
            self._server.discipline.count_fruitless_registration(
                self._server.settings, self.entry, self._server.now()
            )
        return "OPSP0001"

    def _acknowledge(self, request: Request, entry: RequestEntry) -> None:
        server = self._server
        key, iv = self._cipher(request.tr_id)
        ack = replies.answer(entry.answer, *request.registration, key=key, iv=iv)
        if self._hold is None:
            self._hold = server.faults.take_for(actions.ReorderAcks, entry.at, self.app_key, request)
        if self._hold is not None:
            self._held.append(ack)
            if len(self._held) >= self._hold.of:
                self._release_acks()
            return
        late = server.faults.take_for(actions.LateAck, entry.at, self.app_key, request)
        if late is None:
            self.send(ack)
        elif late.after_data and entry.answer == "OPSP0000":
            self._after_data.setdefault(request.registration, []).append(ack)
        else:
            asyncio.get_running_loop().call_later(late.delay, self.send, ack)

    def _release_acks(self) -> None:
        # The last one first.
        held, self._held, self._hold = self._held, [], None
        for ack in reversed(held):
            self.send(ack)

    def _cipher(self, tr_id: str) -> tuple[str, str]:
        """Key and iv of a TR in this session."""
        cipher = self._ciphers.get(tr_id)
        if cipher is None:
            settings = self._server.settings
            cipher = settings.notice_key or notices.new_key(), settings.notice_iv or notices.new_iv()
            self._ciphers[tr_id] = cipher
        return cipher

    def _note(self, kind: str, detail: str = "") -> None:
        self._server.discipline.note(kind, self._server.now(), self.app_key, self.entry, detail)

    def state(self) -> dict[str, Any]:
        """What there is of it, for people and tests."""
        return {
            "number": self.entry.number,
            "app_key": self.app_key,
            "silent": self.is_silent,
            "registrations": [
                {"tr_id": tr_id, "tr_key": tr_key, "frames": state.n_frames, "muted": state.is_muted}
                for (tr_id, tr_key), state in self.registered.items()
            ],
        }
