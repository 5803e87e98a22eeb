"""The command line as a user meets it: help, mistakes, a server, a recording."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

import fastws
from fastws.auth import Authenticator, AuthError
from fastws.cli import main
from fastws.configuration import load
from fastws.settings import SETTINGS, Settings

ROOT = Path(__file__).parents[2]


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FASTWS_")}
    return {**kept, "PYTHONPATH": str(ROOT), **variables}


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fastws", *arguments],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def help_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0
    return capsys.readouterr().out


# Help.


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert help_of(capsys, "--version") == f"fastws {fastws.__version__}\n"


def test_the_module_is_the_command() -> None:
    assert run("--version").stdout == f"fastws {fastws.__version__}\n"


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, "--help")
    assert "serve " in text
    assert "check-config" in text
    assert "import " in text
    assert "record " in text
    assert "token " in text
    assert ("bench " in text) == (sys.platform == "linux")


def test_help_of_serve_shows_every_flag_and_setting_with_default_and_unit(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = " ".join(help_of(capsys, "serve", "--help").split())
    names = (
        "host port allowed-origins feed symbols-file replay-speed replay-loop replay-max-gap "
        "batch-interval-ms rate-limit simulator-rate "
        "simulator-seed jwt-secret log-level log-format config"
    )
    for name in names.split():
        assert f" --{name}" in text, name
    for setting in SETTINGS.values():
        assert setting.description in text, setting.name
        assert f"{setting.default_text})" in text, setting.name
    assert "(default: 30 ms)" in text
    assert "fastws serve --feed sim" in text


def test_help_of_record(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, "record", "--help")
    assert all(
        flag in text for flag in ("--feed", "--output", "--duration", "--symbols-file", "--simulator-rate")
    )


# Mistakes: one line, exit status 2, no traceback.


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["serve", "--port", "99999"], ["port: 99999 (from --port)", "from 0 to 65535"]),
        (["serve", "--prot", "1"], ["--prot", "did you mean --port?", "fastws serve --help"]),
        (["serve", "--prot=1"], ["--prot", "did you mean --port?"]),
        (["serve", "extra"], ["extra"]),
        (
            ["serve", "--outbox-hard-bytes", "5"],
            [
                "--outbox-hard-bytes is no flag; set outbox_hard_bytes in the TOML file "
                "or FASTWS_OUTBOX_HARD_BYTES"
            ],
        ),
        (["serve", "--no-compression"], ["--no-compression is no flag; set compression in", "FASTWS_COMPR"]),
        (
            ["serve", "--jwt-previous-secret=hidden"],
            ["--jwt-previous-secret is no flag; set jwt_previous_secr"],
        ),
        (["serve", "--allowed_origins", "*"], ["did you mean --allowed-origins?"]),
        (["serve", "--allowed-origins", "https://a.example/x"], ["allowed_origins:", "is not an origin"]),
        (["serve", "--replay-speed", "0"], ["replay_speed: 0 (from --replay-speed) is not usable; expected"]),
        (["serve", "--feed", "replay:/"], ["feed: / is a directory (from --feed); name a file"]),
        (
            ["record", "--feed", "sim", "--output", "x", "--port", "1"],
            ["--port is a flag of fastws serve, not of"],
        ),
        (
            ["record", "--simulator-book-share", "1", "--output", "x"],
            ["set simulator_book_share in the TOML"],
        ),
        (["serve", "--feed", "poll:x"], ["feed:", "no source 'x'", "kis, yahoo, csv, simulator", "--feed"]),
        (["serve", "--feed", "poll"], ["feed:", "needs its source"]),
        (["serve", "--feed", "replay:/no/such/file"], ["feed:", "/no/such/file", "--feed"]),
        (["serve", "--config", "/no/such.toml"], ["config:", "/no/such.toml"]),
        (["serve", "--host", "192.0.2.1", "--port", "0"], ["host:", "192.0.2.1"]),
        (["serve", "--symbols-file", os.devnull], ["symbols_file:"]),
        (["record", "--feed", "none", "--output", "x"], ["feed:", "nothing to record"]),
        (["record", "--feed", "sim", "--output", "/no/such/dir/file"], ["output:", "/no/such/dir/file"]),
        (["record", "--feed", "sim", "--output", "x", "--duration", "-1"], ["--duration", "'-1'"]),
        (["record", "--feed", "sim"], ["--output"]),
        (["token"], ["--sub"]),
        (["token", "--sub", "", "--jwt-secret", "x" * 32], ["--sub", "not empty"]),
        (["token", "--sub", " ", "--jwt-secret", "x" * 32], ["--sub", "not empty"]),
        (["token", "--sub", "u", "--key", "/no/such.pem"], ["--key:", "No such file", "give the path"]),
        (["token", "--sub", "u", "--key", "/"], ["--key:", "Is a directory"]),
        (["token", "--sub", "u"], ["jwt_secret:", "--jwt-secret", "--key FILE"]),
        (["token", "--sub", "u", "--algorithm", "none"], ["jwt_algorithm:", "none", "one of HS256"]),
        (["token", "--sub", "u", "--algorithm", "ES256"], ["--key", "ES256 signs with a private key"]),
        (["token", "--sub", "u", "--key", os.devnull, "--algorithm", "ES256"], ["--key", "openssl genpkey"]),
        (["token", "--sub", "u", "--key", os.devnull], ["--key", "no secret for HS256"]),
        (["token", "--sub", "u", "--key", "x", "--jwt-secret", "hidden"], ["--key", "not allowed with"]),
        (["token", "--sub", "u", "--jwt-secret", "hidden", "--claim", "x"], ["--claim", "NAME=VALUE"]),
        (["token", "--sub", "u", "--jwt-secret", "hidden", "--claim", "=x"], ["--claim", "NAME=VALUE"]),
        (["token", "--sub", "u", "--jwt-secret", "hidden", "--expires", "soon"], ["--expires", "never"]),
        (["token", "--sub", "u", "--jwt-secret", "hidden", "--expires", "inf"], ["--expires", "never"]),
        (["serve", "--jwt-secret", ""], ["jwt_secret:", "not empty"]),
        (["serv"], ["serv", "serve"]),
        ([], ["COMMAND"]),
    ],
)
def test_mistakes(arguments: list[str], parts: list[str]) -> None:
    result = run(*arguments)
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    *before, line = result.stderr.splitlines()
    # A feed that never ran and a file that was never opened are not said to be recorded.
    assert not any("recording" in text for text in before), result.stderr
    assert re.match(r"fastws( serve| record| token)?: error: ", line), result.stderr
    assert all(part in line for part in parts), line
    assert "hidden" not in line
    # What was logged before the mistake was found is fine; a traceback is not.
    assert all(re.match(r"\d{4}-\d\d-\d\dT", text) for text in before), result.stderr


def test_a_mistake_in_the_environment() -> None:
    result = run("serve", FASTWS_BATCH_INTERVL_MS="5")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "did you mean FASTWS_BATCH_INTERVAL_MS?" in result.stderr


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("serve", "--port", str(port))
    assert result.returncode == 2
    assert f"port: {port} on 127.0.0.1 is in use; " in result.stderr
    assert "Traceback" not in result.stderr


def test_a_full_disk_is_one_line() -> None:
    result = run("record", "--feed", "sim", "--output", "/dev/full", "--duration", "10")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "fastws: error: /dev/full: No space left on device"


# Tokens.

LONG_SECRET = "a secret of a length that is long enough"


def made_token(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["token", *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.count("\n") == 1
    return captured.out.strip()


def test_a_token(capsys: pytest.CaptureFixture[str]) -> None:
    before = int(time.time())
    token = made_token(capsys, "--sub", "user-123", "--jwt-secret", LONG_SECRET)
    claims = jwt.decode(token, LONG_SECRET, ["HS256"])
    assert claims.keys() == {"sub", "iat", "exp"}
    assert claims["sub"] == "user-123"
    assert before <= claims["iat"] <= time.time()
    assert claims["exp"] == claims["iat"] + 3600
    identity = Authenticator(Settings(jwt_secret=LONG_SECRET)).verify(token)
    assert (identity.user_id, identity.expires_at) == ("user-123", claims["exp"])


def test_the_claims_of_a_token(capsys: pytest.CaptureFixture[str]) -> None:
    token = made_token(
        capsys, "--sub", "user-123", "--jwt-secret", LONG_SECRET, "--expires", "never", "--tier", "gold",
        "--claim", 'topics=["stock:*"]', "--claim", "portfolios=[1,2]", "--claim", "jti=j-1", "--claim", "a=b=c",
        "--claim", "sub=7", "--kid", "k1",
    )  # fmt: skip
    claims = jwt.decode(token, LONG_SECRET, ["HS256"], options={"verify_sub": False})
    del claims["iat"]
    assert claims == {
        "sub": 7,
        "tier": "gold",
        "topics": ["stock:*"],
        "portfolios": [1, 2],
        "jti": "j-1",
        "a": "b=c",
    }
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "JWT", "kid": "k1"}
    assert Authenticator(Settings(jwt_secret=LONG_SECRET)).verify(token).user_id == 7
    token = made_token(capsys, "--sub", "u", "--jwt-secret", LONG_SECRET, "--expires", "-60")
    with pytest.raises(AuthError) as caught:
        Authenticator(Settings(jwt_secret=LONG_SECRET)).verify(token)
    assert caught.value.reason == "expired"


def test_a_token_for_the_settings_of_a_server(tmp_path: Path) -> None:
    config = tmp_path / "fastws.toml"
    config.write_text(
        'jwt_algorithm = "HS384"\njwt_audience = "fastws"\njwt_issuer = "me"\nuser_id_claim = "uid"\n'
        'require_exp = true\n[jwt_keys]\nk1 = "one secret, as long as HS384 demands: 48 bytes"\n'
    )
    secret = "another secret, as long as HS384 demands: 48 bytes"
    settings = load(str(config), {"FASTWS_JWT_SECRET": secret}, {})
    for arguments in ([], ["--kid", "k1"], ["--kid", "k2"]):
        result = run("token", "--config", str(config), "--sub", "7", *arguments, FASTWS_JWT_SECRET=secret)
        assert (result.returncode, result.stderr) == (0, "")
        token = result.stdout.strip()
        if arguments == ["--kid", "k2"]:  # no such key: the secret without an id has signed it
            with pytest.raises(AuthError):
                Authenticator(Settings(jwt_keys=settings.jwt_keys, jwt_algorithm="HS384")).verify(token)
        assert Authenticator(settings).verify(token).user_id == "7"


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA"])
def test_a_token_of_a_private_key(algorithm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = ec.generate_private_key(ec.SECP256R1()) if algorithm == "ES256" else Ed25519PrivateKey.generate()
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    token = made_token(capsys, "--sub", "u", "--key", str(private), "--algorithm", algorithm)
    settings = Settings(jwt_algorithm=algorithm, jwt_public_key=str(public))  # type: ignore[arg-type]
    assert Authenticator(settings).verify(token).user_id == "u"


def test_a_token_of_a_secret_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "secret"
    file.write_text(LONG_SECRET + "\n")
    token = made_token(capsys, "--sub", "u", "--key", str(file))
    assert Authenticator(Settings(jwt_secret=LONG_SECRET)).verify(token).user_id == "u"


# Running.


@contextlib.contextmanager
def serving(*arguments: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run ``fastws serve`` on a free port; yields the process and the port that it printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fastws", "serve", "--port", "0", *arguments],
        env=environment(**variables),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)/health", line):
                break
        else:
            pytest.fail("the server ended without saying where it listens")
        yield process, int(found.group(1))
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_serve_runs_until_it_is_told_to_stop(ending: signal.Signals, tmp_path: Path) -> None:
    config = tmp_path / "fastws.toml"
    config.write_text("rate_limit = 7\nbatch_interval_ms = 11\n")
    with serving("--config", str(config), "--batch-interval-ms", "12", FASTWS_RATE_LIMIT="8") as (
        process,
        port,
    ):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/v1/ws/stats")
        stats = connection.getresponse().read()
        assert b'"batch_interval_ms":12' in stats
        assert b'"rate_limit":8' in stats
        process.send_signal(ending)
        _, errors = process.communicate(timeout=20)
        connection.close()
        assert process.returncode == 0
        assert "Traceback" not in errors


def test_a_recording_is_a_replay(tmp_path: Path) -> None:
    output = tmp_path / "sim.txt"
    result = run(
        "record", "--feed", "sim", "--simulator-rate", "500", "--simulator-seed", "1",
        "--output", str(output), "--duration", "1",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "recording has ended" in result.stderr
    lines = output.read_text().splitlines()
    assert len(lines) > 400
    again = tmp_path / "again.txt"
    result = run("record", "--feed", f"replay:{output}", "--replay-speed", "max", "--output", str(again))
    assert result.returncode == 0, result.stderr

    def messages(path: Path) -> list[str]:
        texts = [line for line in path.read_text().splitlines() if line.startswith("@")]
        return [text.partition(" ")[2] for text in texts]

    assert messages(again) == messages(output)


def test_the_sample_is_recorded_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(
        "record", "--feed", "replay:sample", "--replay-speed", "max", "--output", "out.txt",
        FASTWS_PORT="tcp://10.0.0.1:8000", FASTWS_SERVICE_HOST="10.0.0.1",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out.txt").read_text().count("\n@") == 14
    assert re.search(r"recording has ended .*updates=14\n", result.stderr)
    (warning,) = [line for line in result.stderr.splitlines() if "[warning" in line]
    assert "Kubernetes" in warning
    assert "variable=FASTWS_PORT" in warning


def test_pauses_of_a_replay_are_capped(tmp_path: Path) -> None:
    day = tmp_path / "days.txt"
    lines = [f'@{n * 86_400_000} {{"type":"market_status","market":"M","status":"{n}"}}' for n in range(4)]
    day.write_text("\n".join(lines))
    output = tmp_path / "out.txt"
    result = run(
        "record", "--feed", f"replay:{day}", "--replay-max-gap", "0.05", "--output", str(output),
        "--duration", "10",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert output.read_text().count("\n@") == 4
    assert "replay ended" in result.stderr
    assert "replay waits" not in result.stderr


@pytest.mark.parametrize("kind", ["itself", "link"])
def test_a_replay_is_not_recorded_onto_itself(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "day.txt"
    source.write_text('{"type":"market_status","market":"M","status":"open"}')  # without a line end
    output = source
    if kind == "link":
        output = tmp_path / "link.txt"
        output.symlink_to(source)
    before = source.read_bytes()
    result = run("record", "--feed", f"replay:{source}", "--output", str(output))
    assert result.returncode == 2
    assert result.stderr == (
        f"fastws: error: output: {output} is the file that is replayed, and would grow while it is read; "
        "name another one\n"
    )
    assert source.read_bytes() == before


def test_a_loop_over_nothing_ends_with_one_error(tmp_path: Path) -> None:
    source = tmp_path / "empty.txt"
    source.write_text("# nothing\n")
    result = run(
        "record", "--feed", f"replay:{source}", "--replay-loop", "--output", str(tmp_path / "out.txt")
    )
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(f"fastws: error: {source} holds nothing to replay")


def test_ending_a_recording_is_no_failure(tmp_path: Path) -> None:
    output = tmp_path / "sim.txt"
    process = subprocess.Popen(
        [sys.executable, "-m", "fastws", "record", "--feed", "sim", "--output", str(output)],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 20
        while not (output.exists() and output.read_text().count("\n") > 50):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 0
        assert "Traceback" not in errors
        text = output.read_text()
        assert text.endswith("\n")
        n_updates = sum(line.startswith("@") for line in text.splitlines())
        assert re.search(rf"recording was ended .*updates={n_updates}\n", errors), errors
        assert "simulator starts" in errors
        assert re.search(r"\bseed=\d+", errors)
    finally:
        process.kill()
        process.communicate()
