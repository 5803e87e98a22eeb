"""Keys that an issuer publishes, fetched from a real server on a real socket that behaves well or badly."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import io
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import jwt
import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from fastws import logs
from fastws.auth import Authenticator, AuthError
from fastws.auth.jwks import MAX_SET_SIZE, RemoteKeys, Timing
from fastws.auth.keys import KeyMaterialError, read_key_set
from fastws.errors import SettingsError
from fastws.server.fetch import fetch
from fastws.settings import Settings

NOW = 1_800_000_000.0
KEYS = [ec.generate_private_key(ec.SECP256R1()) for _ in range(4)]
# Nothing is fetched again by itself within a test, and a slow issuer is given up soon.
STILL = Timing(lifetime=3600, first_retry=3600, last_retry=3600, cooldown=3600, time_limit=5)
EAGER = Timing(lifetime=0.01, first_retry=0.01, last_retry=0.02, cooldown=0.01, time_limit=5)

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


def jwk(number: int, kid: str | None = "", **members: Any) -> dict[str, Any]:
    key: dict[str, Any] = ECAlgorithm.to_jwk(KEYS[number].public_key(), as_dict=True)
    return key | ({} if kid is None else {"kid": kid or f"k{number}"}) | members


def key_set(*members: Any) -> bytes:
    return json.dumps({"keys": list(members)}).encode()


def token(number: int, **header: Any) -> str:
    claims = {"sub": "user-123", "exp": NOW + 60}
    return jwt.encode(claims, KEYS[number], "ES256", headers={"kid": f"k{number}"} | header)


def body(data: bytes, status: str = "200 OK", *headers: str) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(data)}", "Connection: close", *headers, "", ""]
        writer.write("\r\n".join(lines).encode() + data)
        await writer.drain()

    return answer


async def silence(writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def dripping_head(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-Y: z\r\n")
        await writer.drain()
        await asyncio.sleep(0.02)


async def dripping_body(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


async def endless(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b" " * 4096)
        await writer.drain()


async def cut(writer: asyncio.StreamWriter) -> None:
    writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{"keys":[')
    await writer.drain()


async def hang_up(writer: asyncio.StreamWriter) -> None:
    pass


async def no_http(writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 mail.example ESMTP\r\n")
    await writer.drain()


class Issuer:
    """A server that gives `answer` to every request; `asked` counts them, `heads` keeps what they were."""

    def __init__(self) -> None:
        self.answer: Answer = body(key_set(jwk(0)))
        self.asked = 0
        self.heads: list[str] = []
        self.url = ""
        self._tasks: set[asyncio.Task[None]] = set()

    async def on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.asked += 1
            self.heads.append(head.decode())
            await self.answer(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has seen enough
        except asyncio.CancelledError:
            pass  # the test is over
        finally:
            self._tasks.discard(task)
            writer.close()

    @contextlib.asynccontextmanager
    async def listening(self, port: int = 0) -> AsyncIterator[None]:
        server = await asyncio.start_server(self.on_connection, "127.0.0.1", port)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks.json"
        try:
            yield
        finally:
            server.close()
            for task in list(self._tasks):
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)


@pytest.fixture
async def issuer(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Issuer]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = Issuer()
    async with made.listening():
        yield made


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    monkeypatch.setattr(logs, "limiter", logs.LogLimiter())
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@contextlib.asynccontextmanager
async def authenticating(
    issuer: Issuer, timing: Timing = STILL, *, start: bool = True, **settings: Any
) -> AsyncIterator[Authenticator]:
    settings = {"jwt_algorithm": "ES256", "jwks_url": issuer.url} | settings
    subject = Authenticator(Settings(**settings), fetch=fetch, clock=lambda: NOW, jwks_timing=timing)
    if start:
        subject.start()
    try:
        yield subject
    finally:
        await subject.close()
        left = [task for task in asyncio.all_tasks() if task.get_name().startswith("fastws")]
        assert left == []


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.002)


def reason(subject: Authenticator, text: str) -> str | None:
    try:
        subject.verify(text)
    except AuthError as error:
        return error.reason
    return None


async def awaited_reason(subject: Authenticator, text: str) -> str | None:
    try:
        await subject.authenticate(text)
    except AuthError as error:
        return error.reason
    return None


# The usual course.


async def test_published_keys(issuer: Issuer, log: io.StringIO) -> None:
    async with authenticating(issuer) as subject:
        assert subject.has_keys
        await until(lambda: reason(subject, token(0)) is None)
        assert reason(subject, token(1)) == "unknown_key"
        assert reason(subject, token(1, kid="k0")) == "signature"
        assert subject.verify(jwt.encode({"sub": "u"}, KEYS[0], "ES256")).user_id == "u"  # without a key id
        assert reason(subject, jwt.encode({"sub": "u"}, KEYS[1], "ES256")) == "signature"
    assert issuer.asked == 1
    assert "the issuer's keys are known" in log.getvalue()


async def test_the_request(issuer: Issuer) -> None:
    assert json.loads(await fetch(f"{issuer.url}?a=b", 10_000, 5))["keys"][0]["kid"] == "k0"
    (head,) = issuer.heads
    assert head.startswith("GET /jwks.json?a=b HTTP/1.1\r\n")
    assert "Accept-Encoding: identity\r\n" in head
    assert "Authorization" not in head


async def test_without_the_background_the_first_token_fetches(issuer: Issuer) -> None:
    async with authenticating(issuer, start=False) as subject:
        assert reason(subject, token(0)) == "unavailable"
        assert (await subject.authenticate(token(0))).user_id == "user-123"
    assert issuer.asked == 1


async def test_keys_are_fetched_again_and_again(issuer: Issuer) -> None:
    async with authenticating(issuer, EAGER) as subject:
        await until(lambda: reason(subject, token(0)) is None)
        issuer.answer = body(key_set(jwk(0), jwk(1)))
        await until(lambda: reason(subject, token(1)) is None)
        assert reason(subject, token(0)) is None
        issuer.answer = body(key_set(jwk(1)))  # the old key has been withdrawn
        await until(lambda: reason(subject, token(0)) == "unknown_key")
        assert reason(subject, token(1)) is None


# Unknown key ids.


async def test_an_unknown_key_id_fetches_once(issuer: Issuer) -> None:
    async with authenticating(issuer) as subject:
        await until(lambda: reason(subject, token(0)) is None)
        issuer.answer = body(key_set(jwk(0), jwk(1)))
        found = await asyncio.gather(*(awaited_reason(subject, token(1)) for _ in range(50)))
        assert set(found) == {None}
        assert issuer.asked == 2
        found = await asyncio.gather(*(awaited_reason(subject, token(2, kid=f"x{n}")) for n in range(50)))
        assert set(found) == {"unknown_key"}
        assert issuer.asked == 2
        # What is wrong in another way fetches nothing.
        assert await awaited_reason(subject, token(1, kid="k0")) == "signature"
        assert await awaited_reason(subject, "x") == "malformed"
        # Each counts once, also where it was verified twice; looking without waiting counts when that is final.
        assert subject.failures == {"unknown_key": 50, "signature": 1, "malformed": 1}
        assert reason(subject, token(2, kid="x")) == "unknown_key"
        assert reason(subject, "x") == "malformed"
        assert subject.failures == {"unknown_key": 50, "signature": 1, "malformed": 2}
    assert issuer.asked == 2


async def test_unknown_key_ids_fetch_at_most_once_per_cooldown(issuer: Issuer) -> None:
    now = [1000.0]
    remote = RemoteKeys(issuer.url, "ES256", fetch, Timing(cooldown=60), lambda: now[0])
    assert remote.age is None
    assert await remote.look_again()
    for moment, is_fetched in ((1000, False), (1059.9, False), (1060, True), (1061, False), (1500, True)):
        now[0] = moment
        assert await remote.look_again() is is_fetched
    assert issuer.asked == 3
    now[0] = 1503
    assert remote.age == 3
    await remote.close()


async def test_a_configured_key_beside_published_ones(issuer: Issuer) -> None:
    key = KEYS[3].public_key()
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    issuer.answer = body(b"", "503 Service Unavailable")
    async with authenticating(issuer, jwt_public_key=pem, jwt_keys={"mine": pem}) as subject:
        assert reason(subject, token(3)) is None
        assert reason(subject, token(3, kid="mine")) is None
        assert await awaited_reason(subject, token(0)) == "unavailable"
    issuer.answer = body(key_set(jwk(0)))
    async with authenticating(issuer, jwt_public_key=pem, jwt_keys={"mine": pem}) as subject:
        await until(lambda: reason(subject, token(0)) is None)
        issuer.answer = body(key_set(jwk(1)))
        # A key id that is not known leaves the key without one, and still asks the issuer.
        assert reason(subject, token(1)) == "unknown_key"
        assert await awaited_reason(subject, token(1)) is None
        assert reason(subject, token(3)) is None
        assert reason(subject, token(3, kid="mine")) is None


# Outages.

BAD: dict[str, tuple[Answer, str]] = {
    "error": (body(b"", "500 Internal Server Error"), "HTTP status 500"),
    "missing": (body(key_set(jwk(1)), "404 Not Found"), "HTTP status 404"),
    "altered": (body(key_set(jwk(1)), "203 Somebody Else"), "HTTP status 203"),
    "redirect": (body(b"", "302 Found", "Location: /elsewhere"), "HTTP status 302"),
    "silence": (silence, "no complete answer within 1 s"),
    "dripping head": (dripping_head, "no complete answer within 1 s"),
    "dripping body": (dripping_body, "no complete answer within 1 s"),
    "endless": (endless, "over 65536 bytes"),
    "huge": (body(key_set(jwk(1)) + b" " * MAX_SET_SIZE), "over 65536 bytes"),
    "bomb": (body(gzip.compress(bytes(64 << 20)), "200 OK", "Content-Encoding: gzip"), "over 65536 bytes"),
    "cut": (cut, ""),
    "hang up": (hang_up, ""),
    "no HTTP": (no_http, ""),
    "no JSON": (body(b"<html>down for maintenance</html>"), "is not a JWK Set"),
    "nested": (body(b'{"keys":' + b"[" * 60_000), "is not a JWK Set"),
    "not UTF-8": (body(b'{"keys":["\xff"]}'), "is not a JWK Set"),
    "list": (body(b"[]"), "is not a JWK Set"),
    "no keys": (body(b"{}"), "is not a JWK Set"),
    "keys of a wrong type": (body(b'{"keys":{"k1":{}}}'), "is not a JWK Set"),
    "empty": (body(key_set()), "has no key for ES256 among its 0"),
    "other keys": (body(key_set(5, None, {}, {"kty": "oct", "k": "AAAA"})), "no key for ES256 among its 4"),
}


@pytest.mark.parametrize("name", BAD)
async def test_known_keys_outlive_a_bad_answer(issuer: Issuer, name: str, log: io.StringIO) -> None:
    answer, error = BAD[name]
    async with authenticating(issuer, STILL._replace(time_limit=1.0, cooldown=0)) as subject:
        await until(lambda: reason(subject, token(0)) is None)
        issuer.answer = answer
        started = time.monotonic()
        assert await awaited_reason(subject, token(1)) == "unknown_key"
        assert time.monotonic() - started < 3
        assert issuer.asked in ((2, 3) if name == "hang up" else (2,))  # a GET may be tried again
        assert reason(subject, token(0)) is None
        issuer.answer = body(key_set(jwk(1)))
        assert await awaited_reason(subject, token(1)) is None
    (line,) = [line for line in map(json.loads, log.getvalue().splitlines()) if line["level"] == "warning"]
    assert line["event"] == "the key set of the issuer cannot be used"
    assert error in line["error"]
    assert line["error"]
    assert line["keeps_old_keys"] is True


@pytest.mark.parametrize("name", ["error", "silence", "no JSON", "cut"])
async def test_a_bad_start_is_got_over(issuer: Issuer, name: str, log: io.StringIO) -> None:
    good, issuer.answer = issuer.answer, BAD[name][0]
    async with authenticating(issuer, EAGER._replace(time_limit=0.05)) as subject:
        assert await awaited_reason(subject, token(0)) == "unavailable"
        await until(lambda: issuer.asked >= 3)
        assert reason(subject, token(0)) == "unavailable"
        issuer.answer = good
        await until(lambda: reason(subject, token(0)) is None)
    assert log.getvalue().count("cannot be used") == 1  # however many attempts there were


async def test_an_issuer_that_is_down(issuer: Issuer) -> None:
    down = Issuer()
    async with down.listening():
        port = int(down.url.split(":")[2].partition("/")[0])
    async with authenticating(down, EAGER) as subject:
        assert await awaited_reason(subject, token(0)) == "unavailable"
        async with down.listening(port):
            await until(lambda: reason(subject, token(0)) is None)
        # Down again, and what is known goes on counting.
        assert reason(subject, token(0)) is None
        assert await awaited_reason(subject, token(1)) == "unknown_key"
        assert reason(subject, token(0)) is None


async def test_the_loop_goes_on_while_the_issuer_is_silent(issuer: Issuer) -> None:
    async with authenticating(issuer, STILL._replace(time_limit=0.5, cooldown=0)) as subject:
        await until(lambda: reason(subject, token(0)) is None)
        issuer.answer = silence
        n_asked = issuer.asked
        waiting = asyncio.create_task(awaited_reason(subject, token(1)))
        n_turns = 0
        while not waiting.done():
            await asyncio.sleep(0)
            # The issuer is on this loop: who waited for it otherwise would not be heard.
            n_turns += issuer.asked > n_asked
            assert reason(subject, token(0)) is None
        assert waiting.result() == "unknown_key"
        assert n_turns > 20


async def test_pauses_between_attempts_grow(issuer: Issuer) -> None:
    issuer.answer = body(b"", "500 No")
    pauses: list[float] = []

    async def sleep(pause: float) -> None:
        pauses.append(pause)
        if len(pauses) == 6:
            issuer.answer = body(key_set(jwk(0)))
        if len(pauses) == 8:
            await asyncio.Event().wait()

    remote = RemoteKeys(issuer.url, "ES256", fetch, Timing(lifetime=300), sleep=sleep)
    remote.start()
    remote.start()  # changes nothing
    await until(lambda: len(pauses) == 8)
    await remote.close()
    for pause, longest in zip(pauses, (1, 2, 4, 8, 16, 32, 300, 300), strict=True):
        assert longest * 0.8 <= pause <= longest


async def test_pauses_are_bounded(issuer: Issuer) -> None:
    issuer.answer = body(b"", "500 No")
    pauses: list[float] = []

    async def sleep(pause: float) -> None:
        pauses.append(pause)

    remote = RemoteKeys(issuer.url, "ES256", fetch, Timing(), sleep=sleep)
    remote.start()
    await until(lambda: len(pauses) >= 12)
    await remote.close()
    assert all(48 <= pause <= 60 for pause in pauses[6:])


# Ending and changing.


async def test_ending_while_a_fetch_is_under_way(issuer: Issuer) -> None:
    issuer.answer = silence
    async with authenticating(issuer) as subject:
        waiting = asyncio.create_task(awaited_reason(subject, token(0)))
        await until(lambda: issuer.asked == 1)
        await subject.close()
        assert await waiting == "unavailable"
        await subject.close()  # changes nothing


async def test_one_who_gives_up_waiting_does_not_end_it_for_the_others(issuer: Issuer) -> None:
    go = asyncio.Event()

    async def held(writer: asyncio.StreamWriter) -> None:
        await go.wait()
        await body(key_set(jwk(0)))(writer)

    issuer.answer = held
    async with authenticating(issuer) as subject:
        first, second = (asyncio.create_task(awaited_reason(subject, token(0))) for _ in range(2))
        await until(lambda: issuer.asked == 1)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        go.set()
        assert await second is None
    assert issuer.asked == 1


async def test_reload(issuer: Issuer) -> None:
    other = Issuer()
    other.answer = body(key_set(jwk(1)))
    async with other.listening(), authenticating(issuer) as subject:
        await until(lambda: reason(subject, token(0)) is None)
        same = {"jwt_algorithm": "ES256", "jwks_url": issuer.url}
        await subject.reload(Settings(**same, user_id_claim="sub", jwt_leeway=5))  # type: ignore[arg-type]
        assert subject.verify(token(0)).ends_at == NOW + 65
        issuer.answer = body(key_set(jwk(2)))
        await subject.reload(Settings(**same))  # type: ignore[arg-type]
        assert reason(subject, token(0)) is None
        await until(lambda: reason(subject, token(0)) == "unknown_key")
        assert reason(subject, token(2)) is None
        await subject.reload(Settings(**same | {"jwks_url": other.url}))  # type: ignore[arg-type]
        await until(lambda: reason(subject, token(1)) is None)
        assert reason(subject, token(2)) == "unknown_key"
        with pytest.raises(SettingsError):
            await subject.reload(Settings(jwks_url=other.url))
        assert reason(subject, token(1)) is None
        await subject.reload(Settings())
        assert not subject.has_keys
        assert reason(subject, token(1)) == "algorithm"


async def test_who_waits_for_keys_while_the_settings_are_replaced_is_not_turned_away(issuer: Issuer) -> None:
    async with authenticating(issuer) as subject:
        await until(lambda: reason(subject, token(0)) is None)
        asked = issuer.asked
        issuer.answer = silence
        waiting = asyncio.create_task(awaited_reason(subject, token(1)))
        await until(lambda: issuer.asked > asked)
        issuer.answer = body(key_set(jwk(0), jwk(1)))
        await subject.reload(Settings(jwt_algorithm="ES256", jwks_url=issuer.url, jwt_audience=None))
        assert await waiting is None


def test_an_address_needs_something_to_fetch_with() -> None:
    with pytest.raises(ValueError, match="nothing to fetch it with"):
        Authenticator(Settings(jwt_algorithm="ES256", jwks_url="https://id.example/jwks.json"))


@pytest.mark.parametrize(
    ("url", "is_warned_of"),
    [
        ("https://id.example/jwks.json", False),
        ("http://id.example/jwks.json", True),
        ("http://10.0.0.1/jwks.json", True),
        ("http://127.0.0.1:8080/jwks.json", False),
        ("http://[::1]:8080/jwks.json", False),
        ("http://localhost/jwks.json", False),
    ],
)
def test_keys_that_anyone_on_the_way_could_replace(url: str, is_warned_of: bool, log: io.StringIO) -> None:
    Authenticator(Settings(jwt_algorithm="ES256", jwks_url=url), fetch=fetch)
    assert ("without https" in log.getvalue()) is is_warned_of


# What is fetched.


async def test_the_size_is_bounded_to_the_byte(issuer: Issuer) -> None:
    issuer.answer = body(b"x" * 1000)
    assert await fetch(issuer.url, 1000, 5) == b"x" * 1000
    with pytest.raises(OSError, match="over 999 bytes"):
        await fetch(issuer.url, 999, 5)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://no-such-host.invalid/", "http://"])
async def test_what_cannot_be_reached(issuer: Issuer, url: str) -> None:
    with pytest.raises(OSError, match=r"."):
        await fetch(url, 1000, 5)


# What a key set may hold.


def base64url(number: int, size: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes(size, "big")).rstrip(b"=").decode()


RSA_KEY = rsa.generate_private_key(65537, 2048)
RSA_JWK: dict[str, Any] = RSAAlgorithm.to_jwk(RSA_KEY.public_key(), as_dict=True) | {"kid": "rsa"}
WEAK_JWK: dict[str, Any] = RSAAlgorithm.to_jwk(
    rsa.generate_private_key(65537, 1024).public_key(), as_dict=True
) | {"kid": "weak"}
ED_KEY = ed25519.Ed25519PrivateKey.generate()
ED_JWK: dict[str, Any] = OKPAlgorithm.to_jwk(ED_KEY.public_key(), as_dict=True) | {"kid": "ed"}


@pytest.mark.parametrize(
    ("algorithm", "kids"),
    [
        ("RS256", {"rsa"}),
        ("PS512", {"rsa"}),
        ("ES256", {"k0"}),
        ("ES384", set()),
        ("EdDSA", {"ed"}),
    ],
)
def test_only_keys_of_the_algorithm_are_taken(algorithm: str, kids: set[str]) -> None:
    secret = {"kty": "oct", "k": "c2VjcmV0", "kid": "oct"}
    data = key_set(RSA_JWK, WEAK_JWK, jwk(0), ED_JWK, secret, secret | {"alg": algorithm})
    if kids:
        assert set(read_key_set(data, algorithm).named) == kids
    else:
        with pytest.raises(KeyMaterialError, match="no key for ES384 among its 6"):
            read_key_set(data, algorithm)


@pytest.mark.parametrize(
    "bad",
    [
        jwk(1, use="enc"),
        jwk(1, use=5),
        jwk(1, alg="ES384"),
        jwk(1, alg=None),
        jwk(1, key_ops=["sign"]),
        jwk(1, key_ops="verify"),
        jwk(1, crv="P-384"),
        jwk(1, crv="P-257"),
        jwk(1, crv=["P-256"]),
        jwk(1, kty="RSA"),
        jwk(1, kty=["EC"]),
        jwk(1, kty=None),
        jwk(1, x="AAAA"),
        jwk(1, x=base64url(5, 32)),  # not on the curve
        jwk(1, x=5),
        jwk(1, x="\u00fc" * 43),
        jwk(1, y=None),
        ECAlgorithm.to_jwk(KEYS[1], as_dict=True) | {"kid": "private"},
        {"kid": "k1"},
        [],
        "k1",
        None,
    ],
)
def test_bad_keys_do_not_spoil_the_good_ones(bad: Any) -> None:
    keys = read_key_set(key_set(bad, jwk(0), bad), "ES256")
    assert set(keys.named) == {"k0"}
    assert keys.unnamed == ()


@pytest.mark.parametrize(
    "bad",
    [
        RSA_JWK | {"n": "AQAB"},
        RSA_JWK | {"n": ""},
        RSA_JWK | {"e": ""},
        RSA_JWK | {"e": "AA"},
        RSA_JWK | {"n": 5},
        RSA_JWK | {"n": "*"},
    ],
)
def test_bad_rsa_keys(bad: dict[str, Any]) -> None:
    assert set(read_key_set(key_set(bad | {"kid": "bad"}, RSA_JWK), "RS256").named) == {"rsa"}


@pytest.mark.parametrize("bad", [ED_JWK | {"x": "AA"}, ED_JWK | {"crv": "X25519"}, ED_JWK | {"x": 5}])
def test_bad_edwards_keys(bad: dict[str, Any]) -> None:
    assert set(read_key_set(key_set(bad | {"kid": "bad"}, ED_JWK), "EdDSA").named) == {"ed"}


async def test_the_same_key_id_twice_and_none(issuer: Issuer) -> None:
    issuer.answer = body(key_set(jwk(0, "same"), jwk(1, "same"), jwk(2, None), jwk(3, kid=5)))
    async with authenticating(issuer) as subject:
        await until(lambda: reason(subject, token(0, kid="same")) is None)
        assert reason(subject, token(1, kid="same")) is None
        assert reason(subject, token(2, kid="same")) == "signature"
        assert reason(subject, token(2)) is None  # its key has no id, whatever the token says
        assert reason(subject, token(3)) is None


async def test_keys_of_other_kinds_confuse_nobody(issuer: Issuer) -> None:
    """RS→HS confusion by way of the key set: a secret that the set names, and the RSA key as a secret."""
    secret = "a secret that somebody has put into the public key set"
    oct_jwk = {
        "kty": "oct",
        "k": base64url(int.from_bytes(secret.encode(), "big"), len(secret)),
        "kid": "oct",
    }
    issuer.answer = body(key_set(RSA_JWK, oct_jwk))
    async with authenticating(issuer, jwt_algorithm="RS256") as subject:
        good = jwt.encode({"sub": "u"}, RSA_KEY, "RS256", headers={"kid": "rsa"})
        await until(lambda: reason(subject, good) is None)
        for kid in ("oct", "rsa"):
            forged = jwt.encode({"sub": "u"}, secret, "HS256", headers={"kid": kid})
            assert reason(subject, forged) == "algorithm"
            renamed = base64.urlsafe_b64encode(json.dumps({"alg": "RS256", "kid": kid}).encode()).rstrip(b"=")
            expected = "unknown_key" if kid == "oct" else "signature"
            assert reason(subject, renamed.decode() + forged[forged.index(".") :]) == expected
