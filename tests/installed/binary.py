"""Whether dist/fastws does what the wheel does that it was made of.

    build/binary/environment/bin/python tests/installed/binary.py dist/fastws

Started with the Python of the environment that it was made from, it runs that beside the binary, and holds the compiled
code that the processes of both have loaded against each other.
"""

from __future__ import annotations

import http.client
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from fastws._version import __version__

sys.path.insert(0, str(Path(__file__).parents[1]))
from certificates import Authority
from installed import smoke
from installed.smoke import check

_SECONDS = 60.0
_MAPPED = re.compile(r"/\S+\.so(?:\.[\d.]+)?$", re.MULTILINE)
# Compiled by others, who have a slower way without. That they are loaded is no matter of course.
_FAST_WAYS = {
    "aiohttp/_http_parser",
    "aiohttp/_http_writer",
    "frozenlist/_frozenlist",
    "isal/igzip_lib",
    "msgspec/_core",
    "multidict/_multidict",
    "orjson/orjson",
    "propcache/_helpers_c",
    "uvloop/loop",
    "yarl/_quoting_c",
}


class Binary:
    """The file, where there is nothing of Python, and a place of its own to unpack itself to."""

    def __init__(self, path: Path, directory: Path) -> None:
        self.path = str(path.resolve())
        self.directory = directory
        self.cache = directory / "cache"
        self.environment = {"PATH": "/nonexistent", "XDG_CACHE_HOME": str(self.cache), "HOME": "/nonexistent"}
        # It makes its own directory, and none above it.
        self.cache.mkdir(parents=True)

    def run(self, *arguments: str, status: int = 0, **variables: str) -> str:
        """Returns what it says on both streams."""
        done = subprocess.run(
            [self.path, *arguments],
            cwd=self.directory,
            env=self.environment | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        if done.returncode != status:
            sys.exit(f"failed: {' '.join(arguments)} ends with {done.returncode}\n{done.stdout}")
        return done.stdout


def check_start(binary: Binary) -> None:
    began = time.monotonic()
    starts = [
        subprocess.Popen(
            [binary.path, "--version"], env=binary.environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    said = [process.communicate(timeout=_SECONDS)[0] for process in starts]
    first = time.monotonic() - began
    check(
        said == [f"fastws {__version__}\n"] * 3, "three at once, of which each finds nothing unpacked, start"
    )
    (unpacked,) = (binary.cache / "fastws").iterdir()
    check(unpacked.stat().st_mode & 0o777 == 0o700, "what is unpacked is its user's alone")
    again = []
    for _ in range(5):
        began = time.monotonic()
        binary.run("--version")
        again.append(time.monotonic() - began)
    print(f"started in {first:.2f} s with unpacking, three at once; {min(again):.2f} s later")
    binary.run("--version", PATH="", LANG="C", XDG_CACHE_HOME="/proc/none", TMPDIR=str(binary.directory))
    check(
        (binary.directory / f"fastws-{os.geteuid()}").is_dir(), "another place is taken where one cannot be"
    )


def check_damaged(binary: Binary) -> None:
    whole = Path(binary.path).read_bytes()
    other = Binary(binary.directory / "damaged", binary.directory / "elsewhere")
    for what, data in {
        "cut short": whole[:-1000],
        "damaged": whole[:-5000] + bytes(1000) + whole[-4000:],
    }.items():
        path = Path(other.path)
        path.write_bytes(data)
        path.chmod(0o700)
        check("damaged or cut short" in other.run("--version", status=1), f"one that was {what} says so")
        check(not list((other.cache / "fastws").glob("*")), "and leaves nothing behind")
    path.unlink()


def check_old_ones(binary: Binary) -> None:
    place = binary.cache / "fastws"
    (used,) = place.iterdir()
    for name in ("fastws-of-another-build", f"{used.name}.1"):
        shutil.copytree(used, place / name, symlinks=True)
    used.rename(place / "elsewhere")
    binary.run("--version")
    check({each.name for each in place.iterdir()} == {used.name, "elsewhere"}, "what nobody runs is removed")
    shutil.rmtree(place / "elsewhere")


def loaded(pid: int) -> set[str]:
    """The compiled modules that a process and its children have, as paths below what has all packages."""
    found: set[str] = set()
    for each in (pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())):
        for path in _MAPPED.findall(Path(f"/proc/{each}/maps").read_text()):
            name = re.sub(r"\.(?:cpython-[^/]*|abi3)\.so$|\.so$", "", path)
            for head in ("/site-packages/", "/_internal/python3.", "/lib-dynload/", "/_internal/"):
                if head in name:
                    name = name.rpartition(head)[2]
                    break
            else:
                continue
            found.add(name.rpartition("lib-dynload/")[2])
    # Libraries that come with packages lie elsewhere, and their names have a hash.
    return {name for name in found if ".libs/" not in name and ".so" not in name}


def check_same(binary: Binary) -> None:
    """Both serve with TLS and two workers, and have the same compiled code loaded."""
    certificate = binary.directory / "certificate.pem"
    authority = Authority()
    authority.issue(certificate)
    (binary.directory / "my_setup.py").write_text(
        # Of the standard library, something that nothing of fastws imports.
        "import wave\ndef setup(hub):\n    print('loaded with', wave.__name__, flush=True)\n"
    )
    found = []
    for command, variables in (
        ([sys.executable, "-m", "fastws"], smoke.without_settings()),
        ([binary.path], binary.environment),
    ):
        flags = [
            "serve",
            "--port",
            "0",
            "--feed",
            "sim",
            "--certfile",
            str(certificate),
            "--load",
            "my_setup:setup",
        ]
        with smoke.serving([*command, *flags, "--workers", "2"], variables, cwd=binary.directory) as running:
            port, said, pid = running
            check(said.count("loaded with wave") == 1, "a module of the user is loaded, with what it imports")
            connection = http.client.HTTPSConnection(
                "127.0.0.1", port, timeout=10, context=authority.client_context()
            )
            connection.request("GET", "/v1/ws/stats")
            stats = json.loads(connection.getresponse().read())
            connection.close()
            check(len(stats["by_worker"]) == 2, "two workers serve, with TLS")
            name = Path(f"/proc/{pid}/exe").resolve()
            print(f"{len(loaded(pid))} compiled modules in {name}")
            found.append(loaded(pid))
    wheel, own = found
    check(own >= wheel, f"all that are loaded from the wheel are loaded; missing: {sorted(wheel - own)}")
    # Of the standard library, what PyInstaller begins with.
    odd = {name for name in own - wheel if "/" in name}
    check(not odd, f"and no others; odd: {sorted(odd)}")
    check(own >= _FAST_WAYS, f"nothing does without its compiled part; missing: {sorted(_FAST_WAYS - own)}")


def check_contents(binary: Binary) -> None:
    """All compiled parts, also those that a server does not import."""
    package = Path(sysconfig.get_path("platlib")) / "fastws"
    names = sorted(
        ".".join(path.relative_to(package.parent).with_name(path.name.partition(".")[0]).parts)
        for path in package.rglob("*.so")
    )
    check(len(names) >= 10, f"the wheel has {len(names)} compiled parts")
    program = (
        "import importlib, sys; print([importlib.import_module(each).__file__ for each in sys.argv[1:]])"
    )
    files = binary.run("-S", "-c", program, *names)
    check(files.count(str(binary.cache)) == len(names) == files.count(".so"), "and the binary has them all")


def check_commands(binary: Binary) -> None:
    with ExitStack() as stack:
        serve = [binary.path, "serve", "--port", "0", "--feed", "sim"]
        port, _, pid = stack.enter_context(smoke.serving(serve, binary.environment))
        check(
            Path(f"/proc/{pid}/exe").resolve().is_relative_to(binary.cache),
            "the process is the server itself",
        )
        check(binary.run("health", "--port", str(port)) == "ok\n", "fastws health finds it well")
        url = f"ws://127.0.0.1:{port}/v1/ws"
        report = binary.directory / "report.json"
        said = binary.run(
            *("bench", "--url", url, "--connections", "50", "--ramp-up", "0.1", "--duration", "1"),
            *("--json", str(report)),
        )
        check(json.loads(report.read_text()) and "50" in said, "fastws bench measures it")
        figures = binary.run("top", "--once", "--url", f"http://127.0.0.1:{port}")
        check("connections" in figures, "fastws top tells its figures")
        screen(binary, f"http://127.0.0.1:{port}")


def screen(binary: Binary, url: str) -> None:
    """fastws top in a terminal, until it shows something and is left."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(binary.path, [binary.path, "top", "--url", url], binary.environment | {"TERM": "xterm"})
    shown = b""
    deadline = time.monotonic() + _SECONDS
    while b"connections" not in shown and time.monotonic() < deadline:
        if select.select([terminal], [], [], 1)[0]:
            shown += os.read(terminal, 65536)
    os.kill(pid, signal.SIGINT)
    os.waitpid(pid, 0)
    os.close(terminal)
    check(b"connections" in shown, "fastws top shows them in a terminal")


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        binary = Binary(Path(sys.argv[1]), Path(directory))
        check_start(binary)
        check_contents(binary)
        smoke.check_serve([binary.path], binary.environment)
        check_same(binary)
        check_commands(binary)
        check_old_ones(binary)
        check_damaged(binary)


if __name__ == "__main__":
    main()
