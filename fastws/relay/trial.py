"""Whether a relay can be used, asked before a server starts with it."""

from __future__ import annotations

import asyncio
import secrets

from fastws.relay.address import RedisAddress
from fastws.relay.channels import Channels
from fastws.relay.redis_links import RedisLink

TRIAL_SECONDS = 5.0


async def find_fault(
    address: RedisAddress, *, prefix: str, n_shards: int, seconds: float = TRIAL_SECONDS
) -> str | None:
    """Connect as a server would, listen to its channels, and send a message that comes back here alone.

    Returns why that cannot be done, None where it can. Other servers notice nothing.
    """
    done: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
    channels = Channels(prefix, address.database, n_shards)
    inbox = channels.inbox(secrets.randbits(62) + 1)
    sent = secrets.token_bytes(16)

    def settle(fault: str | None) -> None:
        if not done.done():
            done.set_result(fault)

    def on_change(reason: str | None) -> None:
        if reason is None:
            link.send(inbox, sent)
        else:
            settle(reason)

    link = RedisLink(
        address,
        on_message=lambda data: settle(None) if data == sent else None,
        on_change=on_change,
        on_listening=lambda channel: None,
    )
    # Those of every kind: a user of Redis may be let to some of them only.
    link.listen([inbox, channels.control, channels.sessions, *(channels.shard(n) for n in range(n_shards))])
    link.start()
    try:
        async with asyncio.timeout(seconds):
            return await done
    except TimeoutError:
        return f"what is sent does not come back within {seconds:g} s"
    finally:
        await link.stop(0.0)
