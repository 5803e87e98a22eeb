"""Node's `ws` package gets what the transcripts say."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tests import transcript
from tests.certificates import files
from tests.clients_js.node import require_package
from tests.conftest import StartServer
from tests.serving import require_program

DIRECTORY = Path(__file__).parent


def test_ws_of_node(shared_server: StartServer, tmp_path: Path) -> None:
    node = require_program("node")
    require_package("ws")
    scripts = [transcript.load(name) for name in transcript.names(plain=True)]
    orders = []
    for script in scripts:
        server = shared_server(*script.flags, **script.settings)
        server.until_feed_is(script.feed_status)
        orders.append({"url": server.url, "steps": script.for_client()})
    authority = files().authority.write(tmp_path / "authority.pem")
    result = subprocess.run(
        [node, str(DIRECTORY / "client.mjs")],
        env=os.environ | {"NODE_EXTRA_CA_CERTS": str(authority)},
        input=json.dumps(orders),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    outcome = json.loads(result.stdout)
    assert outcome["failure"] is None
    transcript.compare_all(scripts, outcome["received"])
