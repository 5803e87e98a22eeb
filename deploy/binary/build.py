"""Makes one file of an installed wheel that needs no Python: ``python3 deploy/binary/build.py dist/*.whl dist/fastws``.

The wheel goes into an environment of its own, PyInstaller gathers a directory from that, and this packs the directory
behind launch.c, which says how it starts. Needs a C compiler, zlib with its static library, and a Python that has a
shared library, as those of Debian, of Docker's images and of python.org have. What is made runs where the C library is
not older than here.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import shutil
import stat
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WORK = ROOT / "build" / "binary"
# Of the extras, what a server may need; pandas would double it.
EXTRAS = "postgres,top"
ALSO = ("PyYAML>=6",)
# struct entry and struct trailer of launch.c.
_ENTRY = struct.Struct("<QII")
_TRAILER = struct.Struct("<8sQQ16s")
_MAGIC = b"fastws\r\n"


def install(wheel: Path) -> Path:
    """An environment with the wheel, what it needs, and PyInstaller; returns its Python."""
    place = WORK / "environment"
    shutil.rmtree(place, ignore_errors=True)
    run(sys.executable, "-m", "venv", place)
    python = place / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "--upgrade", "pip>=25.1")
    run(python, "-m", "pip", "install", "-q", f"{wheel}[{EXTRAS}]", *ALSO)
    run(python, "-m", "pip", "install", "-q", "--group", f"{ROOT / 'pyproject.toml'}:binary")
    return python


def gather(python: Path) -> Path:
    """The directory that PyInstaller makes."""
    made = WORK / "made"
    run(
        *(python, "-m", "PyInstaller", "--noconfirm", "--log-level", "WARN"),
        *("--distpath", made, "--workpath", WORK / "work", HERE / "fastws.spec"),
        # Python looks there first: not in the checkout, whose package may be compiled otherwise, or not at all.
        directory=WORK,
    )
    # They come with the names of all their functions. Not everything, as PyInstaller would: what wheels have from
    # patchelf is not loaded any more when it was stripped.
    internal = made / "fastws" / "_internal"
    run("strip", *internal.glob("libpython3*"), *internal.glob("uvloop/*.so"))
    return made / "fastws"


def entries(directory: Path) -> Iterator[bytes]:
    """What launch.c reads: each file, directory and link, those in which others are before these, and an end."""
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix().encode()
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            contents = os.readlink(path).encode()
        else:
            contents = path.read_bytes() if path.is_file() else b""
        yield _ENTRY.pack(len(contents), status.st_mode, len(name)) + name
        yield contents
    yield _ENTRY.pack(0, 0, 0)


def pack(directory: Path, launcher: Path, target: Path) -> None:
    compress = zlib.compressobj(9)
    digest = hashlib.sha256()
    whole = target.with_name(target.name + ".part")
    with whole.open("wb") as file:
        file.write(launcher.read_bytes())
        offset = file.tell()
        for piece in entries(directory):
            digest.update(piece)
            file.write(compress.compress(piece))
        file.write(compress.flush())
        size = file.tell() - offset
        file.write(_TRAILER.pack(_MAGIC, offset, size, digest.hexdigest()[:16].encode()))
    whole.chmod(0o755)
    whole.replace(target)


def compile_launcher() -> Path:
    program = WORK / "launch"
    compiler = shlex.split(os.environ.get("CC", "cc"))
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Wno-sign-compare", "-s"]
    try:
        run(*compiler, *flags, "-o", program, HERE / "launch.c", "-l:libz.a")
    except (subprocess.CalledProcessError, FileNotFoundError):
        sys.exit(
            "a C compiler and zlib's static library are needed: apt-get install build-essential zlib1g-dev"
        )
    return program


def run(*command: str | Path, directory: Path | None = None) -> None:
    # Nothing of a checkout that this may have been started from.
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    arguments = [str(each) for each in command]
    subprocess.run(arguments, env=environment, cwd=directory, check=True)  # noqa: S603 - of this file


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheel", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    launcher = compile_launcher()
    directory = gather(install(options.wheel.resolve()))
    options.target.parent.mkdir(parents=True, exist_ok=True)
    pack(directory, launcher, options.target)
    unpacked = sum(path.lstat().st_size for path in directory.rglob("*"))
    print(f"{options.target}: {options.target.stat().st_size / 1e6:.0f} MB, {unpacked / 1e6:.0f} MB unpacked")


if __name__ == "__main__":
    main()
