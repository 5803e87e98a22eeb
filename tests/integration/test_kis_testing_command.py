"""The fake KIS server from outside: its control endpoint and its command."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from tests.kis_server import Client, world
from tests.serving import ROOT, until


async def test_another_process_can_look_and_act() -> None:
    async with world(market="simulator") as w, w.connect() as client:
        assert await client.register("H0UNCNT0") == "OPSP0000"
        state = await w.get("/_fake")
        assert state["sessions"][0]["registrations"][0]["tr_id"] == "H0UNCNT0"
        requests = await w.get("/_fake/requests")
        assert [(entry["tr_id"], entry["answer"]) for entry in requests] == [("H0UNCNT0", "OPSP0000")]
        assert await w.get("/_fake/requests", since="1000") == []
        assert (await w.get("/_fake/calls"))[0]["path"] == "/oauth2/Approval"
        assert (await w.get("/_fake/sessions", since="1000"))[0]["number"] == 1  # it is open
        status, answer = await w.post("/_fake", [{"do": "answer", "code": "OPSP0009"}, {"do": "pingpong"}])
        assert (status, answer) == (200, {"done": [0, 1]})
        assert (await w.get("/_fake"))["faults"] == [
            {"do": "answer", "app_key": None, "times": None, "seconds": None, "tr_id": None, "tr_key": None,
             "code": "OPSP0009", "text": None, "close": None}
        ]  # fmt: skip
        assert await client.register("H0UNASP0") == "OPSP0009"
        for body, error in (
            ({"do": "answer"}, "code: is missing"),
            ([{"do": "drop", "app_key": "x"}, {"do": "fly"}], "[1]: do: 'fly' is no action; they are"),
            ({"do": "play", "file": "/no/such"}, "file: /no/such cannot be read: No such file or directory"),
            (3, "do: None is no action"),
        ):
            status, answer = await w.post("/_fake", body)
            assert status == 400
            assert answer["error"].startswith(error)
        assert (await w.post("/_fake", {"do": "drop"}))[1] == {"done": [1]}
        assert await client.end() is None


class Process:
    """``python -m fastws.kis.testing`` as its users run it."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        command = [sys.executable, "-W", "error", "-m", "fastws.kis.testing", "--port", "0", *arguments]
        self.output = directory / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=directory,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=output,
                stderr=output,
            )

    def variables(self) -> dict[str, str]:
        def printed() -> dict[str, str]:
            assert self.process.poll() is None, self.output.read_text()
            text = self.output.read_text()
            return dict(re.findall(r"export (\w+)=(\S+)\n", text)) if "Ctrl-C" in text else {}

        found: dict[str, str] = until(printed, "the variables")
        return found

    def end(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(10.0)


async def test_the_command_plays_a_market_and_says_how_to_come_there(tmp_path: Path) -> None:
    script = tmp_path / "script.toml"
    script.write_text('[settings]\ncap = 2\n\n[[step]]\nsession = 2\nrequest = 1\ndo = "drop"\n')
    running = Process(tmp_path, "--script", str(script), "--rate", "300", "--set", "approval_interval=0")
    try:
        variables = running.variables()
        async with aiohttp.ClientSession() as http:
            body = {"grant_type": "client_credentials", "appkey": variables["KIS_APP_KEY"],
                    "secretkey": variables["KIS_APP_SECRET"]}  # fmt: skip
            async with http.post(variables["KIS_REST_URL"] + "/oauth2/Approval", json=body) as response:
                key = (await response.json())["approval_key"]
            async with http.ws_connect(variables["KIS_WS_URL"] + "/tryitout") as socket:
                client = Client(socket, key)
                assert await client.register("H0UNCNT0") == "OPSP0000"
                assert await client.register("H0UNASP0") == "OPSP0000"
                assert await client.register("H0UNASP0", "000660") == "OPSP0008"
                assert (await client.data()).startswith("0|H0UN")
            async with http.ws_connect(variables["KIS_WS_URL"]) as socket:
                await Client(socket, key).send("1", "H0UNCNT0", "005930")
                assert await Client(socket, key).end() is None
    finally:
        assert running.end() == 0, running.output.read_text()
    assert "Traceback" not in running.output.read_text()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--set", "cap=none"], "cap: expected an integer, got a text"),
        (["--set", "cap"], "--set cap: expected NAME=VALUE"),
        (["--phase", "lunch"], "phase: invalid value 'lunch'"),
        (["--play", "no.txt"], "file: no.txt cannot be read: No such file or directory"),
        (["--script", "no.toml"], "no.toml: cannot be read: No such file or directory"),
        (["--rate", "0"], "rate: expected a number > 0"),
    ],
)
def test_what_is_wrong_with_the_command_is_told_in_a_line(
    arguments: list[str], expected: str, tmp_path: Path
) -> None:
    running = Process(tmp_path, *arguments)
    assert running.process.wait(20.0) == 2
    assert expected in running.output.read_text()
    assert len(running.output.read_text().splitlines()) == 1


def test_the_help_has_every_action_and_setting() -> None:
    command = [sys.executable, "-m", "fastws.kis.testing", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True, cwd=ROOT).stdout
    for word in ("refuse_connections", "reorder_acks", "[[step]]", "pong_timeout", "curl", "every"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 110
