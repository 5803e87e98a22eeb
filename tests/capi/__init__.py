"""Extensions in C and Cython that publish through the C API, and what builds them."""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import fastws

HERE = Path(__file__).parent
_WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-Wno-missing-field-initializers")


def compiler() -> list[str]:
    return shlex.split(os.environ.get("CC", "cc"))


def run(*command: str | Path, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=seconds, check=False
    )


def compile_extension(source: Path, directory: Path, name: str, *flags: str) -> Path:
    """Compile one C file into an importable module `name`, against the header of the fastws that is imported."""
    path = directory / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    result = run(
        *compiler(), "-O2", "-shared", "-fPIC", "-pthread", *flags,
        f"-I{sysconfig.get_path('include')}", f"-I{fastws.get_include()}", source, "-o", path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return path


def ring_program(name: str, directory: Path, sanitizer: str) -> tuple[Path, str]:
    """Compile a program about the ring alone, for -fsanitize=`sanitizer`; and what the compiler had against it."""
    path = directory / name
    result = run(
        *compiler(), "-std=c11", "-D_GNU_SOURCE", "-O1", "-g", f"-fsanitize={sanitizer}", "-pthread",
        HERE / f"{name}.c", "-o", path,
    )  # fmt: skip
    return path, result.stderr if result.returncode else ""


def consumer(directory: Path, name: str = "consumer", *flags: str) -> Path:
    return compile_extension(
        HERE / "consumer.c", directory, name, *_WARNINGS, "-std=c99", "-D_POSIX_C_SOURCE=200809L",
        f"-DCONSUMER={name}", f'-DCONSUMER_NAME="{name}"', *flags,
    )  # fmt: skip


def cython_consumer(directory: Path) -> Path:
    source = directory / "consumer_cython.c"
    result = run(
        sys.executable, "-m", "cython", "-3", "-I", Path(fastws.__file__).parents[1],
        HERE / "consumer_cython.pyx", "-o", source,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return compile_extension(source, directory, "consumer_cython")


def load(path: Path) -> ModuleType:
    """Import a compiled module."""
    spec = importlib.util.spec_from_file_location(path.name.partition(".")[0], path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
