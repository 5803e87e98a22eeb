"""Every sample in README.md and docs/ does what the text around it says, against real servers."""

from __future__ import annotations

import asyncio
import configparser
import contextlib
import http.server
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import yaml

from fastws.auth.tokens import sign
from fastws.client import Client, PriceUpdate
from fastws.configuration import read as read_settings
from fastws.feeds.sources import Answer
from fastws.market.importer import read_table, write_table
from fastws.market.store import Store
from fastws.server.asyncapi import document
from fastws.settings import Settings
from tests import capi
from tests.clients_js.node import MODULES, require_package
from tests.contract import Contract
from tests.docs.quick import COMMAND
from tests.docs.samples import Command, Sample, commands, pages, read
from tests.serving import ROOT, Server, environment, free_port, require_program, until

pytestmark = pytest.mark.plain("the samples have addresses without TLS")

HERE: Final = Path(__file__).parent
SECRET: Final = "a secret of at least thirty-two bytes"
ADMIN: Final = "the administrator's token"
PAGES: Final = pages()
SECONDS: Final = 60.0
# What is for the reader's machine, and not for that of the tests.
SETUP: Final = ("git ", "sudo ", "pip ", "npm ", "cd ", ". .venv/", "make")
READY: Final = {
    "fastws serve": "fastws is ready",
    "fastws feed": "price feed begins",
    "fastws start_price_feed": "price feed begins",
    "python -m fastws.kis.testing": "listens on",
}
KINDS: Final = ("portfolios", "positions")
TABLES: Final = {
    "portfolios": "id,owner,name,currency\n123,user-123,Growth Portfolio,USD\n124,user-7,Pension,KRW\n",
    "positions": "portfolio_id,symbol,quantity\n123,AAPL,12.5\n123,MSFT,-3\n124,005930,100\n",
}

