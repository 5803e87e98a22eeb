"""Clients of ``clients/js`` before a server that sends what no server may send."""

from __future__ import annotations

import json
import subprocess

from tests.clients_js.node import SCRIPTS, require_package
from tests.serving import require_program


def test_nothing_that_comes_ends_a_client_or_has_it_hammer_the_server() -> None:
    node = require_program("node")
    require_package("ws")
    result = subprocess.run(
        [node, str(SCRIPTS / "hostile.mjs")], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(lines) == 30
    assert all(line["n"] <= 2 for line in lines if "text" in line), lines
    # In a second, with waits that double from 0.2 s.
    assert all(line["n"] <= 12 for line in lines if "delay" in line), lines
