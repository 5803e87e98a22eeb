"""Where settings come from, which one wins, and what is said about wrong ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastws.configuration import linked_variables, load
from fastws.errors import SettingsError
from fastws.settings import SETTINGS, Settings
from fastws.settings_catalog import shown
from fastws.settings_checks import FeedSpec, parse_feed


@pytest.fixture
def toml(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        path = tmp_path / "fastws.toml"
        path.write_text(text)
        return str(path)

    return write


def message(*arguments: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        load(*arguments)
    text = str(caught.value)
    assert "\n" not in text
    return text


# Values.


def test_defaults() -> None:
    settings = load(None, {}, {})
    assert settings == Settings()
    assert settings.sources == {}
    assert (settings.host, settings.port, settings.feed) == ("127.0.0.1", 8000, "none")
    assert (settings.batch_interval_ms, settings.rate_limit, settings.subscription_limit) == (30, 100, 50)
    assert (settings.message_bytes, settings.outbox_soft_bytes, settings.outbox_hard_bytes) == (
        65536,
        262144,
        1048576,
    )
    assert (settings.handshake_timeout, settings.ping_interval, settings.pong_timeout) == (10, 25, 60)
    assert (settings.stall_timeout, settings.idle_timeout, settings.control_rate_limit) == (30, 300, 200)
    assert (settings.flush_share, settings.book_history, settings.unknown_symbols) == (0.75, 64, "reject")
    assert settings.allowed_origins == ()


def test_flags_win_over_variables_and_variables_over_the_file(toml: Callable[[str], str]) -> None:
    path = toml("port = 1\nrate_limit = 1\nbook_history = 1\n")
    settings = load(path, {"FASTWS_PORT": "2", "FASTWS_RATE_LIMIT": "2"}, {"port": "3"})
    assert (settings.port, settings.rate_limit, settings.book_history) == (3, 2, 1)
    assert settings.sources == {"port": "--port", "rate_limit": "FASTWS_RATE_LIMIT", "book_history": path}


def test_the_file_can_be_named_by_a_variable(toml: Callable[[str], str]) -> None:
    assert load(None, {"FASTWS_CONFIG": toml("port = 7")}, {}).port == 7


def test_every_setting_can_be_given_in_every_way(toml: Callable[[str], str], tmp_path: Path) -> None:
    file = tmp_path / "symbols.csv"
    file.touch()
    keys = tmp_path / "keys.toml"
    keys.write_text('k1 = "secret"\n"k 2" = "other"\n')
    other = {
        "host": "0.0.0.0",
        "feed": "sim",
        "symbols_file": str(file),
        "unknown_symbols": "accept",
        "replay_speed": "max",
        "replay_loop": True,
        "simulator_seed": 5,
        "log_level": "debug",
        "log_format": "json",
        "allowed_origins": ["https://a.example", "http://b.example:81"],
        "flush_share": 0.5,
        "simulator_book_share": 0.25,
        "database": "sqlite:///fastws.db",
        "on_connection_limit": "evict_oldest",
        "jwt_algorithm": "ES256",
        "admin_token": "secret",
        "jwt_secret": "secret",
        "jwt_previous_secret": "secret",
        "jwt_public_key": "key.pem",
        "jwt_keys": {"k1": "secret", "k 2": "other"},
        "jwks_url": "https://id.example/jwks.json",
        "auth_url": "https://app.example/whoami",
        "jwt_audience": "fastws",
        "jwt_issuer": "https://id.example/",
        "user_id_claim": "uid",
        "unix_socket": "/run/fastws.sock",
        "unix_socket_mode": "660",
        "certfile": "chain.pem",
        "keyfile": "key.pem",
        "admin_bind": "127.0.0.1:9000",
        "calendars": ["KOSPI=KRX", "COINS=always"],
        "holidays": ["2026-12-25", "2026-11-19 10:00-16:30"],
        "trusted_proxies": ["10.0.0.0/8", "unix"],
        "kis_keys": {"k1": "secret", "k 2": "other"},
        "kis_exchange": "KRX",
        "kis_registrations": 41,
        "kis_fixed_symbols": 3,
        "kis_poll_rate": 5.0,
        "portfolios_query": "SELECT id, owner, name FROM app_portfolio",
        "positions_query": "SELECT portfolio_id, symbol, quantity FROM app_position",
        "closes_query": "SELECT symbol, current_price AS close FROM app_asset",
        "changes_query": "SELECT max(last_updated) FROM app_asset",
        "source": "simulator",
        "publish_url": ["http://10.0.0.5:8000", "https://push.example"],
        "relay": "redis://10.0.0.5:6379/0",
        "load": "my_feed:setup",
        "relay_name": "push1.example:8000",
        "upgrade_socket": "/run/fastws/upgrade.sock",
        "relay_prefix": "prices",
        "relay_shards": 16,
    }
    for name, setting in SETTINGS.items():
        default = setting.default
        value = other.get(
            name,
            not default
            if isinstance(default, bool)
            else default + 1
            if isinstance(default, (int, float))
            else None,
        )
        assert value is not None, name
        text = (
            ", ".join(value)
            if isinstance(value, list)
            else str(keys)
            if isinstance(value, dict)
            else str(value).lower()
            if value is True
            else str(value)
        )
        line = _toml_line(name, value)
        for settings, source in (
            (load(path := toml(line), {}, {}), path),
            (load(None, {setting.variable: text}, {}), setting.variable),
            (load(None, {}, {name: text}), setting.flag),
        ):
            got = getattr(settings, name)
            assert got == (tuple(value) if isinstance(value, list) else value)
            assert got != setting.default
            assert settings.sources == {name: source}
    assert load(toml(f"jwt_keys = {str(keys)!r}"), {}, {}).jwt_keys == other["jwt_keys"]


def _toml_line(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"{name} = {str(value).lower()}"
    if isinstance(value, dict):
        return "\n".join([f"[{name}]", *(f"{key!r} = {item!r}" for key, item in value.items())])
    return f"{name} = {value!r}"


@pytest.mark.parametrize(
    ("text", "value"), [("1", True), ("TRUE", True), ("on", True), ("no", False), ("0", False)]
)
def test_switches(text: str, value: bool) -> None:
    assert load(None, {"FASTWS_REPLAY_LOOP": text}, {}).replay_loop is value
    assert load(None, {}, {"replay_loop": value}).replay_loop is value


def test_an_empty_variable_counts_as_absent() -> None:
    assert (
        load(None, {"FASTWS_PORT": "", "FASTWS_SYMBOLS_FILE": "", "WEBSOCKET_TIMEOUT": ""}, {}).sources == {}
    )


def test_the_older_name_of_the_idle_timeout() -> None:
    settings = load(None, {"WEBSOCKET_TIMEOUT": "120"}, {})
    assert settings.idle_timeout == 120
    assert settings.sources == {"idle_timeout": "WEBSOCKET_TIMEOUT"}
    assert load(None, {"WEBSOCKET_TIMEOUT": "120", "FASTWS_IDLE_TIMEOUT": "60"}, {}).idle_timeout == 60


def test_variables_of_the_build_and_of_others_are_let_be() -> None:
    environ = {"FASTWS_DEBUG": "1", "FASTWS_SANITIZE": "address", "PATH": "/bin", "REALTIME_OTHER": "50"}
    assert load(None, environ, {}).sources == {}


SERVICE_LINKS = {
    "FASTWS_SERVICE_HOST": "10.0.0.1",
    "FASTWS_SERVICE_PORT": "8000",
    "FASTWS_SERVICE_PORT_HTTP": "8000",
    "FASTWS_PORT": "tcp://10.0.0.1:8000",
    "FASTWS_PORT_8000_TCP": "tcp://10.0.0.1:8000",
    "FASTWS_PORT_8000_TCP_PROTO": "tcp",
    "FASTWS_PORT_8000_TCP_PORT": "8000",
    "FASTWS_PORT_8000_TCP_ADDR": "10.0.0.1",
}


def test_service_links_of_kubernetes_are_no_settings() -> None:
    assert load(None, SERVICE_LINKS, {}).sources == {}
    assert linked_variables(SERVICE_LINKS) == ["FASTWS_PORT"]
    # A Service named fastws-db.
    others = {name.replace("FASTWS_", "FASTWS_DB_", 1): value for name, value in SERVICE_LINKS.items()}
    assert load(None, others, {}).sources == {}
    assert linked_variables(others) == []
    udp = {"FASTWS_PORT": "udp://10.0.0.1:53", "FASTWS_PORT_53_UDP": "udp://10.0.0.1:53"}
    assert load(None, udp, {}).port == 8000


def test_a_port_beside_service_links_counts() -> None:
    environ = SERVICE_LINKS | {"FASTWS_PORT": "9000"}
    assert load(None, environ, {}).port == 9000
    assert linked_variables(environ) == []
    assert "from 0 to 65535" in message(None, {"FASTWS_PORT": "http://10.0.0.1:8000"}, {})
    for variable in ("FASTWS_PORT_NUMBER", "FASTWS_SERVICE", "FASTWS_PORTS"):
        assert message(None, {variable: "9000"}, {}).startswith(f"{variable}: unknown setting")


def test_the_sample_is_the_shipped_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sample = parse_feed("replay:sample")
    assert sample.kind == "replay"
    assert sample.path is not None
    assert Path(sample.path).name == "kis_frames.txt"
    (tmp_path / "sample").touch()
    assert load(None, {"FASTWS_FEED": "replay:sample"}, {}).feed == "replay:sample"
    assert parse_feed("replay:sample") == sample
    assert parse_feed("replay:./sample") == FeedSpec("replay", "./sample")


@pytest.mark.parametrize(("text", "speed"), [("2", 2.0), ("0.5", 0.5), ("max", "max")])
def test_replay_speed(text: str, speed: float | str) -> None:
    assert load(None, {}, {"replay_speed": text}).replay_speed == speed


# Mistakes.


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("port", "70000", "a whole number from 0 to 65535"),
        ("port", "-1", "a whole number from 0 to 65535"),
        ("port", "80.5", "a whole number from 0 to 65535"),
        ("port", "http", "a whole number from 0 to 65535"),
        ("host", " ", "a text that is not empty"),
        ("flush_share", "0.99", "a number from 0.05 to 0.95"),
        ("idle_timeout", "0", "a number above 0 and up to 86400"),
        ("idle_timeout", "nan", "a number above 0 and up to 86400"),
        ("idle_timeout", "inf", "a number above 0 and up to 86400"),
        ("replay_speed", "0", "a number above 0, or max"),
        ("replay_speed", "inf", "a number above 0, or max"),
        ("replay_speed", "fast", "a number above 0, or max"),
        ("replay_loop", "maybe", "true or false"),
        ("unknown_symbols", "ignore", "one of reject, accept"),
        ("log_level", "trace", "one of debug, info, warning, error"),
        ("jwt_leeway", "-1", "a number from 0 to 3600"),
        ("auth_timeout", "0", "a number above 0 and up to 300"),
        ("user_id_claim", " ", "a text that is not empty"),
        ("jwt_audience", " ", "a text that is not empty"),
        ("simulator_seed", "x", "a whole number from 0 to 4294967295"),
        ("simulator_seed", "-1", "a whole number from 0 to 4294967295"),
    ],
)
def test_a_wrong_value_names_setting_source_and_what_is_expected(name: str, text: str, expected: str) -> None:
    setting = SETTINGS[name]
    for environ, flags, source in (
        ({setting.variable: text}, {}, setting.variable),
        ({}, {name: text}, setting.flag),
    ):
        with pytest.raises(SettingsError) as caught:
            load(None, environ, flags)
        assert str(caught.value).startswith(f"{name}: ")
        assert str(caught.value).endswith(f" (from {source}) is not usable; expected {expected}")
        assert (caught.value.setting, caught.value.source) == (name, source)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ('port = "8000"', "port"),
        ("port = true", "port"),
        ("port = 8000.0", "port"),
        ("replay_loop = 1", "replay_loop"),
        ('allowed_origins = "https://a.example"', "allowed_origins"),
        ("allowed_origins = [1]", "allowed_origins"),
        ("host = 5", "host"),
        ('replay_speed = "2"', "replay_speed"),
    ],
)
def test_the_file_has_types(toml: Callable[[str], str], line: str, name: str) -> None:
    path = toml(line)
    assert message(path, {}, {}).startswith(f"{name}: ")
    assert f"(from {path})" in message(path, {}, {})


@pytest.mark.parametrize(
    ("name", "text", "given"),
    [
        ("replay_speed", "0", "0"),
        ("replay_speed", "-00", "-00"),
        ("idle_timeout", "1e9", "1e9"),
        ("port", "True", "True"),
        ("port", "http", "http"),
        ("port", "80 80", '"80 80"'),
        ("host", " ", '" "'),
        ("log_level", "x" * 100, "x" * 77 + "..."),
    ],
)
def test_a_wrong_text_is_shown_as_typed(name: str, text: str, given: str) -> None:
    assert message(None, {}, {name: text}).startswith(f"{name}: {given} (from --")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "true"),
        ("port", '"8000"'),
        ("port", "99999999999999999999999"),
        ("replay_loop", "0"),
        ("replay_speed", "0"),
        ("replay_speed", "0.0"),
        ("host", '[1, true, "x"]'),
        ("host", '{ip = "::"}'),
        ("host", "1979-05-27"),
        ("allowed_origins", '"삼성"'),
    ],
)
def test_a_wrong_value_of_the_file_is_shown_as_it_stands_there(
    toml: Callable[[str], str], name: str, value: str
) -> None:
    path = toml(f"{name} = {value}\n")
    assert message(path, {}, {}).startswith(f"{name}: {value} (from {path}) is not usable; ")


def test_unknown_names_come_with_the_likely_one(toml: Callable[[str], str]) -> None:
    text = message(None, {"FASTWS_BATCH_INTERVL_MS": "30"}, {})
    assert text.startswith("FASTWS_BATCH_INTERVL_MS: unknown setting, did you mean FASTWS_BATCH_INTERVAL_MS?")
    assert "did you mean FASTWS_PORT?" in message(None, {"FASTWS_Port": "30"}, {})
    assert "did you mean batch_interval_ms?" in message(toml("batch-interval-ms = 30"), {}, {})
    assert "did you mean" not in message(toml("zzz = 30"), {}, {})
    assert "outside of tables" in message(toml("[server]\nport = 1"), {}, {})


def test_the_first_of_several_problems_says_that_there_are_more() -> None:
    given = {"FASTWS_PORT": "x", "FASTWS_RATE_LIMIT": "y", "FASTWS_NONSENSE": "1"}
    assert message(None, given, {}).endswith(" (and 2 more: run fastws check-config)")
    assert "more" not in message(None, {"FASTWS_PORT": "x"}, {})


def test_a_file_that_cannot_be_read(toml: Callable[[str], str], tmp_path: Path) -> None:
    assert message(str(tmp_path / "no.toml"), {}, {}).startswith("config: cannot read ")
    assert "line 2" in message(toml("port = 1\nport x"), {}, {})
    # What Python's reader of TOML has no words of its own for.
    assert "4300 digits" in message(toml("port = " + "1" * 5000), {}, {})
    assert "nested too deeply" in message(toml("port = " + "[" * 5000), {}, {})
    (tmp_path / "keys.toml").write_text("key-1 = " + "[" * 5000)
    assert "it is not TOML" in message(None, {"FASTWS_JWT_KEYS": str(tmp_path / "keys.toml")}, {})


def test_a_variable_that_is_no_utf_8() -> None:
    """As os.environ gives what a shell may set: bytes that are no text stand as lone surrogates."""
    assert message(None, {"FASTWS_PORT": "\udcff"}, {}).startswith("port: ")
    assert message(None, {"FASTWS_LOG_LEVEL": "\udcff"}, {}).startswith("log_level: ")


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("none", FeedSpec("none")),
        ("sim", FeedSpec("sim")),
        ("replay:day.txt", FeedSpec("replay", "day.txt")),
        ("replay:C:/day.txt", FeedSpec("replay", "C:/day.txt")),
        ("poll:yahoo", FeedSpec("poll", source="yahoo")),
        ("poll:csv:/data/prices.csv", FeedSpec("poll", source="csv:/data/prices.csv")),
    ],
)
def test_feeds(text: str, spec: FeedSpec) -> None:
    assert parse_feed(text) == spec


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("kis:x", "'kis:x': the feed kis takes no argument; write kis"),
        ("poll", "a poll needs its source: poll:kis, poll:yahoo, poll:csv:FILE or poll:simulator"),
        ("poll:", "a poll needs its source"),
        ("pol:yahoo", "did you mean poll?"),
        ("replay", "replay:FILE"),
        ("replay:", "replay:FILE"),
        ("sim:5", "takes no argument"),
        ("replai:x", "did you mean replay?"),
        ("", "available: none, sim, replay:FILE"),
    ],
)
def test_feeds_that_do_not_exist(text: str, part: str) -> None:
    error = message(None, {}, {"feed": text})
    assert error.startswith("feed: ")
    assert part in error
    assert "(from --feed)" in error


def test_files_must_exist(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    assert message(None, {}, {"feed": f"replay:{missing}"}) == (
        f"feed: there is no file {missing} (from --feed); check the path"
    )
    assert message(None, {"FASTWS_SYMBOLS_FILE": missing}, {}).startswith("symbols_file: there is no file ")
    assert message(None, {}, {"feed": f"replay:{tmp_path}"}) == (
        f"feed: {tmp_path} is a directory (from --feed); name a file"
    )
    assert message(None, {}, {"symbols_file": os.devnull}) == (
        f"symbols_file: {os.devnull} is not a regular file (from --symbols-file); name one"
    )


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "a.example",
        "https://a.example/",
        "https://a.example/x",
        "ftp://a.example",
        "https://u@a",
        "https://a:x",
    ],
)
def test_what_is_no_origin(origin: str) -> None:
    assert message(None, {"FASTWS_ALLOWED_ORIGINS": origin}, {}).startswith("allowed_origins: ")


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(SettingsError) as caught:
        load(None, {"FASTWS_OUTBOX_HARD_BYTES": "100000"}, {})
    assert caught.value.source == "FASTWS_OUTBOX_HARD_BYTES"
    assert "outbox_soft_bytes (262144) must not be over outbox_hard_bytes (100000)" in str(caught.value)
    with pytest.raises(SettingsError) as caught:
        load(None, {"FASTWS_PING_INTERVAL": "60"}, {})
    assert (caught.value.setting, caught.value.source) == ("ping_interval", "FASTWS_PING_INTERVAL")
    assert message(None, {"FASTWS_WORKERS": "2", "FASTWS_UNIX_SOCKET": "/run/fastws"}, {}).startswith(
        "unix_socket: 2 workers share a port, and cannot share a Unix socket"
    )


@pytest.mark.parametrize(
    "url",
    [
        "id.example/jwks.json",
        "//id.example/jwks.json",
        "file:///etc/passwd",
        "ftp://id.example/jwks.json",
        "https:///jwks.json",
        "https://user:password-in-it@id.example/jwks.json",
        "https://id.example:x/jwks.json",
        "https://id.example:0/jwks.json",
        "https://[::1/jwks.json",
        "https://id.example/a b",
        "https://id.example/\u00fc",
    ],
)
def test_what_is_no_address_of_keys(url: str) -> None:
    text = message(None, {"FASTWS_JWKS_URL": url}, {})
    assert text.startswith(
        "jwks_url: the value is not an address of key sets (from FASTWS_JWKS_URL); write one"
    )
    assert url not in text


# Secrets.


def test_secrets_are_not_shown(toml: Callable[[str], str], tmp_path: Path) -> None:
    secret = "s3cr3t value"
    pem = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"
    given = {"jwt_secret": secret, "jwt_previous_secret": secret, "jwt_keys": {"k1": secret}}
    assert {name for name, setting in SETTINGS.items() if setting.is_secret} >= given.keys()
    settings = Settings(**given, jwt_public_key=pem, port=1)  # type: ignore[arg-type]
    assert repr(settings) == (
        "Settings(port=1, jwt_secret=***, jwt_previous_secret=***, jwt_public_key=PEM text, jwt_keys=***)"
    )
    for name, value in given.items():
        assert shown(SETTINGS[name], value) == "***"
    assert shown(SETTINGS["port"], 8000) == "8000"
    assert shown(SETTINGS["jwt_secret"], None) == "None"
    assert shown(SETTINGS["jwt_public_key"], "/etc/fastws/key.pem") == '"/etc/fastws/key.pem"'
    assert shown(SETTINGS["jwt_public_key"], pem) == "PEM text"

    wrong = (
        message(toml(f"jwt_secret = ['{secret}']"), {}, {}),
        message(toml(f"jwt_keys = {{ k1 = ['{secret}'] }}"), {}, {}),
        message(toml(f"jwt_keys = ['{secret}']"), {}, {}),
        message(None, {"FASTWS_JWT_KEYS": secret}, {}),
        message(toml(f"jwt_keys = '{secret}'"), {}, {}),
        message(None, {}, {"jwt_keys": f"k1={secret}"}),
    )
    assert not any(secret in text for text in wrong)
    assert all("***" in text for text in wrong[:3])
    file = tmp_path / "keys.toml"
    file.write_text(f"k1 = {secret}\n")
    text = message(None, {"FASTWS_JWT_KEYS": str(file)}, {})
    assert f"the file {file}, which FASTWS_JWT_KEYS names, cannot be read: it is not TOML" in text
    assert "s3cr3t" not in text
    file.write_text("k1 = 5\n")
    assert "*** (from FASTWS_JWT_KEYS) is not usable" in message(None, {"FASTWS_JWT_KEYS": str(file)}, {})
    file.write_bytes(b"\xff")
    assert "it is not TOML" in message(None, {}, {"jwt_keys": str(file)})


def test_an_empty_secret_is_none() -> None:
    text = message(None, {}, {"jwt_secret": ""})
    assert text == 'jwt_secret: "" (from --jwt-secret) is not usable; expected a text that is not empty'
    assert load(None, {"FASTWS_JWT_SECRET": ""}, {}).jwt_secret is None


# What help and documentation show.


def test_every_setting_is_described() -> None:
    assert set(SETTINGS) == set(Settings.__struct_fields__) - {"sources"}
    for setting in SETTINGS.values():
        assert setting.description, setting.name
        assert len(setting.description) <= 110, setting.name
        assert setting.expects, setting.name
        assert setting.name.isascii()
    assert SETTINGS["batch_interval_ms"].default_text == "30 ms"
    assert SETTINGS["symbols_file"].default_text == "unset"
    assert SETTINGS["replay_loop"].default_text == "off"
    assert SETTINGS["jwt_keys"].default_text == "unset"
    assert (SETTINGS["rate_limit"].flag, SETTINGS["rate_limit"].variable) == (
        "--rate-limit",
        "FASTWS_RATE_LIMIT",
    )


def test_settings_do_not_change() -> None:
    with pytest.raises(AttributeError):
        Settings().port = 1  # type: ignore[misc]


def test_names_of_the_price_feed_service_are_settings_too() -> None:
    environ = {
        "REALTIME_UPDATE_INTERVAL": "15",
        "REALTIME_BATCH_SIZE": "100",
        "REALTIME_CACHE_TIMEOUT": "600",
        "FASTWS_POLL_BATCH_SIZE": "20",
    }
    settings = load(None, environ, {})
    assert (settings.poll_interval, settings.poll_batch_size, settings.poll_fresh) == (15.0, 20, 600.0)
    defaults = Settings()
    assert (defaults.poll_interval, defaults.poll_batch_size, defaults.poll_fresh) == (30.0, 50, 300.0)
    assert "poll_interval: soon (from REALTIME_UPDATE_INTERVAL)" in message(
        None, {"REALTIME_UPDATE_INTERVAL": "soon"}, {}
    )


@pytest.mark.parametrize(
    "url",
    ["10.0.0.5:8000", "ws://a.example", "http://u:hidden@a.example", "http://a.example/?x=1", "http://"],
)
def test_addresses_to_publish_to(url: str) -> None:
    text = message(None, {"FASTWS_PUBLISH_URL": f"http://127.0.0.1:8000,{url}"}, {})
    assert text.startswith("publish_url: an address in it is not that of a server (from FASTWS_PUBLISH_URL)")
    assert "hidden" not in text
