"""Where the app key comes from, what KIS issues for it, and that none of it is printed."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastws.kis import KISAuthManager, KISConnectionError, KISCredentialsError
from fastws.kis.credentials import find_credentials
from fastws.kis.retry import Backoff
from fastws.kis.testing import FakeKIS
from fastws.kis.volume import VolumeGaps
from fastws.logs import redact_text

KEY, SECRET = "PSkeykeykeykeykeykeykeykeykeykeykeykey", "secret/" * 20 + "+="


def test_arguments_before_the_environment_before_the_file(tmp_path: Path) -> None:
    path = tmp_path / "kis.toml"
    path.write_text('[kis]\napp_key = "fromfile"\napp_secret = "filesecret"\npaper = true\nhts_id = "me"\n')
    found = find_credentials(
        app_key=KEY, config_file=path, environ={"KIS_APP_SECRET": SECRET, "KIS_APP_KEY": "env"}
    )
    assert (found.app_key, found.app_secret, found.hts_id, found.is_paper) == (KEY, SECRET, "me", True)
    assert found.rest_url == "https://openapivts.koreainvestment.com:29443"
    assert found.ws_url == "ws://ops.koreainvestment.com:31000/tryitout"
    found = find_credentials(environ={"KIS_CONFIG": str(path), "KIS_PAPER": "0"})
    assert (found.app_key, found.is_paper, found.environment) == ("fromfile", False, "real")
    assert found.rest_url == "https://openapi.koreainvestment.com:9443"
    assert found.ws_url == "ws://ops.koreainvestment.com:21000/tryitout"


def test_the_file_that_kis_hands_out(tmp_path: Path) -> None:
    path = tmp_path / "kis_devlp.yaml"
    path.write_text(
        'my_app: "realkey"\nmy_sec: "realsec"\npaper_app: "mockkey"\npaper_sec: "mocksec"\nmy_htsid: "me"\n'
    )
    real = find_credentials(config_file=path, environ={})
    mock = find_credentials(config_file=path, paper=True, environ={})
    assert (real.app_key, real.app_secret, real.hts_id) == ("realkey", "realsec", "me")
    assert (mock.app_key, mock.app_secret, mock.hts_id) == ("mockkey", "mocksec", "me")


def test_hosts_by_argument_and_environment() -> None:
    environ = {
        "KIS_APP_KEY": KEY,
        "KIS_APP_SECRET": SECRET,
        "KIS_REST_URL": "http://a:1/",
        "KIS_WS_URL": "ws://b:2",
    }
    found = find_credentials(environ=environ)
    assert (found.rest_url, found.ws_url) == ("http://a:1", "ws://b:2/tryitout")
    assert find_credentials(environ=environ, ws_url="wss://c/x").ws_url == "wss://c/x"
    assert find_credentials(environ=environ, ws_url="ws://c/").ws_url == "ws://c/"


@pytest.mark.parametrize(
    ("environ", "text"),
    [
        ({}, "without an app key of KIS: set KIS_APP_KEY"),
        ({"KIS_APP_KEY": KEY}, "without an app secret of KIS: set KIS_APP_SECRET"),
        ({"KIS_APP_KEY": KEY, "KIS_APP_SECRET": "a b"}, "has blanks"),
        (
            {"KIS_APP_KEY": KEY, "KIS_APP_SECRET": SECRET, "KIS_PAPER": "maybe"},
            "KIS_PAPER is neither true nor false",
        ),
        (
            {"KIS_APP_KEY": KEY, "KIS_APP_SECRET": SECRET, "KIS_WS_URL": "https://x"},
            "KIS_WS_URL must be like ws://",
        ),
        (
            {"KIS_APP_KEY": KEY, "KIS_APP_SECRET": SECRET, "KIS_REST_URL": "http://u:p@x"},
            "KIS_REST_URL must be like",
        ),
        ({"KIS_CONFIG": "/nonexistent.toml"}, "/nonexistent.toml cannot be read"),
    ],
)
def test_what_cannot_be_used(environ: dict[str, str], text: str) -> None:
    with pytest.raises(KISCredentialsError, match="connection") as raised:
        find_credentials(environ=environ)
    assert text in str(raised.value)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.toml", "app_secret = unquoted", "is not valid TOML"),
        ("a.toml", "app_key = " + "1" * 5000, "is not valid TOML"),
        ("a.toml", "app_key = " + "[" * 5000, "is not valid TOML"),
        ("a.yaml", "app_secret: [", "is not valid YAML"),
        ("a.yaml", "app_key: 2026-99-99", "is not valid YAML"),
        ("a.yaml", "[" * 1500, "is not valid YAML"),
        ("a.yml", "- a\n- b", "has no table"),
        ("a.toml", b"\xff\xfe", "it is not UTF-8"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, name: str, content: str | bytes, text: str) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(KISCredentialsError, match="no connection") as raised:
        find_credentials(config_file=path, environ={})
    assert text in str(raised.value)


def test_nothing_secret_is_printed() -> None:
    manager = KISAuthManager(KEY, SECRET)
    for text in (repr(manager), repr(manager.credentials), str(manager.credentials)):
        assert SECRET not in text
        assert KEY not in text
    assert "PSke" in repr(manager)
    body = f'{{"appkey":"{KEY}","secretkey":"{SECRET}","approval_key":"abc-def"}}'
    assert redact_text(body) == '{"appkey":"[removed]","secretkey":"[removed]","approval_key":"[removed]"}'


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.naps: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds


def manager_of(kis: FakeKIS, clock: Clock, secret: str | None = None) -> KISAuthManager:
    return KISAuthManager(
        kis.app_key,
        secret or kis.app_secret,
        rest_url=kis.rest_url,
        ws_url=kis.ws_url,
        clock=clock,
        sleep=clock.sleep,
    )


async def test_an_approval_key_is_shared_until_it_is_old_or_refused(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with FakeKIS(market="none", approval_interval=0.0) as kis:
        clock = Clock()
        first = await manager_of(kis, clock).approval_key()
        manager = manager_of(kis, clock)
        assert await manager.approval_key() == first
        clock.now += 6 * 3600.0
        second = await manager.approval_key()
        assert second != first
        manager.forget_approval_key(first)
        assert await manager.approval_key() == second
        manager.forget_approval_key(second)
        third = await manager.approval_key()
        assert third != second
        assert clock.naps == [1.0], "KIS issues one a second"
        assert len(kis.journal.calls) == 3
        for secret in (kis.app_secret, first, second, third):
            assert secret not in caplog.text


async def test_an_access_token_is_kept_for_its_lifetime() -> None:
    async with FakeKIS(market="none", token_interval=0.0, token_seconds=3600.0) as kis:
        clock = Clock()
        manager = manager_of(kis, clock)
        first = await manager.access_token()
        clock.now += 2900.0
        assert await manager.access_token() == first
        clock.now += 200.0
        second = await manager.access_token()
        assert second != first
        manager.forget_access_token(second)
        await manager.access_token()
        assert clock.naps == [60.0], "KIS issues one a minute"


async def test_refusals_of_the_token_host() -> None:
    async with FakeKIS(market="none", approval_interval=0.0) as kis:
        with pytest.raises(KISCredentialsError, match="app secret") as raised:
            await manager_of(kis, Clock(), "wrong/secret").access_token()
        assert "wrong/secret" not in str(raised.value)
        kis.do("rest", of="approval", delay=30)
        slow = KISAuthManager(kis.app_key, "another", rest_url=kis.rest_url, time_limit=0.2)
        with pytest.raises(KISConnectionError, match=r"gave no answer within 0\.2 s"):
            await slow.approval_key()


@given(n=st.integers(1, 200), first=st.floats(0.1, 5.0), factor=st.floats(1.0, 100.0))
def test_delays_grow_to_their_ceiling_and_no_further(n: int, first: float, factor: float) -> None:
    backoff = Backoff(first, first * factor)
    for k in range(1, n + 1):
        assert first <= backoff.next_delay() <= min(first * factor, first * 2.0 ** min(k, 32)) * (1 + 1e-9)
    assert backoff.n_failures == n
    backoff.reset()
    assert backoff.next_delay() <= first * 2.0


def test_the_volume_that_was_missed() -> None:
    day = 20_000
    gaps = VolumeGaps()
    assert gaps.on_trade("H0UNCNT0", "A", 100, 10, day) is None
    assert gaps.on_trade("H0UNCNT0", "B", 50, 1, day) is None
    gaps.on_reconnected(2.0)
    assert gaps.on_trade("H0UNCNT0", "A", 175, 5, day) == ("H0UNCNT0", "A", 70, 2.0)
    assert gaps.on_trade("H0UNCNT0", "A", 180, 5, day) is None
    gaps.on_reconnected(3.0)
    assert gaps.on_trade("H0UNCNT0", "B", 20, 20, day) == ("H0UNCNT0", "B", None, 5.0)
    assert gaps.on_trade("H0UNCNT0", "C", 20, 20, day) is None
    gaps.forget("H0UNCNT0", "A")
    assert gaps.on_trade("H0UNCNT0", "A", 999, 1, day) is None
