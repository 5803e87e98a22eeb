"""The connection through what befalls it, on the fake server: what it says about it, and how it closes. Every
fault, one after the other, is in test_kis_faults."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from fastws.kis import KISConnectionError, KISCredentialsError, KISInUseError
from fastws.kis.auth import APPROVAL_LIFETIME
from fastws.kis.connection import Changed, Live, Lost
from fastws.kis.control import Registration
from fastws.kis.registrations import State
from fastws.kis.testing import FakeKIS
from tests.kis_client import TIMING, Client, keeps_the_rules, until


@pytest.fixture
async def kis() -> AsyncIterator[FakeKIS]:
    async with FakeKIS(rate=100, pingpong_interval=0.3, pong_timeout=0.9, approval_interval=0.0) as kis:
        yield kis


@pytest.fixture
async def client(kis: FakeKIS) -> AsyncIterator[Client]:
    client = Client(kis)
    client.connection.start()
    await client.subscribed()
    await client.receiving()
    client.events.clear()
    yield client
    await client.connection.close()
    keeps_the_rules(client, also=("repeated", "unknown_approval", "over_cap", "second_session", "malformed"))


async def heals(client: Client, seconds: float = 30.0) -> None:
    """Wait for the next session to be complete."""
    await until(lambda: any(isinstance(event, Live) for event in client.events), "live again", seconds)
    await client.subscribed(seconds)
    await client.receiving()
    assert client.connection.n_failures == 0


@pytest.mark.parametrize(
    ("action", "text"),
    [
        ({"do": "drop"}, "it ended without a close frame"),
        ({"do": "close", "code": 1001, "reason": "going"}, "KIS closed it (code 1001, going)"),
        ({"do": "silence", "seconds": 5}, "KIS sent nothing for 1.5 s, not even PINGPONG"),
    ],
)
async def test_a_lost_connection_is_made_again(
    kis: FakeKIS, client: Client, action: dict[str, Any], text: str
) -> None:
    name = action.pop("do")
    kis.do(name, **action)
    await heals(client)
    assert text in str(client.errors[0])
    assert str(client.errors[0]).startswith("connection lost: ")
    live = next(event for event in client.events if isinstance(event, Live))
    assert live.gap_seconds is not None
    assert live.gap_seconds > 0.9
    assert len(kis.journal.sessions) == 2


async def test_who_was_held_up_does_not_blame_kis_for_it(kis: FakeKIS, client: Client) -> None:
    kis.do("silence", seconds=3.0)
    time.sleep(2.5)  # noqa: ASYNC251 - longer than a connection may be silent, and shorter than KIS is
    await client.receiving()
    assert client.connection.n_sessions == 1
    assert client.events == []


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ({"do": "refuse_upgrade", "status": 503, "times": 2}, "answered the WebSocket upgrade with HTTP 503"),
        ({"do": "hang_upgrade", "times": 1}, "did not answer within 1 s"),
        ({"do": "refuse_connections", "seconds": 3}, "nothing listens at"),
    ],
)
async def test_a_connection_that_cannot_be_made_is_tried_again(
    kis: FakeKIS, client: Client, fault: dict[str, Any], text: str
) -> None:
    name = fault.pop("do")
    kis.do(name, **fault)
    kis.do("drop")
    await heals(client)
    assert any(text in str(error) for error in client.errors), client.errors
    assert all("connection" in str(error) for error in client.errors)


async def test_an_unknown_approval_key_is_replaced(kis: FakeKIS, client: Client) -> None:
    first = kis.journal.requests[-1].approval_key
    kis.do("expire_keys")
    kis.do("drop")
    await heals(client)
    assert any("OPSP0011" in str(error) for error in client.errors)
    assert kis.journal.requests[-1].approval_key != first
    refused = [entry for entry in kis.journal.requests if entry.answer == "OPSP0011"]
    assert len(refused) == 1


async def test_an_approval_key_that_has_become_old_is_replaced_within_the_session(
    kis: FakeKIS, client: Client
) -> None:
    first = kis.journal.requests[-1].approval_key
    kis.do("expire_keys")
    client.auth._approval.issued_at -= APPROVAL_LIFETIME
    late = Registration("H0UNCNT0", "035420")
    client.connection.want(late)
    await until(lambda: client.registrations.state(late) is State.ACTIVE, "the late one")
    assert client.errors == []
    assert len(kis.journal.sessions) == 1
    assert kis.journal.requests[-1].approval_key != first


async def test_a_key_that_cannot_be_renewed_is_used_on(kis: FakeKIS, client: Client) -> None:
    first = kis.journal.requests[-1].approval_key
    client.auth._approval.issued_at -= APPROVAL_LIFETIME
    kis.do("rest", of="approval", status=503, times=1)
    wanted = [Registration("H0UNCNT0", code) for code in ("035420", "035720")]
    for registration in wanted:
        client.connection.want(registration)
    await until(
        lambda: all(client.registrations.state(item) is State.ACTIVE for item in wanted), "the late ones"
    )
    assert client.errors == []
    assert kis.journal.requests[-1].approval_key == first
    # KIS was asked once, and not for each of them.
    assert sum(call.path == "/oauth2/Approval" for call in kis.journal.calls) == 2


async def test_a_warning_about_the_app_key_ends_nothing(
    kis: FakeKIS, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    kis.do("answer", code="OPSP0010")
    late = Registration("H0UNCNT0", "035420")
    client.connection.want(late)
    await until(lambda: client.registrations.state(late) is State.ACTIVE, "the late one")
    assert client.errors == []
    assert "KIS warns of this app key: OPSP0010" in caplog.text


async def test_an_app_key_in_use_is_waited_for(kis: FakeKIS, client: Client) -> None:
    kis.do("answer", code="OPSP8996", times=2)
    kis.do("drop")
    await heals(client)
    in_use = [error for error in client.errors if isinstance(error, KISInUseError)]
    assert len(in_use) == 2
    assert "another session is using this app key (OPSP8996)" in str(in_use[0])
    delays = [event.retry_in for event in client.events if isinstance(event, Lost)]
    assert all(delay is not None and 1.0 <= delay <= 1.1 for delay in delays[1:])


async def test_a_full_session_keeps_what_it_has(kis: FakeKIS, client: Client) -> None:
    kis.do("set", settings={"cap": 2})
    kis.do("drop")
    await until(
        lambda: [e.change for e in client.events if isinstance(e, Changed) and e.change.is_full],
        "the refusal",
    )
    assert client.registrations.cap == 2
    await until(lambda: client.registrations.n_active == 2, "two of three")
    client.frames.clear()
    await until(lambda: client.frames, "data")
    assert kis.journal.n_violations("over_cap") == 1
    assert client.connection.n_sessions == 2


async def test_refused_for_good(kis: FakeKIS, client: Client) -> None:
    bad = Registration("H0ZZZZZ0", "005930")
    client.connection.want(bad)
    await until(lambda: client.registrations.state(bad) is State.FAILED, "the refusal")
    (change,) = [event.change for event in client.events if isinstance(event, Changed)]
    assert (change.registration, change.code) == (bad, "OPSP8991")
    assert client.is_subscribed
    assert client.connection.n_sessions == 1


@pytest.mark.parametrize("form", ["frame", "text"])
async def test_pingpong_is_answered_in_the_form_that_is_wanted(form: str) -> None:
    async with FakeKIS(market="none", pingpong_interval=0.2, pong_timeout=0.5, pong=form) as kis:
        client = Client(kis)
        client.connection.start()
        await client.subscribed()
        await until(lambda: client.connection.n_pingpongs >= 6, "six PINGPONGs")
        assert client.connection.n_sessions == 1
        assert not kis.journal.n_violations("no_pong")
        assert kis.journal.sessions[0].n_own_pingpongs == 0
        await client.connection.close()


async def test_closing_takes_back_what_is_registered(kis: FakeKIS, client: Client) -> None:
    await client.connection.close()
    assert [entry.tr_type for entry in list(kis.journal.requests)[-3:]] == ["2", "2", "2"]
    assert not client.connection.is_connected
    assert not client.connection.is_running
    client.connection.start()
    await client.subscribed()
    await client.receiving()


async def test_closing_while_nothing_answers(kis: FakeKIS, client: Client) -> None:
    kis.do("silence")
    began = time.monotonic()
    await client.connection.close()
    assert time.monotonic() - began < 6.0
    kis.do("clear")


async def test_two_connections_of_a_process_cannot_have_one_app_key(kis: FakeKIS, client: Client) -> None:
    other = Client(kis)
    with pytest.raises(KISInUseError, match="this program already has a session with this app key"):
        other.connection.start()
    with pytest.raises(RuntimeError, match="started already"):
        client.connection.start()


async def test_what_raises_in_a_callback_does_not_end_the_socket(
    kis: FakeKIS, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(tr_id: str, message: bytes, received_ns: int) -> None:
        raise KeyError("a fault of ours")

    on_frame, client.connection._on_frame = client.connection._on_frame, fail
    await until(lambda: "could not be processed" in caplog.text, "the log line")
    client.connection._on_frame = on_frame
    await client.receiving()
    assert client.connection.n_sessions == 1


@pytest.mark.parametrize(
    ("fault", "kind", "text"),
    [
        ({"status": 500, "times": 1}, KISConnectionError, "answers with HTTP 500"),
        ({"body": "not json", "times": 1}, KISConnectionError, "gave an answer that is not of KIS"),
        ({"code": "EGW00103", "status": 403, "times": 1}, KISCredentialsError, "does not know this app key"),
    ],
)
async def test_the_approval_key_is_asked_for_again(
    kis: FakeKIS, fault: dict[str, Any], kind: type[Exception], text: str
) -> None:
    client = Client(kis, app_secret=kis.app_secret)
    client.auth.forget_approval_key(client.auth._approval.value)
    kis.do("rest", of="approval", **fault)
    client.connection.start()
    await client.subscribed()
    assert type(client.errors[0]) is kind
    assert text in str(client.errors[0])
    await client.connection.close()


async def test_every_failure_has_one_clear_sentence(kis: FakeKIS) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    closed, unknown = f"127.0.0.1:{port}", "no-such-host.invalid:1"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"ws_url": f"ws://{closed}"}, f"connection refused: nothing listens at {closed}; check KIS_WS_URL"),
        (
            {"ws_url": f"ws://{unknown}"},
            f"no connection to KIS: the host of {unknown} is not known; check KIS_WS_URL",
        ),
        (
            {"rest_url": f"http://{closed}"},
            f"no connection to KIS: {closed} cannot be reached: nothing listens there",
        ),
        ({"rest_url": f"http://{unknown}"}, f"no connection to KIS: the host of {unknown} is not known"),
        ({"ws_url": kis.rest_url.replace("http", "ws") + "/oauth2/Approval"}, "connection refused: "),
        (
            {"ws_url": kis.ws_url.replace("ws:", "wss:")},
            f"no connection to KIS: {urlsplit(kis.ws_url).netloc} does not speak TLS as it should",
        ),
        (
            {"rest_url": kis.rest_url.replace("http:", "https:")},
            f"no connection to KIS: {urlsplit(kis.rest_url).netloc} does not speak TLS as it should",
        ),
        (
            {"app_secret": "wrong"},
            "connection refused: KIS does not accept this app secret; check KIS_APP_SECRET",
        ),
    ]
    for options, text in cases:
        client = Client(kis, max_retries=0, **options)
        client.connection.start()
        await until(lambda client=client: not client.connection.is_running, "the end")
        (lost,) = client.events
        assert isinstance(lost, Lost)
        assert lost.retry_in is None
        assert str(lost.error).startswith(text), lost.error
        assert "connection" in str(lost.error)
        assert "\n" not in str(lost.error)


async def test_sessions_that_end_at_once_are_followed_by_growing_pauses(kis: FakeKIS) -> None:
    client = Client(kis, timing=TIMING._replace(first_delay=1.0, last_delay=3.0))
    client.connection.start()
    for n in range(1, 4):
        await until(
            lambda n=n: len(kis.journal.sessions) == n and kis.journal.sessions[-1].n_requests, "a session"
        )
        await until(lambda: client.connection.is_live, "live")
        kis.do("drop")
    await until(lambda: len(client.errors) == 3, "three losses")
    delays = [event.retry_in for event in client.events if isinstance(event, Lost)]
    assert delays[-1] == pytest.approx(3.0)
    await client.connection.close()
