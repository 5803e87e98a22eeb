"""How a screener client goes on where a session ended. Sans-IO."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from fastws import messages
from fastws._core import Hub
from fastws.dialects import answers
from fastws.dialects.clients import Client
from fastws.dialects.mail import Mail
from fastws.dialects.subscriptions import Subscriptions
from fastws.messages import RequestId
from fastws.sessions import Session


def restore(
    hub: Hub,
    subscriptions: Subscriptions,
    mail: Mail,
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
    addressed = mail.missed(client, session, cursor)
    n_missed, is_complete = hub.count_missed(wanted, 0 if cursor is None else cursor)
    recovered = cursor is not None and is_complete
    answers.reply(
        connection,
        messages.Reconnected(
            session_id=session.session_id,
            restored_subscriptions=subscriptions.by_kind(
                topic for topic in session.subscriptions if topic in wanted or topic in held
            ),
            missed_messages_count=n_missed + len(addressed),
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
        if connection.restore(wanted, cursor, session.is_paused, also):
            mail.note_told(addressed)
        if not has_counted and not session.is_paused:
            # What the kernel took may have been lost with the last connection, and nobody else would tell these values.
            holds = connection.subscriptions()
            connection.send_snapshot([(topic, holds[topic]) for topic in wanted if topic in holds])
    else:
        connection.set_subscriptions(held | wanted, session.is_paused)
        # Before the snapshot, which has the highest number.
        mail.send(client, addressed)
        if not session.is_paused:
            connection.send_snapshot(wanted.items())
