"""dist/fastws where there is the C library and nothing else: ``sudo python3 tests/installed/bare.py dist/fastws``.

A file system in memory gets the files of the packages libc6 and base-files, and the binary. In it the binary serves, as
nobody and with all but /tmp mounted read-only, a dashboard and `--clients` clients, which `fastws bench` plays outside:
that of the binary itself, or of `--bench`. Debian, as root; nothing is left behind.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_INNER = "FASTWS_BARE_DIRECTORY"
_SECONDS = 60.0
_PACKAGES = ("libc6", "base-files")
_NOBODY = 65534


def check(condition: object, what: str) -> None:
    # Not assert, which python -O would leave out.
    if not condition:
        sys.exit(f"failed: {what}")
    print(f"ok: {what}", flush=True)


def call(*command: str | Path) -> None:
    subprocess.run([str(each) for each in command], check=True)


def furnish(root: Path, binary: Path) -> None:
    """What such a machine has."""
    listed = subprocess.run(["dpkg", "-L", *_PACKAGES], stdout=subprocess.PIPE, text=True, check=True).stdout
    for path in map(Path, listed.split("\n")):
        target = root / path.relative_to("/") if path.is_absolute() else root
        if path.is_dir() and not path.is_symlink():
            target.mkdir(parents=True, exist_ok=True)
    for path in map(Path, filter(None, listed.split("\n"))):
        # A Debian of today keeps /lib in /usr; dpkg knows files by either name.
        place = path.parent.resolve() / path.name
        target = root / place.relative_to("/")
        if place.is_symlink() or place.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.is_symlink() and not target.exists():
                shutil.copy2(place, target, follow_symlinks=False)
    for name in ("bin", "lib", "lib64", "sbin"):
        usual = Path("/", name)
        if usual.is_symlink() and not (root / name).is_symlink():
            shutil.rmtree(root / name, ignore_errors=True)
            (root / name).symlink_to(usual.readlink())
    for name in ("proc", "dev", "tmp", "usr/bin"):
        (root / name).mkdir(parents=True, exist_ok=True)
    n_files = sum(1 for path in root.rglob("*") if path.is_file())
    check(not strangers(root), f"a file system of {n_files} files, and no Python or shell among them")
    shutil.copy(binary, root / "usr/bin/fastws")
    for name in ("null", "urandom", "random", "zero"):
        (root / "dev" / name).touch()
        call("mount", "--bind", f"/dev/{name}", root / "dev" / name)
    call("mount", "-t", "proc", "proc", root / "proc")
    call("mount", "-o", "remount,ro,bind", root)
    call("mount", "-t", "tmpfs", "-o", "size=300m,mode=1777", "tmpfs", root / "tmp")


def strangers(root: Path) -> list[str]:
    """What would be of help, and is not of the C library."""
    found = [path for path in root.rglob("*") if "python" in path.name.lower()]
    shells = [path for path in (root / "usr/bin").iterdir() if path.name in ("sh", "bash", "dash", "perl")]
    return [str(path.relative_to(root)) for path in found + shells]


def serve(root: Path, n_clients: int, bench: list[str]) -> None:
    flags = ["serve", "--port", "0", "--feed", "sim"]
    began = time.monotonic()
    process = subprocess.Popen(
        [
            *(
                shutil.which("chroot") or "/usr/sbin/chroot",
                f"--userspec={_NOBODY}:{_NOBODY}",
                "--groups=",
                str(root),
            ),
            *("/usr/bin/fastws", *flags),
        ],
        env={},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        bufsize=1,
    )
    assert process.stdout is not None
    said = ""
    try:
        while (found := re.search(r"dashboard +http://127\.0\.0\.1:(\d+)(\S+)\n", said)) is None:
            line = process.stdout.readline()
            if not line:
                sys.exit(f"failed: the server starts\n{said}")
            said += line
        print(f"started in {time.monotonic() - began:.2f} s, of which the most is unpacking")
        port = int(found[1])
        status = Path(f"/proc/{process.pid}/status").read_text()
        check(f"Uid:\t{_NOBODY}\t{_NOBODY}" in status, "it serves as nobody")
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        mapped = set(re.findall(r" (/\S+\.so\S*)$", maps, re.MULTILINE))
        own = {path for path in mapped if path.startswith(f"{root}/tmp/fastws-{_NOBODY}/")}
        others = {path.removeprefix(f"{root}/") for path in mapped - own}
        check(
            len(own) > 50 and {path for path in others if (root / path).is_file()} == others,
            f"it has {len(own)} libraries of its own, and of the machine {sorted(map(os.path.basename, others))}",
        )
        for path, what in ((found[2], "the dashboard"), ("/static/fastws.js", "the library of browsers")):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
            connection.close()
            check(response.status == 200 and len(body) > 1000, f"it serves {what}")
        with tempfile.TemporaryDirectory() as directory:
            report = Path(directory) / "report.json"
            done = subprocess.run(
                [
                    *(
                        *bench,
                        "bench",
                        "--url",
                        f"ws://127.0.0.1:{port}/v1/ws",
                        "--connections",
                        str(n_clients),
                    ),
                    *("--ramp-up", "5", "--duration", "10", "--json", str(report)),
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            print(done.stdout)
            check(done.returncode == 0, f"{n_clients} clients get every message")
            check(json.loads(report.read_text()), "and that is written down")
        process.terminate()
        rest = process.stdout.read()
        check(process.wait(_SECONDS) == 0, f"it stops when it is told {rest if process.returncode else ''}")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("binary", type=Path)
    parser.add_argument("--clients", type=int, default=1000, metavar="N", help="default: %(default)s")
    parser.add_argument("--bench", metavar="COMMAND", help="the fastws that plays the clients")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("this mounts file systems, for which it has to be root", file=sys.stderr)
        return 2
    if _INNER not in os.environ:
        # In a namespace of mounts of its own: they go with it, whatever happens.
        command = ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv]
        with tempfile.TemporaryDirectory(prefix="fastws-bare-") as work:
            return subprocess.run(command, env=os.environ | {_INNER: work}, check=False).returncode
    root = Path(os.environ.pop(_INNER))
    call("mount", "-t", "tmpfs", "-o", "size=1g,mode=0755", "tmpfs", root)
    furnish(root, options.binary.resolve())
    serve(root, options.clients, shlex.split(options.bench or str(options.binary.resolve())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
