"""A C extension that publishes: compiled against the header that is installed, and loaded into a server by ``--load``.

FASTWS_LOAD=benchmarks.scenarios.inlet_feed:setup
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shlex
import subprocess
import sysconfig
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType

import fastws
from fastws.bench import LoadError

SOURCE = Path(__file__).parents[1] / "capi" / "producer.c"
VARIABLE = "BENCH_INLET"
"""Of the server's environment: the extension, the codes, and the publications/s, as JSON."""


def compiled(directory: Path) -> Path:
    """Compile the extension.

    Raises:
        LoadError: there is no compiler, or no header of Python.
    """
    path = directory / f"producer{sysconfig.get_config_var('EXT_SUFFIX')}"
    command = [
        *shlex.split(os.environ.get("CC", "cc")), "-std=c11", "-D_GNU_SOURCE", "-O2", "-shared", "-fPIC", "-pthread",
        f"-I{sysconfig.get_path('include')}", f"-I{fastws.get_include()}", str(SOURCE), "-o", str(path),
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise LoadError(f"the extension cannot be compiled: {error}") from None
    if done.returncode:
        raise LoadError(f"the extension cannot be compiled: {done.stderr.strip()[:500]}")
    return path


def imported(path: Path) -> ModuleType:
    """Import the extension."""
    spec = importlib.util.spec_from_file_location("producer", path)
    if spec is None or spec.loader is None:
        raise LoadError(f"{path} is no extension")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def setup(hub: fastws.Hub) -> Callable[[], Awaitable[None]]:
    """Publish from the extension's thread until the server stops, and write what became of it beside the extension."""
    options = json.loads(os.environ[VARIABLE])
    path = Path(options["extension"])
    producer = imported(path)
    producer.begin(hub, options["codes"], options["rate"])

    async def ending() -> None:
        taken, full = producer.end()
        inlet = hub.__fastws_inlet__
        while inlet.waiting_bytes:
            await asyncio.sleep(0.001)
        counts = inlet.counts()
        found = {"taken": taken, "full": full, "published": counts["published"]}
        path.with_name("counts.json").write_text(json.dumps(found))

    return ending
