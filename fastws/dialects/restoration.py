"""How a screener client goes on where a session ended. Sans-IO."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import UNSET, UnsetType

from fastws import messages
from fastws._core import Hub
from fastws.dialects import answers
from fastws.dialects.clients import Client
from fastws.dialects.mail import Mail
from fastws.dialects.subscriptions import Subscriptions
from fastws.dialects.takeover import Takeover
from fastws.market.alert_messages import Alert
from fastws.messages import RequestId
from fastws.sessions import Session


def restore(
    hub: Hub,
    subscriptions: Subscriptions,
    mail: Mail,
    takeover: Takeover,
    client: Client,
    session: Session,
    cursor: int | None,
    has_counted: bool,
    request_id: RequestId | UnsetType = UNSET,
) -> None:
    """Give `client` the subscriptions of `session`, and what it missed after `cursor` or else a snapshot.

    `has_counted`: the cursor is what the client has seen, and not what the kernel took for it.
    """
    connection = client.connection
    held = connection.subscriptions()
    wanted = subscriptions.targets.restorable(held, session.subscriptions, client.identity)
    if not session.is_paused:
        subscriptions.targets.permits.ensure(wanted)
    found = takeover.starts_of(session) if session.is_moved else None
    starts = None if found is None else found[1]
    addressed = mail.missed(client, session, cursor)
    handed = []
    # Without a cursor, at least what came since it is known that the client was not there.
    least = 0
    if session.handed is not None:
        handed = unheard(mail, client, session.heard, session.handed.alerts)
        least = session.handed.since
    n_missed, is_complete = hub.count_missed(wanted, least if cursor is None else cursor, starts)
    if session.handed is not None:
        n_missed = max(n_missed, session.handed.n_missed)
    recovered = cursor is not None and is_complete
    answers.reply(
        connection,
        messages.Reconnected(
            session_id=session.session_id,
            restored_subscriptions=subscriptions.by_kind(
                topic for topic in session.subscriptions if topic in wanted or topic in held
            ),
            missed_messages_count=n_missed + len(addressed) + len(handed),
            recovered=recovered,
            timestamp=answers.now(),
            id=request_id,
        ),
        is_followed=True,
    )
    if session.is_paused:
        client.owed = tuple(kept.sequence for kept in addressed)
        addressed = []
    else:
        client.owed = ()
    if cursor is not None and recovered:
        # What a pause held back may be older than the cursor.
        mail.send(client, [kept for kept in addressed if kept.sequence <= cursor])
        addressed = [kept for kept in addressed if kept.sequence > cursor]
        also = [kept.sequence for kept in addressed]
        if connection.restore(wanted, cursor, session.is_paused, also, starts):
            mail.note_told(addressed)
        mail.hand(client, handed)
        if not session.is_paused:
            holds = connection.subscriptions()
            # What the kernel took may have been lost with the last connection, and nobody else would tell these values.
            # Those of mode `latest` of a session that has moved are told in no other way.
            again = [
                (topic, holds[topic])
                for topic, options in wanted.items()
                if topic in holds and (not has_counted or (session.is_moved and options.latest))
            ]
            if again or not has_counted:
                connection.send_snapshot(again)
    else:
        connection.set_subscriptions(held | wanted, session.is_paused)
        # Before the snapshot, which has the highest number.
        mail.send(client, addressed)
        mail.hand(client, handed)
        if not session.is_paused:
            connection.send_snapshot(wanted.items())
    client.speaker.note_held(client)


def unheard(mail: Mail, client: Client, number: int, alerts: Iterable[Alert]) -> list[Alert]:
    """Return what another instance has kept for a client, but for what has come here as well since `number`."""
    known = [kept.payload for kept in mail.since(client, number)]
    ids = {alert.id for alert in known if alert.id}
    texts = [_text_of(alert) for alert in known if not alert.id]
    found = []
    for alert in alerts:
        if alert.id in ids:
            continue
        if not alert.id and _text_of(alert) in texts:
            texts.remove(_text_of(alert))
        else:
            found.append(alert)
    return found


def _text_of(alert: Alert) -> tuple[object, ...]:
    """What an alert says that has no id; by what it has fired is known at one instance only."""
    return alert.code, alert.alert_type, alert.threshold, alert.current_price, alert.message, alert.extra
