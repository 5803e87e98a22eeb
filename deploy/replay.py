"""Runs the steps of the Dockerfile without Docker, starts what they make, and asks whether it is healthy.

    sudo python3 deploy/replay.py

Each stage is a file system of its own in memory, over this machine's (which is only read) or over `--base`: a
directory with a Debian and Python, such as debootstrap or `docker export` make one. The programs `python` and `pip`
are those of a new virtual environment in it, as the images of Python have them. The checkout, /home and /tmp are
hidden, so that nothing is there but what COPY brings. Linux, as root; nothing is left behind.

What is understood are the instructions that the Dockerfile uses; any other is an error.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

DEPLOY = Path(__file__).resolve().parent
CONTEXT = DEPLOY.parent
PYTHON = "/usr/local/python"
_INNER = "FASTWS_REPLAY_DIRECTORY"
_START_SECONDS = 60.0
_VARIABLE = re.compile(r"\$\{(\w+)\}")


class ReplayError(Exception):
    """A step cannot be done, or has failed."""


def instructions(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, in their order; lines that go on are joined, comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    found = []
    for line in filter(None, map(str.strip, joined.splitlines())):
        name, _, rest = line.partition(" ")
        found.append((name.upper(), rest.strip()))
    return found


def ignored(patterns: list[str], path: str) -> bool:
    """Whether a path below the context is left out, by itself or with a directory that it is in."""
    parts = path.split("/")
    for pattern in patterns:
        bare = pattern.removeprefix("**/")
        for n in range(1, len(parts) + 1):
            head = "/".join(parts[:n])
            places = [head] if bare == pattern else ["/".join(parts[i:n]) for i in range(n)]
            if any(fnmatch.fnmatchcase(place, bare.replace("**/", "*")) for place in places):
                return True
    return False


class Stage:
    """A file system under way: its root, and what instructions have said for those that follow."""

    def __init__(self, root: Path, arguments: dict[str, str]) -> None:
        self.root = root
        self.directory = "/"
        self.user = "0:0"
        self.arguments = arguments
        self.environment = {
            "PATH": f"{PYTHON}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "DEBIAN_FRONTEND": "noninteractive",
            "LANG": "C.UTF-8",
        }
        self.health: list[str] = []
        self.entrypoint: list[str] = []
        self.command: list[str] = []

    def place(self, path: str) -> Path:
        """Where a path of the stage is outside of it."""
        return self.root / os.path.join(self.directory, path).lstrip("/")

    def inside(self, command: list[str], extra: dict[str, str] | None = None) -> list[str]:
        """What runs a command in it, as its user and with its variables only."""
        variables = self.environment | (extra or {})
        return [
            "chroot",
            f"--userspec={self.user}",
            "--groups=",
            str(self.root),
            "env",
            "-i",
            "-C",
            self.directory,
            *(f"{name}={value}" for name, value in variables.items()),
            *command,
        ]


class Replay:
    def __init__(self, work: Path, base: Path, dockerfile: Path) -> None:
        self._work = work
        self._base = base
        self._dockerfile = dockerfile
        ignore = dockerfile.with_name(dockerfile.name + ".dockerignore")
        lines = ignore.read_text().splitlines() if ignore.exists() else []
        self._ignored = [line for line in map(str.strip, lines) if line and not line.startswith("#")]
        self._globals: dict[str, str] = {}
        self._stages: dict[str, Stage] = {}
        self._stage: Stage | None = None
        # Where packages come from, and through what.
        self._outside = {
            name: value
            for name, value in os.environ.items()
            if name.startswith("PIP_") or name.lower().endswith("_proxy") or name == "SSL_CERT_FILE"
        }

    @property
    def stage(self) -> Stage:
        if self._stage is None:
            raise ReplayError("the first instruction but ARG has to be FROM")
        return self._stage

    def run(self) -> Stage:
        """Do all of it; returns the last stage."""
        for name, rest in instructions(self._dockerfile.read_text()):
            print(f"{name} {rest}", flush=True)
            step = getattr(self, f"_{name.lower()}", None)
            if step is None:
                raise ReplayError(f"{name} is no instruction that this knows")
            step(rest)
        return self.stage

    def _filled(self, text: str) -> str:
        known = self._globals if self._stage is None else self._stage.arguments | self._stage.environment
        return _VARIABLE.sub(lambda found: known[found[1]], text)

    def _arg(self, rest: str) -> None:
        name, _, value = rest.partition("=")
        (self._globals if self._stage is None else self._stage.arguments)[name] = value

    def _from(self, rest: str) -> None:
        self._stage = None
        image, _, name = self._filled(rest).partition(" AS ")
        if not image.startswith("python:"):
            raise ReplayError(f"this machine can stand for an image of Python, and not for {image}")
        root = self._work / f"stage-{len(self._stages)}"
        upper, inner = self._work / f"{root.name}-upper", self._work / f"{root.name}-work"
        for directory in (root, upper, inner):
            directory.mkdir()
        options = f"lowerdir={self._base},upperdir={upper},workdir={inner}"
        call("mount", "-t", "overlay", "overlay", "-o", options, str(root))
        for hidden in {"/tmp", "/home", str(CONTEXT)}:  # noqa: S108 - not written to, but covered
            if (root / hidden.lstrip("/")).is_dir():
                call("mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", str(root / hidden.lstrip("/")))
        call("mount", "-t", "proc", "proc", str(root / "proc"))
        call("mount", "--rbind", "/dev", str(root / "dev"))
        if self._base == Path("/"):
            # How names are looked up may be mounted over, too.
            call("mount", "--bind", "/etc/resolv.conf", str(root / "etc/resolv.conf"))
        else:
            shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
        self._stage = Stage(root, {})
        self._stages[name or str(len(self._stages))] = self._stage
        # The system's own Python, which is not asked for what is installed beside it.
        python = shutil.which("python3", path=os.pathsep.join(
            str(root / each) for each in ("usr/local/bin", "usr/bin")
        ))  # fmt: skip
        if python is None:
            raise ReplayError(f"there is no Python in {self._base}")
        call(*self._stage.inside([f"/{Path(python).relative_to(root)}", "-m", "venv", PYTHON]))

    def _run(self, rest: str) -> None:
        stage = self.stage
        bound: list[Path] = []
        while rest.startswith("--mount="):
            option, _, rest = rest.partition(" ")
            given = dict(each.partition("=")[::2] for each in option.removeprefix("--mount=").split(","))
            if given.pop("type") != "bind":
                raise ReplayError("of mounts, those of type bind are known")
            source = self._stages[given["from"]].place(given["source"])
            target = stage.place(given["target"])
            target.mkdir(parents=True, exist_ok=True)
            call("mount", "--bind", "-o", "ro", str(source), str(target))
            bound.append(target)
            rest = rest.strip()
        try:
            call(*stage.inside(["/bin/sh", "-c", rest], self._outside | stage.arguments))
        finally:
            for target in bound:
                call("umount", str(target))
                target.rmdir()

    def _workdir(self, rest: str) -> None:
        place = self.stage.place(rest)
        place.mkdir(parents=True, exist_ok=True)
        self.stage.directory = os.path.join(self.stage.directory, rest)

    def _copy(self, rest: str) -> None:
        *sources, target = shlex.split(rest)
        if rest.startswith("--"):
            raise ReplayError("COPY with options is not known")
        place = self.stage.place(target)
        for source in sources:
            path = CONTEXT / source
            if ignored(self._ignored, source):
                raise ReplayError(f"{source} is left out by the file of what is ignored")
            if path.is_dir():
                shutil.copytree(path, place, symlinks=True, dirs_exist_ok=True, ignore=self._left_out)
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, place)

    def _left_out(self, directory: str, names: list[str]) -> set[str]:
        below = Path(directory).relative_to(CONTEXT)
        return {name for name in names if ignored(self._ignored, (below / name).as_posix())}

    def _env(self, rest: str) -> None:
        for each in shlex.split(rest):
            name, _, value = each.partition("=")
            self.stage.environment[name] = value

    def _user(self, rest: str) -> None:
        self.stage.user = rest

    def _expose(self, rest: str) -> None:
        pass

    def _healthcheck(self, rest: str) -> None:
        self.stage.health = json.loads(rest.partition(" CMD ")[2])

    def _entrypoint(self, rest: str) -> None:
        self.stage.entrypoint = json.loads(rest)

    def _cmd(self, rest: str) -> None:
        self.stage.command = json.loads(rest)


def call(*command: str) -> None:
    done = subprocess.run(command, check=False)  # noqa: S603 - of this file and the Dockerfile
    if done.returncode:
        raise ReplayError(f"status {done.returncode} of {shlex.join(command)}")


def check(stage: Stage) -> None:
    """Start what was made, as its user, until its own health check says that it is well, and stop it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = {"FASTWS_PORT": str(port), "FASTWS_FEED": "sim"}
    command = stage.inside([*stage.entrypoint, *stage.command], given)
    process = subprocess.Popen(command)  # noqa: S603 - as above
    try:
        deadline = time.monotonic() + _START_SECONDS
        while subprocess.run(stage.inside(stage.health, given), check=False).returncode:  # noqa: S603
            if process.poll() is not None:
                raise ReplayError(f"the server has ended with {process.returncode}")
            if time.monotonic() > deadline:
                raise ReplayError("the server is not healthy")
            time.sleep(0.5)
        owner = os.stat(f"/proc/{process.pid}").st_uid
        if owner == 0:
            raise ReplayError("the server runs as root")
        process.send_signal(signal.SIGTERM)
        status = process.wait(30)
        if status:
            raise ReplayError(f"the server has stopped with {status}")
        print(f"healthy as user {owner}, and stopped")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--base", type=Path, default=Path("/"), metavar="DIRECTORY", help="a root file system"
    )
    parser.add_argument("--file", type=Path, default=DEPLOY / "Dockerfile", help="default: %(default)s")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("this mounts file systems, for which it has to be root", file=sys.stderr)
        return 2
    if _INNER not in os.environ:
        # In a namespace of mounts of its own: they go with it, whatever happens.
        arguments = ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv]
        work = Path("/run/fastws-replay")
        work.mkdir(exist_ok=True)
        try:
            return subprocess.run(arguments, env=os.environ | {_INNER: str(work)}, check=False).returncode  # noqa: S603
        finally:
            work.rmdir()
    work = Path(os.environ.pop(_INNER))
    try:
        call("mount", "-t", "tmpfs", "-o", "size=6g", "tmpfs", str(work))
        check(Replay(work, options.base.resolve(), options.file.resolve()).run())
    except ReplayError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
