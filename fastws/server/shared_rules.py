"""Lets an alert that was made or deleted at one instance wait at all, or at none, where they have one database."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from fastws.logs import log_limited
from fastws.market.alert_store import Rule
from fastws.market.alerts import AlertBook
from fastws.market.store import StoreError
from fastws.relay.control import RulesChanged

if TYPE_CHECKING:
    from fastws.relay.relay import Relay

# What one reading of the database asks for.
_AT_ONCE: Final = 1000
# Over so many that wait, all that wait in the database are read instead.
_LIMIT: Final = 100_000
_AGAIN_SECONDS: Final = 1.0

_log = structlog.get_logger("fastws")


class SharedRules:
    """Tells other instances of changed rules, and takes over what they have changed. Belongs to the loop's thread.

    1. Instances say the ids of what they change; the rows of the database say what is.
    2. One task reads, so that rows are taken over in the order in which they were read. What is said meanwhile waits
       for the next reading, each id once.
    3. What the database does not answer is asked again, until it does.
    """

    def __init__(self, relay: Relay, alerts: AlertBook) -> None:
        self._relay = relay
        self._alerts = alerts
        self._ids: dict[int, None] = {}
        # Something may have been said that was not heard.
        self._is_all_due = False
        self._is_due = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        relay.on_rules = self._hear
        alerts.on_added.append(self._on_added)
        alerts.on_deleted.append(self._say)

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="alerts of other instances")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    def _on_added(self, rule: Rule) -> None:
        # Its price may come from another instance before anybody has looked at it here.
        self._relay.missing("stock", (rule.code,))
        self._say(rule.id)

    def _say(self, rule_id: int) -> None:
        self._relay.say(RulesChanged(self._relay.origin, [rule_id]))

    def _hear(self, changed: RulesChanged | None) -> None:
        if changed is None or len(self._ids) >= _LIMIT:
            self._is_all_due = True
        else:
            self._ids |= dict.fromkeys(changed.ids)
        self._is_due.set()

    async def _run(self) -> None:
        while True:
            await self._is_due.wait()
            self._is_due.clear()
            try:
                await self._refresh()
            except StoreError as error:
                log_limited(
                    _log,
                    "alerts-not-refreshed",
                    "alerts of other instances are not known here",
                    error=str(error),
                )
            except Exception:
                # A fault of ours, which must not be the end of all that are still to come.
                log_limited(
                    _log,
                    "alerts-not-refreshed",
                    "alerts of other instances are not known here",
                    level="error",
                    exc_info=True,
                )
            if self._ids or self._is_all_due:
                self._is_due.set()
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _refresh(self) -> None:
        """Read what is due; what could not be read stays due."""
        if self._is_all_due:
            self._is_all_due = False
            try:
                await self._alerts.refresh(None)
            except BaseException:
                self._is_all_due = True
                raise
        while self._ids:
            ids = list(self._ids)[:_AT_ONCE]
            # Before they are read: what is said from now on may not be in what comes.
            for rule_id in ids:
                del self._ids[rule_id]
            try:
                await self._alerts.refresh(ids)
            except BaseException:
                self._ids |= dict.fromkeys(ids)
                raise
