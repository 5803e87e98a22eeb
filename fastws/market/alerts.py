"""Price alerts: users' rules, held against every price and fired once each."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import structlog

from fastws._alerts import ALERT_TYPES, AlertIndex
from fastws._market import Instrument, PriceUpdate
from fastws.clock import wall_ms
from fastws.errors import FastwsError
from fastws.logs import log_limited
from fastws.market.alert_messages import Alert, alert_message, checked_user
from fastws.market.alert_store import AlertStore, Firing, Rule, number_text
from fastws.market.store import ANSWER_SECONDS, StoreError

if TYPE_CHECKING:
    from fastws.market.instruments import Instruments
    from fastws.market.store import Store

Result = TypeVar("Result")

_log = structlog.get_logger("fastws.alerts")

_FIRST_PAUSE: Final = 0.1  # seconds between attempts to fire while the database fails
_LONGEST_PAUSE: Final = 5.0
_BATCH: Final = 500  # rules fired in one transaction, so that other requests get their turn in between
_REFRESH_SLICE: Final = 1000  # rules looked at
_SLICE: Final = 50  # alerts delivered before the loop runs on


class AlertError(FastwsError):
    """A rule cannot be made from what was given. `field` is what is wrong, with which the text begins."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class AlertLimitError(FastwsError):
    """A user has `limit` rules, which is all that a user may have."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"you have {limit} alerts, fired ones included; delete some first")
        self.limit = limit


class _Crossing(NamedTuple):
    rule: Rule
    update: PriceUpdate
    time_ms: int


class AlertBook:
    """The rules of all users, and who is told when a price crosses one.

    1. A rule is stored before it is reported as made, and waits from then on: it looks at every later price,
       so one whose condition holds already fires on the next price.
    2. "Above" is greater than the threshold and "below" less, exactly; equal is neither. A rule on the change
       or the volume does not look at prices that come without it.
    3. Waiting, a rule is in the index. A price that crosses it takes it out, so it fires once; then its
       firing is stored, and only once that is committed is the user told. When another process was first, or
       the rule was deleted meanwhile, nobody is told here.
    4. That a user was told is stored after it was done. What a process has fired and told nobody, because it was
       killed or nobody was there, its successor finds with `untold`. So a user is told once; after a kill between
       telling and storing that, which is the time of a commit, twice, because an alert that never comes costs a
       trader more than one that comes again.
    5. While the database fails, crossed rules wait, are tried again until it works, and keep the price that
       crossed them. Prices go on. What has not fired when the process ends waits again after its next start. So does
       a rule that cannot be fired whatever the database does, and the others fire.
    6. What was asked for is done even when the asker has gone: no rule is stored without waiting here.

    Belongs to the thread of the event loop. `deliver` is called with a user id and the alert, in the order in
    which the rules were crossed; once somebody was told, or nobody is there to be told, `told` is to be called.
    A user may have `alerts_per_user` rules, fired ones included.
    """

    def __init__(
        self,
        store: Store,
        instruments: Instruments,
        deliver: Callable[[str, Alert], object],
        *,
        alerts_per_user: int = 1000,
    ) -> None:
        self._stored = AlertStore(store)
        self._is_lasting = not store.is_in_memory
        self._instruments = instruments
        self._deliver = deliver
        self.alerts_per_user = alerts_per_user
        self._index = AlertIndex()
        self._take = self._index.take  # bound once: this is called for every price
        self._rules: dict[int, Rule] = {}  # waiting and crossed ones
        self._crossed: deque[_Crossing] = deque()
        self._told: set[int] = set()  # and not yet stored as such
        # Tells our firings from those of other processes, and of this one before its last start.
        self._name = secrets.token_hex(16)
        self._firing: asyncio.Task[None] | None = None
        self._requests: set[asyncio.Task[Any]] = set()
        self._is_stopped = False
        self.n_fired = 0
        # For processes that have the same database: what was made and deleted here, and has to be known there.
        self.on_added: list[Callable[[Rule], object]] = []
        self.on_deleted: list[Callable[[int], object]] = []

    @property
    def n_waiting(self) -> int:
        """Rules that no price has crossed yet."""
        return len(self._index)

    @property
    def n_crossed(self) -> int:
        """Rules that a price has crossed and the database has not yet let fire."""
        return len(self._crossed)

    async def load(self) -> int:
        """Take over the waiting rules of the database, before the first price; return their number.

        Raises:
            StoreError: the database fails, or a row of it makes no rule.
        """
        for rule in await self._stored.waiting_rules():
            try:
                self.admit(rule)
            except ValueError as error:
                raise StoreError(
                    f"database: row {rule.id} of alert_rules: {error}; correct or delete it"
                ) from None
        return self.n_waiting

    def codes(self) -> set[str]:
        """The symbols whose prices rules wait for."""
        return {rule.code for rule in self._rules.values()}

    def unknown_codes(self) -> dict[str, int]:
        """How many rules wait for each code that no instrument has; they fire once there are prices of it."""
        codes: dict[str, int] = {}
        for rule in self._rules.values():
            if rule.code not in self._instruments:
                codes[rule.code] = codes.get(rule.code, 0) + 1
        return codes

    async def untold(self, seconds: float) -> list[tuple[str, Alert]]:
        """Return user and alert of what fired within the last `seconds`, before this start, and told nobody.

        Raises:
            StoreError: the database fails, or a row of it makes no rule.
        """
        rules = await self._stored.untold_rules(wall_ms() - int(seconds * 1000))
        return [
            (rule.user_id, self._alert(rule, rule.fired_price))
            for rule in rules
            if rule.fired_price is not None
        ]

    async def stop(self, seconds: float = 2.0) -> None:
        """Let what was crossed fire, and what was asked for be done, within `seconds`; then nothing fires."""
        self._is_stopped = True
        tasks = self._requests | ({self._firing} if self._firing is not None else set())
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
        if self._firing is not None:
            self._firing.cancel()
            await asyncio.wait({self._firing})
        if self._crossed:
            _log.warning("alerts wait for the next start", rules=len(self._crossed))

    # Requests of users.

    async def add(
        self, user_id: str, code: str, alert_type: str, threshold: int | Decimal | float | str
    ) -> Rule:
        """Make a rule, store it, and return it.

        `threshold` is a number of the kind it is compared with (see `_market`): a price in the instrument's
        currency, a percentage, or a number of shares.

        Raises:
            AlertError: naming the field that cannot be used.
            AlertLimitError: the user has too many rules.
            StoreError: the database fails, or takes longer than `ANSWER_SECONDS`.
        """
        _check_user(user_id)
        instrument = self._instruments.get(code)
        if instrument is None:
            raise AlertError("code", f"unknown symbol {code!r:.80}")
        if alert_type not in ALERT_TYPES:
            raise AlertError(
                "alert_type", f"expected one of {', '.join(ALERT_TYPES)}, got {alert_type!r:.80}"
            )
        number = _check_threshold(instrument, alert_type, threshold)
        return await self._finish(self._add(user_id, code, alert_type, number))

    async def _add(self, user_id: str, code: str, alert_type: str, threshold: int | Decimal) -> Rule:
        rule = await self._stored.add_rule(
            user_id, code, alert_type, threshold, wall_ms(), limit=self.alerts_per_user
        )
        if rule is None:
            raise AlertLimitError(self.alerts_per_user)
        self.admit(rule)
        for tell in self.on_added:
            tell(rule)
        return rule

    async def list(self, user_id: str) -> tuple[Rule, ...]:
        """Return the rules of a user, fired ones too, oldest first.

        Raises:
            AlertError: `user_id` cannot be one.
            StoreError: the database fails, or takes longer than `ANSWER_SECONDS`.
        """
        _check_user(user_id)
        return tuple(await self._finish(self._stored.rules_of(user_id)))

    async def delete(self, user_id: str, rule_id: int) -> bool:
        """Delete a rule, waiting or fired; return False when the user has none of this id.

        Raises:
            AlertError: `user_id` cannot be one.
            StoreError: the database fails, or takes longer than `ANSWER_SECONDS`.
        """
        _check_user(user_id)
        return await self._finish(self._delete(user_id, rule_id))

    async def _delete(self, user_id: str, rule_id: int) -> bool:
        is_deleted = await self._stored.delete_rule(user_id, rule_id)
        if is_deleted:
            self.forget(rule_id)
            for tell in self.on_deleted:
                tell(rule_id)
        return is_deleted

    async def _finish(self, request: Coroutine[Any, Any, Result]) -> Result:
        task = asyncio.get_running_loop().create_task(request)
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await asyncio.shield(task)
        except TimeoutError:
            raise StoreError(
                f"the database has not answered within {ANSWER_SECONDS:g} s; "
                "look later whether it was done, or try again"
            ) from None

    # The rules in memory.

    def admit(self, rule: Rule) -> None:
        """Let a stored rule wait, such as one that another instance has stored. A known one stays as it is.

        Raises:
            ValueError: its type or its threshold cannot be used.
        """
        if rule.id not in self._rules and rule.fired_ms is None:
            self._index.add(rule.code, rule.alert_type, number_text(rule.threshold), rule.id)
            self._rules[rule.id] = rule

    def forget(self, rule_id: int) -> None:
        """Let a rule wait no longer that was deleted from the database. An unknown one is no matter."""
        rule = self._rules.pop(rule_id, None)
        if rule is not None:
            self._index.remove(rule.code, rule.alert_type, rule_id)

    async def refresh(self, ids: Sequence[int] | None) -> None:
        """Take over what other instances have made of the rules in the database: of `ids`, or new ones of all.

        It is asked for the rules, so that instances with databases of their own may tell each other what they like.

        Raises:
            StoreError: the database fails.
        """
        if not self._is_lasting or self._is_stopped:
            return
        rules = await (self._stored.waiting_rules() if ids is None else self._stored.rules_with(ids))
        waiting = {rule.id: rule for rule in rules if rule.fired_ms is None}
        for i, rule in enumerate(waiting.values(), 1):
            if i % _REFRESH_SLICE == 0:
                await asyncio.sleep(0)
            try:
                self.admit(rule)
            except ValueError as error:
                _log.warning("an alert of another instance is left out", rule=rule.id, error=str(error))
        for rule_id in ids or ():
            if rule_id not in waiting:
                self.forget(rule_id)

    # Prices.

    def on_price(self, update: PriceUpdate) -> None:
        """Fire what `update` crosses. Called for every price; costs the same however many rules it leaves."""
        ids = self._take(update)
        if ids is not None:
            self._on_crossed(update, ids)

    def _on_crossed(self, update: PriceUpdate, ids: Sequence[int]) -> None:
        now = wall_ms()
        self._crossed.extend(_Crossing(self._rules[rule_id], update, now) for rule_id in ids)
        self._start_firing()

    def told(self, rule_id: int) -> None:
        """Take note that the user of a rule that has fired was told, or that nobody is there to be told."""
        if self._is_lasting:
            self._told.add(rule_id)
            self._start_firing()

    def _start_firing(self) -> None:
        if self._firing is None and not self._is_stopped:
            self._firing = asyncio.get_running_loop().create_task(self._fire())

    async def _fire(self) -> None:
        pause = _FIRST_PAUSE
        try:
            while self._crossed or self._told:
                batch = list(islice(self._crossed, _BATCH))
                told = sorted(self._told)
                try:
                    fired = await self._store(batch, told)
                except StoreError as error:
                    log_limited(
                        _log,
                        "alerts-not-fired",
                        "alerts wait for the database",
                        rules=len(self._crossed),
                        error=str(error),
                    )
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
                    continue
                pause = _FIRST_PAUSE
                self._told.difference_update(told)
                for i, crossing in enumerate(batch, 1):
                    self._crossed.popleft()
                    self._rules.pop(crossing.rule.id, None)
                    if crossing.rule.id in fired:
                        self._tell(crossing)
                    if i % _SLICE == 0:
                        await asyncio.sleep(0)
        finally:
            self._firing = None

    async def _store(self, batch: Sequence[_Crossing], told: Sequence[int]) -> set[int]:
        """Store a batch of firings, and who was told; return the ids of the rules that have fired here.

        What cannot be stored, for another reason than a database that fails, is left out.

        Raises:
            StoreError: the database fails; what was done already may be asked for again.
        """
        try:
            return await self._store_together(batch, told)
        except StoreError:
            raise
        except Exception:
            # One of them is at fault; which one shows when each is stored alone.
            if len(batch) + len(told) <= 1:
                n = {"rule": batch[0].rule.id} if batch else {"told": len(told)}
                log_limited(
                    _log, "alert-unstorable", "an alert cannot be fired", level="error", exc_info=True, **n
                )
                return set()
        fired: set[int] = set()
        for rule_id in told:
            await self._store((), (rule_id,))
        for crossing in batch:
            fired |= await self._store((crossing,), ())
        return fired

    async def _store_together(self, batch: Sequence[_Crossing], told: Sequence[int]) -> set[int]:
        return await self._stored.fire_rules(
            [Firing(item.rule.id, item.time_ms, item.update.price) for item in batch],
            self._name,
            told=told,
            told_ms=wall_ms(),
        )

    def _tell(self, crossing: _Crossing) -> None:
        self.n_fired += 1
        try:
            self._deliver(crossing.rule.user_id, self._alert(crossing.rule, crossing.update.price))
        except Exception:
            # It has fired and is in the user's list; the other users' alerts must not suffer.
            log_limited(_log, "alert-not-delivered", "alert not delivered", level="error", exc_info=True)

    def _alert(self, rule: Rule, price: int | Decimal) -> Alert:
        # Another start may know fewer instruments.
        instrument = self._instruments.get(rule.code) or Instrument(rule.code)
        message = alert_message(instrument, rule.alert_type, rule.threshold)
        return Alert(rule.code, rule.alert_type, rule.threshold, price, message, rule_id=rule.id)


def _check_user(user_id: str) -> None:
    try:
        checked_user(user_id)
    except ValueError as error:
        raise AlertError("user_id", str(error).partition(": ")[2]) from None


def _check_threshold(
    instrument: Instrument, alert_type: str, threshold: int | Decimal | float | str
) -> int | Decimal:
    """Return the exact number. It is read as the value it is compared with, so the same bounds hold."""
    field = alert_type.rpartition("_")[0]
    try:
        if field == "price":
            number = PriceUpdate(instrument, threshold).price
        else:
            number = getattr(PriceUpdate(instrument, 0, **{field: threshold}), field)  # type: ignore[arg-type]
    except ValueError as error:
        raise AlertError("threshold", str(error).partition(": ")[2]) from None
    if number is None:
        raise AlertError("threshold", "expected a number, got null")
    if field == "price" and number <= 0:
        raise AlertError("threshold", f"expected a price above 0, got {threshold!s:.60}")
    if field == "volume" and number < 0:
        raise AlertError("threshold", f"expected a volume of 0 or more, got {threshold!s:.60}")
    return number
