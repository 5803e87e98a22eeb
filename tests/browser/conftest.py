"""Fixtures of the tests of browsers and of the JavaScript client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.clients_js.node import NodeProcess, node_process


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[NodeProcess]:
    async with node_process(tmp_path) as process:
        yield process
