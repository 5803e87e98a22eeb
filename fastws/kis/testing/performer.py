"""Does what actions say, and steps of scripts when their time has come."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

import structlog

from fastws.kis.testing import actions, notices, playback, replies
from fastws.kis.testing.actions import Action, Fault
from fastws.kis.testing.faults import concerns
from fastws.kis.testing.market import Now
from fastws.kis.testing.replies import NOTICE_TRS, Registration
from fastws.kis.testing.script import Step
from fastws.kis.testing.settings import ScriptError

if TYPE_CHECKING:
    from fastws.kis.testing.server import FakeKIS
    from fastws.kis.testing.session import Session

_LOOK_S: Final = 0.1
_SETTLED_S: Final = 1.0

_log = structlog.get_logger("fastws.kis.testing")


class Performer:
    """Performs actions on a server."""

    def __init__(self, server: FakeKIS, steps: tuple[Step, ...]) -> None:
        self._server = server
        self._steps = list(steps)

    def start(self) -> None:
        """Begin to wait for the steps that go by the clock."""
        for step in self._steps.copy():
            if step.when.is_by_clock:
                self._steps.remove(step)
                self._server.run(self._run_step(step))

    def perform(self, action: Action, session: Session | None = None) -> int:
        """Do an action and return how many it concerned; `session` is that of the step that waited for it."""
        server = self._server
        if isinstance(action, Fault):
            server.faults.add(action, server.now())
            return 0
        sessions = [
            one
            for one in ([session] if session is not None else list(server.sessions))
            if action.app_key in (None, one.app_key)
        ]
        for one in sessions:
            match action:
                case actions.Drop():
                    one.cut("dropped")
                case actions.Close():
                    one.close(action.code, action.reason, "closed")
                case actions.Silence():
                    one.fall_silent(action.seconds)
                case actions.Say():
                    one.send(action.message.encode())
                case actions.Malformed():
                    one.send(replies.MALFORMED[action.kind])
                case actions.Pingpong():
                    one.send_pingpong()
                case _:
                    break
        if isinstance(action, actions.GROUPS_OF_SESSIONS):
            return len(sessions)
        return self._perform_other(action, sessions)

    def _perform_other(self, action: Action, sessions: list[Session]) -> int:
        server = self._server
        match action:
            case actions.RefuseConnections():
                server.run(server.refuse_connections(action.seconds))
            case actions.Mute():
                return self._mute(action, sessions)
            case actions.Burst():
                return server.market.burst(action.frames, action.records, time.time())
            case actions.Notice():
                return _send_notices(action, sessions)
            case actions.Operation():
                status_code = "58" if action.halted and action.status_code == "55" else action.status_code
                return server.market.operate(
                    action.tr_key,
                    action.halted,
                    reason=action.reason,
                    operation_code=action.operation_code,
                    expected_code=action.expected_code,
                    status_code=status_code,
                    vi=action.vi,
                    overtime_vi=action.overtime_vi,
                )
            case actions.SetPhase():
                server.set({"phase": action.phase})
            case actions.Play():
                messages = playback.read_messages(action.file)
                server.run(self._play(action, messages))
                return len(messages)
            case actions.ExpireKeys():
                return server.credentials.expire_approvals(action.app_key)
            case actions.ExpireTokens():
                return server.credentials.expire_tokens(action.app_key)
            case actions.Block():
                keys = [action.app_key] if action.app_key else list(server.settings.app_keys)
                seconds = server.settings.block_seconds if action.seconds is None else action.seconds
                for key in keys:
                    server.discipline.block(key, server.now(), seconds)
                return len(keys)
            case actions.Unblock():
                return server.credentials.unblock(action.app_key)
            case actions.Set():
                server.set(action.settings)
            case actions.Clear():
                for one in server.sessions:
                    one.heal()
                return server.faults.clear() + server.credentials.unblock()
            case actions.Forget():
                server.journal.clear()
            case _:
                raise AssertionError(f"{type(action).__name__} is not handled")
        return 0

    def _mute(self, action: actions.Mute, sessions: list[Session]) -> int:
        n = 0
        for session in sessions:
            for registration, state in session.registered.items():
                if concerns(action, registration):
                    state.is_muted = True
                    n += 1
        if action.coming:
            self._server.faults.add_mute(action)
        return n

    async def _play(self, action: actions.Play, messages: list[tuple[int | None, bytes]]) -> None:
        server = self._server
        while action.wait and (
            server.last_registered is None or server.now() - server.last_registered < _SETTLED_S
        ):
            await asyncio.sleep(_LOOK_S)

        def deliver(message: bytes, registration: Registration | None, n_records: int) -> None:
            if action.to == "everyone":
                for session in server.sessions:
                    if action.app_key in (None, session.app_key):
                        session.send(message)
            elif registration is not None:
                server.deliver(registration, message, n_records)

        await playback.play(messages, action.speed, action.loop, deliver)

    # Steps

    def on_session(self, session: Session) -> None:
        """A connection was opened."""
        for step in self._steps.copy():
            when = step.when
            if when.session == session.entry.number and when.request is None and when.records is None:
                self._steps.remove(step)
                if when.after:
                    self._server.run(self._perform_later(when.after, step, session))
                else:
                    self._perform_step(step, session)

    def on_request(self, session: Session) -> None:
        """A request has come and is in the journal; its answer has not been decided."""
        for step in self._steps.copy():
            if step.when.request == session.entry.n_requests and _is_for(step, session):
                self._steps.remove(step)
                self._perform_step(step, session)

    def on_data(self, session: Session) -> None:
        """A session was sent data."""
        for step in self._steps.copy():
            records = step.when.records
            if records is not None and session.entry.n_records >= records and _is_for(step, session):
                self._steps.remove(step)
                self._perform_step(step, session)

    async def _run_step(self, step: Step) -> None:
        at = step.when.at or 0.0
        while True:
            await asyncio.sleep(max(0.0, at - self._server.now()))
            self._perform_step(step, None)
            if step.when.every is None:
                return
            at += step.when.every

    async def _perform_later(self, seconds: float, step: Step, session: Session) -> None:
        await asyncio.sleep(seconds)
        if not session.is_over:
            self._perform_step(step, session)

    def _perform_step(self, step: Step, session: Session | None) -> None:
        try:
            self.perform(step.action, session)
        except ScriptError as error:
            _log.error("a step of the script cannot be done", place=step.place, error=str(error))


def _send_notices(action: actions.Notice, sessions: list[Session]) -> int:
    n = 0
    now = Now.of(time.time()).time
    for session in sessions:
        for registration in list(session.registered):
            if registration[0] in NOTICE_TRS and action.tr_key in (None, registration[1]):
                text = action.text or notices.notice(
                    registration[1], action.code, action.quantity, action.price, now, filled=action.filled
                )
                n += session.send_notice(registration, text, is_damaged=action.damaged)
    return n


def _is_for(step: Step, session: Session) -> bool:
    return step.when.session in (None, session.entry.number)


def read_fields(action: Any, fields: dict[str, Any]) -> Action:
    """An action as `FakeKIS.do` takes it: its name and fields, a table, or itself."""
    if isinstance(action, Action):
        return action
    given = {"do": action} if isinstance(action, str) else dict(action)
    return actions.read_action({**given, **fields})
