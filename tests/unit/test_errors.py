"""The tables of codes are the one place that says what fastws answers errors with and closes connections with."""

from __future__ import annotations

from fastws.errors import CloseCode, ErrorCode, FastwsError, SettingsError


def test_every_documented_code_is_in_the_table() -> None:
    assert {int(code) for code in CloseCode} == {
        1000, 1001, 1002, 1003, 1007, 1009, 1011, 1012, 4401, 4403, 4408, 4409, 4410, 4429,
    }  # fmt: skip


def test_a_code_is_found_by_its_number_and_is_one() -> None:
    assert CloseCode(4408) is CloseCode.SLOW_CONSUMER
    assert CloseCode.SLOW_CONSUMER == 4408
    assert CloseCode.SLOW_CONSUMER.to_bytes(2, "big") == b"\x11\x38"
    assert f"{CloseCode.SLOW_CONSUMER}" == "4408"


def test_reasons_fit_a_control_frame_and_labels_are_distinct() -> None:
    # RFC 6455 §5.5: 125 bytes, two of them the code.
    assert all(0 < len(code.meaning.encode()) <= 123 for code in CloseCode)
    assert len({code.label for code in CloseCode}) == len(CloseCode)


def test_what_a_client_should_not_repeat() -> None:
    assert {int(code) for code in CloseCode if not code.should_reconnect} == {
        1002, 1003, 1007, 1009, 4401, 4403, 4410,
    }  # fmt: skip


def test_every_documented_error_is_in_the_table() -> None:
    assert set(ErrorCode) == {
        "INVALID_MESSAGE", "INVALID_TOKEN", "SUBSCRIPTION_FAILED", "RATE_LIMIT_EXCEEDED",
        "SESSION_RESTORATION_FAILED", "TOKEN_REFRESH_ERROR", "AUTH_REQUIRED", "FORBIDDEN", "LIMIT_EXCEEDED",
        "INTERNAL_ERROR",
    }  # fmt: skip
    assert ErrorCode("FORBIDDEN") is ErrorCode.FORBIDDEN
    assert f"{ErrorCode.FORBIDDEN}" == "FORBIDDEN" == ErrorCode.FORBIDDEN.name
    assert all(code.meaning and isinstance(code.closes, CloseCode | None) for code in ErrorCode)


def test_a_settings_error_names_setting_and_source() -> None:
    error = SettingsError("port: 70000 is too high", setting="port", source="--port")
    assert isinstance(error, FastwsError)
    assert (str(error), error.setting, error.source) == ("port: 70000 is too high", "port", "--port")