SAMPLES: Final = {page: list(read(page)) for page in PAGES}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def all_of(*languages: str) -> list[Sample]:
    return [sample for samples in SAMPLES.values() for sample in samples if sample.language in languages]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server that samples without one of their own talk to: with prices, users, and portfolios."""
    directory = tmp_path_factory.mktemp("docs-server")
    url = f"sqlite:///{directory}/fastws.db"

    async def fill() -> None:
        store = Store(url)
        await store.open()
        for kind in KINDS:
            path = directory / f"{kind}.csv"
            path.write_text(TABLES[kind])
            await write_table(store, read_table(kind, str(path)))
        await store.close()

    asyncio.run(fill())
    settings = {"database": url, "jwt_secret": SECRET, "admin_token": ADMIN, "simulator_rate": 2000}
    server = Server(directory, "--feed", "sim", **settings)
    until(lambda: server.get("/v1/stocks/AAPL/orderbook")[0] == 200, "a book of AAPL")
    until(lambda: server.get("/v1/stocks/005930/orderbook")[0] == 200, "a book of 005930")
    yield server
    server.end()


@pytest.fixture(scope="module")
def fake_kis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables with which a program connects to a fake KIS server."""
    log = tmp_path_factory.mktemp("docs-kis") / "log"
    arguments = [sys.executable, "-m", "fastws.kis.testing", "--port", "0", "--rate", "500"]
    with log.open("wb") as output:
        process = subprocess.Popen(arguments, cwd=ROOT, stdout=output, stderr=output)
    try:
        until(lambda: "Ctrl-C" in log.read_text(), "the fake KIS server", SECONDS)
        yield dict(re.findall(r"export (\w+)=(\S+)", log.read_text()))
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory of a program ``fastws`` that starts at once; see :mod:`tests.docs.quick`."""
    directory = tmp_path_factory.mktemp("docs-quick")
    place = directory / "socket"
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tests.docs.quick", str(place)], cwd=ROOT
    )
    program = directory / "fastws"
    program.write_text(COMMAND.format(python=sys.executable, socket=str(place)))
    program.chmod(0o755)
    try:
        until(place.exists, "the place of quick commands", SECONDS)
        yield directory
    finally:
        process.terminate()
        process.wait(10)


class Workplace:
    """The directory in which the samples of a page are run, one after the other where they are commands."""

    def __init__(self, directory: Path, server: Server, quick: Path) -> None:
        self.directory = directory
        self.host = f"127.0.0.1:{server.port}"
        bin_directory = Path(sys.executable).parent
        self.environment = environment({}) | {
            "PATH": f"{quick}:{bin_directory}:{os.environ['PATH']}",
            "TOKEN": sign({"sub": "user-123"}, SECRET.encode(), "HS256"),
            "ADMIN_TOKEN": ADMIN,
            "HOST": self.host,
            "NO_COLOR": "1",
        }
        # Samples are written as in a checkout.
        (directory / "clients").symlink_to(ROOT / "clients")
        (directory / "node_modules").symlink_to(MODULES)

    def here(self, text: str, host: str | None = None) -> str:
        return text.replace("127.0.0.1:8000", host or self.host)


@pytest.fixture
def workplace(tmp_path: Path, target: Server, quick: Path) -> Workplace:
    return Workplace(tmp_path, target, quick)


# Programs, which may run at the same time.


def run_program(workplace: Workplace, sample: Sample, variables: dict[str, str]) -> None:
    """Run a sample to its end, or until its output has a line with the pattern that it is to have."""
    path = workplace.directory / f"sample{sample.line}{'.py' if sample.language == 'python' else '.mjs'}"
    text = workplace.here(sample.text)
    if sample.language == "python":
        arguments = [sys.executable, "-u", str(path)]
    else:
        (workplace.directory / "surroundings.mjs").write_text((HERE / "surroundings.mjs").read_text())
        # The package of the client is a link to it, and finds what it depends on where the link is.
        before = ["--preserve-symlinks", "--import", str(workplace.directory / "surroundings.mjs")]
        arguments = [require_program("node"), *before, str(path)]
    if sample.language == "jsx":
        text = transpiled(workplace, path, text, sample.options["render"])
        renderer = workplace.directory / "render.mjs"
        renderer.write_text((HERE / "render.mjs").read_text())
        arguments[-1:] = [str(renderer), str(path)]
    path.write_text(text)
    follow(sample, arguments, workplace, variables)


def transpiled(workplace: Workplace, path: Path, text: str, component: str) -> str:
    """`text` as the JavaScript that a bundler makes of it, with the component under a name that is known."""
    source = path.with_suffix(".jsx")
    source.write_text(f"{text}\nexport {{ {component} as Component }};\n")
    compiler = MODULES / "typescript" / "bin" / "tsc"
    out = workplace.directory / "out"
    flags = [
        "--allowJs",
        "--jsx",
        "react-jsx",
        "--module",
        "esnext",
        "--target",
        "es2022",
        "--moduleResolution",
        "bundler",
    ]
    # Types are not looked at: what it says of them is no matter here.
    subprocess.run(
        [require_program("node"), str(compiler), *flags, "--skipLibCheck", "--outDir", str(out), str(source)],
        cwd=workplace.directory,
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    return (out / f"{path.stem}.js").read_text()


def follow(sample: Sample, arguments: list[str], workplace: Workplace, variables: dict[str, str]) -> None:
    pattern = sample.options.get("until")
    with contextlib.ExitStack() as open_files:
        out, err = (
            open_files.enter_context((workplace.directory / f"{sample.line}.{name}").open("w+"))
            for name in ("out", "err")
        )
        process = subprocess.Popen(
            arguments, cwd=workplace.directory, env=workplace.environment | variables, stdout=out, stderr=err
        )

        def printed(file: Any) -> str:
            return Path(file.name).read_text(errors="replace")

        try:
            deadline = time.monotonic() + SECONDS
            while not (pattern and re.search(pattern, printed(out), re.MULTILINE)):
                if process.poll() is not None:
                    break
                assert time.monotonic() < deadline, (
                    f"{sample}: not within {SECONDS:g} s:\n{printed(out)}{printed(err)}"
                )
                time.sleep(0.01)
            has_ended = process.poll() is not None
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait(10)
        assert printed(err) == "", f"{sample}: {printed(err)}"
        if pattern:
            assert re.search(pattern, printed(out), re.MULTILINE), f"{sample}: it ended with:\n{printed(out)}"
        else:
            assert has_ended, str(sample)
            assert process.returncode == 0, f"{sample}: {printed(out)}"


# Commands, each after the one before, with what they start in the background.


def run_commands(workplace: Workplace, sample: Sample) -> None:
    told = [each for each in commands(sample) if not each.text.startswith(SETUP)]
    for each in commands(sample):
        if each.text.startswith("make"):
            check_target(sample, each.text)
    if not told:
        return
    starting = [ready_line(each) for each in told]
    has_server = READY["fastws serve"] in starting
    host = f"127.0.0.1:{free_port()}" if has_server else workplace.host
    fake = str(free_port())
    lines = ["set -eu", "pids="]
    for n, (each, ready) in enumerate(zip(told, starting, strict=True)):
        text = workplace.here(each.text, host).replace("8100", fake)
        lines.append(f"echo; echo '@@{n}'")
        if ready is None:
            lines.append(text)
        else:
            log = f"{sample.line}-{n}.log"
            lines += [
                f'{text.removesuffix("&").rstrip()} >{log} 2>&1 & pid=$!; pids="$pids $pid"',
                f"until grep -q '{ready}' {log}; do kill -0 $pid || {{ cat {log}; exit 1; }}; sleep 0.02; done",
            ]
    lines.append("for pid in $pids; do kill -TERM $pid; done; for pid in $pids; do wait $pid; done")
    variables = workplace.environment
    if has_server:
        variables = variables | {"FASTWS_PORT": host.rpartition(":")[2], "FASTWS_SHUTDOWN_SPREAD": "0"}
    process = subprocess.Popen(
        ["bash", "-c", "\n".join(lines)],
        cwd=workplace.directory,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=2 * SECONDS)
    finally:
        # What is left of a sample that has failed.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, f"{sample}:\n{printed}"
    check_output(sample, told, printed)


def ready_line(told: Command) -> str | None:
    """What a command prints once it runs, of those that run until they are ended."""
    if "--help" in told.text:
        return None
    return next((line for start, line in READY.items() if told.text.startswith(start)), None)


def check_output(sample: Sample, told: Iterable[Command], printed: str) -> None:
    """See that each line which a command is said to print is printed, whatever the numbers are."""
    parts = dict(re.findall(r"^@@(\d+)\n(.*?)(?=^@@|\Z)", printed, re.MULTILINE | re.DOTALL))
    for n, each in enumerate(told):
        lines = [plain(line) for line in parts[str(n)].splitlines()]
        for line in each.output:
            assert plain(line) in lines, f"{sample}: `{each.text}` printed\n{parts[str(n)]}\nand not\n{line}"


def plain(line: str) -> str:
    return re.sub(r"\d+(?:\.\d+)?", "0", line.strip())


def check_target(sample: Sample, text: str) -> None:
    """See that what make is asked for is there."""
    makefile = (ROOT / "Makefile").read_text()
    for word in text.partition("#")[0].split()[1:]:
        if re.fullmatch(r"[a-z][a-z-]*", word):
            assert re.search(rf"^{word}:", makefile, re.MULTILINE), f"{sample}: make has no target {word}"


# The pages.


def test_every_sample_is_of_a_kind_that_is_run() -> None:
    assert {name_of(page) for page in PAGES if not SAMPLES[page]} <= {
        f"docs/operations/{name}.md" for name in ("settings", "commands", "sizing", "installing")
    } | {
        f"docs/{name}.md"
        for name in (
            "operations/troubleshooting",
            "protocol/screener",
            "protocol/realtime",
            "threat-model",
            "trust",
        )
    }
    known = {"c", "console", "python", "js", "jsx", "json", "toml", "csv", "nginx", "ini", "yaml", "text"}
    assert {sample.language for samples in SAMPLES.values() for sample in samples} == known
    skipped = [sample for samples in SAMPLES.values() for sample in samples if "skip" in sample.options]
    assert len(skipped) <= 8
    assert all(len(sample.options["skip"]) > 10 for sample in skipped)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_samples_of_a_page(page: Path, request: pytest.FixtureRequest) -> None:
    samples = [sample for sample in SAMPLES[page] if sample.language not in ("json", "text")]
    programs = []
    if any(sample.language in ("js", "jsx") for sample in samples):
        require_program("node")
        for package in ("ws", "react", "react-test-renderer", "typescript"):
            require_package(package)
    workplace: Workplace | None = None
    for sample in samples:
        workplace = workplace or request.getfixturevalue("workplace")
        if sample.title is not None:
            (workplace.directory / sample.title).write_text(sample.text)
        if "skip" in sample.options:
            continue
        if sample.language == "console":
            run_commands(workplace, sample)
        elif sample.language == "toml":
            check_settings(workplace, sample)
        elif sample.language in ("js", "jsx") or (sample.language == "python" and sample.title is None):
            variables = request.getfixturevalue("fake_kis") if "kis" in sample.options else {}
            programs.append((workplace, sample, variables))
    with ThreadPoolExecutor(4) as together:
        for done in [together.submit(run_program, *each) for each in programs]:
            done.result()


def check_settings(workplace: Workplace, sample: Sample) -> None:
    path = workplace.directory / "checked.toml"
    path.write_text(sample.text)
    with contextlib.chdir(workplace.directory):
        reading = read_settings(str(path), {}, {})
    assert reading.problems == [], str(sample)


def test_messages_are_as_the_contract_has_them() -> None:
    made = json.loads(msgspec.json.encode(document()))
    dialects = [Contract(made, name) for name in ("screener", "realtime")]
    n_checked = 0
    for sample in all_of("json"):
        for line in sample.text.splitlines():
            message = json.loads(line)
            if "type" in message:
                flaws = [each.flaws(message, each.requests | each.answers) for each in dialects]
                assert [] in flaws, f"{sample}: {line}: {flaws}"
                n_checked += 1
    assert n_checked > 10


def test_the_source_of_ones_own_is_one(tmp_path: Path) -> None:
    [sample] = [each for each in all_of("python") if each.title == "bank.py"]
    path = tmp_path / "bank.py"
    path.write_text(sample.text)
    spec = importlib.util.spec_from_file_location("bank", path)
    assert spec is not None
    assert spec.loader is not None
    bank = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bank)

    class Bank(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/?of=005930,AAPL"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'[{"code":"005930","last":73000},{"code":"AAPL","last":150.10}]')

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Bank) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        source = bank.BankSource(f"http://127.0.0.1:{server.server_port}/", Settings())
        instruments = [type("Named", (), {"code": code}) for code in ("005930", "AAPL")]
        answer = asyncio.run(source.quotes(instruments))
        server.shutdown()
    assert isinstance(answer, Answer)
    assert [(quote.code, str(quote.price)) for quote in answer.quotes] == [
        ("005930", "73000"),
        ("AAPL", "150.10"),
    ]


def test_the_proxy_is_one(tmp_path: Path, target: Server) -> None:
    nginx = require_program("nginx")
    for n, sample in enumerate(all_of("nginx")):
        port = free_port()
        text = sample.text.replace("127.0.0.1:8000", f"127.0.0.1:{target.port}").replace(
            "listen 8080", f"listen {port}"
        )
        directory = tmp_path / str(n)
        directory.mkdir()
        paths = "\n".join(
            f"{kind}_temp_path {directory}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        path = directory / "nginx.conf"
        path.write_text(
            f"user root;\ndaemon off;\npid {directory}/pid;\nerror_log {directory}/error.log;\nevents {{ }}\n"
            f"http {{\naccess_log off;\n{paths}\n{text}\n}}\n"
        )
        process = subprocess.Popen(
            [nginx, "-p", str(directory), "-c", str(path), "-e", f"{directory}/error.log"]
        )
        try:
            asyncio.run(first_price(f"ws://127.0.0.1:{port}/v1/ws", directory))
        finally:
            process.terminate()
            process.wait(10)


async def first_price(url: str, directory: Path) -> None:
    async with asyncio.timeout(SECONDS), Client(url, connect_attempts=0) as client:
        await client.subscribe("stock", ["005930"])
        async for message in client:
            if isinstance(message, PriceUpdate):
                return


def test_the_c_is_accepted(tmp_path: Path) -> None:
    for sample in all_of("c"):
        includes, body = [], []
        for line in sample.text.splitlines():
            (includes if line.startswith("#include") else body).append(line)
        source = tmp_path / "sample.c"
        source.write_text(
            "\n".join([*includes, "void *sample(PyObject *server, int dropped);", ""])
            + "void *sample(PyObject *server, int dropped) {\n"
            + "\n".join(body)
            + "\nfastws_hub_release(hub);\nreturn dropped ? server : NULL; }\n"
        )
        capi.compile_extension(source, tmp_path, "sample", "-std=c99", "-Wall", "-Wextra", "-Werror")


def test_the_unit_starts_what_there_is(tmp_path: Path, quick: Path) -> None:
    for sample in all_of("ini"):
        unit = configparser.ConfigParser(interpolation=None)
        unit.optionxform = str  # type: ignore[assignment,method-assign]
        unit.read_string(sample.text)
        if "Service" not in unit:
            assert unit["Socket"]["ListenStream"].isdigit()
            continue
        words = unit["Service"]["ExecStart"].split()
        assert words[0].endswith("/fastws")
        (tmp_path / "fastws.toml").write_text("")
        words = [str(tmp_path / "fastws.toml") if word.endswith(".toml") else word for word in words[1:]]
        assert words[0] == "serve"
        done = subprocess.run(
            [quick / "fastws", "check-config", *words[1:]], env=environment({}), check=False
        )
        assert done.returncode == 0


def test_figures_that_pages_name_are_there(target: Server) -> None:
    status, body = target.get("/metrics", headers={"Authorization": f"Bearer {ADMIN}"})
    assert status == 200
    there = set(re.findall(r"^# HELP (fastws_\w+)", body.decode(), re.MULTILINE))
    # With TLS, with published keys, with KIS, with a polled source.
    # With several workers. With extensions, but for the names of their API.
    others = r"fastws_(inlet_publications|certificate_expires_seconds|jwks_age_seconds|kis_\w+|poll_\w+|workers?\w*)"
    source = (ROOT / "fastws" / "server" / "relay_metrics.py").read_text()
    with_relay = set(re.findall(r'"(relay_\w+)"', source))
    for page in PAGES:
        api = (ROOT / "fastws" / "include" / "fastws.h").read_text()
        for name in re.findall(r"\b(fastws_[a-z_]+[a-z])\b", page.read_text()):
            if re.search(rf"\b{name}\b", api):
                continue
            family = re.sub(r"_(bucket|sum|count)$", "", name)
            if name.removeprefix("fastws_").removesuffix("_total") in with_relay:
                continue
            is_there = {name, family, name.removesuffix("_total")} & there or re.fullmatch(others, name)
            assert is_there, f"{name_of(page)}: there is no figure {name}"
    for sample in all_of("yaml"):
        settings = yaml.safe_load(sample.text)
        assert settings.keys() <= {"groups", "scrape_configs"}
        rules = [rule for group in settings.get("groups", ()) for rule in group["rules"]]
        assert all(rule["alert"].isalpha() and "fastws_" in rule["expr"] for rule in rules)


def test_statistics_that_the_page_names_are_there(target: Server) -> None:
    page = (ROOT / "docs" / "protocol" / "http.md").read_text()
    rows = re.findall(
        r"^\| (`.+?) \|", page.partition("## Statistics")[2].partition("\n## ")[0], re.MULTILINE
    )
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert len(named) > 10
    # Of several processes, and of several servers.
    assert set(named) - {"workers", "by_worker", "relay"} <= target.stats().keys()
