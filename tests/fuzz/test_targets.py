"""What fuzzing has found and kept goes through the targets again, and the targets see what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from fastws import configuration, deflate
from fastws.deflate import InflateError
from fastws.server.handshake import HeadReader
from fastws.websocket import WebSocket
from tests.fuzz import corpora, stack
from tests.fuzz.source import Source, cuts
from tests.fuzz.targets import (
    NAMES,
    client,
    config,
    envelopes,
    frames,
    handshake,
    kis_control,
    kis_records,
    load,
)
from tests.fuzz.targets import deflate as deflate_target


@pytest.fixture(autouse=True, scope="module")
def _stack_ends() -> Iterator[None]:
    yield
    stack.close()


@pytest.mark.parametrize("name", NAMES)
def test_what_was_found_does_not_come_back(name: str) -> None:
    target = load(name)
    inputs = corpora.of(target)
    assert len(inputs) >= len(list(target.seeds())) > 3
    for data in inputs:
        target.check(data)


def test_pieces_are_the_whole() -> None:
    data = bytes(range(200))
    for seed in range(256):
        assert b"".join(cuts(data, seed)) == data
    assert cuts(data, 0) == [data]
    assert len(cuts(data, 1)) == 200
    assert 1 < len(cuts(data, 77)) < 200


def test_a_source_that_is_used_up_gives_zeros() -> None:
    source = Source(b"\x01\x02")
    assert (source.whole(1), source.is_empty, source.whole(4), source.is_empty, source.whole(2)) == (
        *(1, False, 2, True),
        0,
    )


# Each target with one of the things that it is about done wrong.


def fails(name: str) -> None:
    target = load(name)
    failed = 0
    for data in target.seeds():
        try:
            target.check(data)
        except (AssertionError, ValueError, RecursionError):
            failed += 1
    assert failed


class TestTargetsSeeWhatIsWrong:
    def test_frames(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(frames, "FrameReader", lambda **options: SimpleNamespace(feed=lambda data: []))
        with pytest.raises(AssertionError):
            frames.check(next(frames.seeds()))

    def test_handshake(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Forgetful(HeadReader):
            def feed(self, data: bytes):  # type: ignore[no-untyped-def]
                found = super().feed(data)
                return None if len(data) == 1 else found

        monkeypatch.setattr(handshake, "HeadReader", Forgetful)
        fails("handshake")

    def test_client(self, monkeypatch: pytest.MonkeyPatch) -> None:
        update = WebSocket.buffer_updated
        monkeypatch.setattr(client.Kept, "buffer_updated", lambda self, size: update(self, max(1, size - 1)))
        fails("client")

    def test_deflate(self, monkeypatch: pytest.MonkeyPatch) -> None:
        inflate = deflate.inflate
        monkeypatch.setattr(deflate, "inflate", lambda payload, limit: inflate(payload, limit + 1))
        assert deflate_target.reference(deflate.compress(b"x" * 1001, 15), 1000) == [1009]
        with pytest.raises(AssertionError):
            deflate_target.check(b"\x04" + deflate.compress(b"x" * 1001, 15))

    def test_an_error_of_another_class(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def inflate(payload: bytes, limit: int) -> bytes:
            raise InflateError(1002, "of no such code")

        monkeypatch.setattr(deflate, "inflate", inflate)
        fails("deflate")

    def test_records(self, monkeypatch: pytest.MonkeyPatch) -> None:
        split = kis_records.split_frame
        monkeypatch.setattr(
            kis_records,
            "split_frame",
            lambda message: SimpleNamespace(
                **{
                    name: getattr(split(message), name) for name in ("tr_id", "encrypted", "count", "payload")
                },
                records=split(message).records[:1],
            ),
        )
        fails("kis_records")

    def test_notices(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Shortening(kis_control.Ciphers):
            def decipher(self, message: bytes) -> bytes:
                return super().decipher(message)[:-1]

        monkeypatch.setattr(kis_control, "Ciphers", Shortening)
        fails("kis_control")

    def test_envelopes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(envelopes, "is_json_members", lambda members: True)
        fails("envelopes")

    def test_config(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            config, "SETTINGS", {name: SimpleNamespace(variable=name, is_secret=True) for name in ("A",)}
        )
        monkeypatch.setattr(configuration.SettingsError, "__str__", lambda error: "secret: 12345678")
        with pytest.raises(AssertionError):
            config.check(b"port = -1\n---\nA=12345678")

    @pytest.mark.parametrize("name", ["screener", "realtime"])
    def test_conversations(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def read(client: stack.Client) -> None:
            raise AssertionError

        monkeypatch.setattr(stack.Client, "read", read)
        fails(name)
