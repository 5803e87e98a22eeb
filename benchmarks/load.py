"""Load scenarios against a real server process: what arrives, how late, and what it costs.

    python -m benchmarks.load fanout --connections 1000 --rate 4000 --seconds 10
    python -m benchmarks.load idle --connections 9000
    python -m benchmarks.load slow --connections 500 --slow 50 --rate 2000

Each starts `fastws serve` on a free port and stops it again, or measures what runs at `--url`. One connection is
one subscription to the prices of one symbol. The exit status is 1 when a message was lost without being declared,
came twice or out of order, or could not be read, and 2 when the load could not be set up.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from fastws import __version__
from fastws.bench import Group, LoadClient, LoadError, LoadResult

SYMBOL = "005930"
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 15.0
BUSY_LIMIT = 0.9
# Waiting for a processor for more than this share of the time, the client measures the machine and not the server.
DELAY_LIMIT = 0.1
FAULTS = (
    "undeclared_lost",
    "duplicates",
    "reordered",
    "sequence_backwards",
    "errors",
    "unparsed",
    "protocol_violations",
)
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Sample:
    """The server and the machine at one moment."""

    at: float
    cpu_s: float
    rss: int
    machine_busy_s: float
    """Processor time that all processes together have used."""


class Process:
    """A process seen from outside, through /proc."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def sample(self) -> Sample:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        user, system = int(fields[11]), int(fields[12])
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        with open("/proc/stat") as file:
            busy = [int(field) for field in file.readline().split()[1:9]]
        idle = busy[3] + busy[4]
        return Sample(time.monotonic(), (user + system) / _TICKS, pages * _PAGE, (sum(busy) - idle) / _TICKS)

    def memory(self) -> dict[str, int]:
        """Resident and proportional size in bytes, exactly and not from the counters that lag behind."""
        sizes = {}
        for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in {"Rss", "Pss"}:
                sizes[name.lower()] = int(rest.split()[0]) * 1024
        return sizes


def tcp_memory() -> int:
    """Bytes that the kernel holds in TCP buffers, of all processes."""
    for line in Path("/proc/net/sockstat").read_text().splitlines():
        if line.startswith("TCP:"):
            words = line.split()
            return int(words[words.index("mem") + 1]) * _PAGE
    return 0


class Server(Process):
    """`fastws serve` as a process of our own, listening when constructed."""

    def __init__(self, options: argparse.Namespace, *, feed: str, cpu: int | None = None) -> None:
        self._files = contextlib.ExitStack()
        directory = Path(self._files.enter_context(tempfile.TemporaryDirectory(prefix="fastws-load-")))
        table = directory / "symbols.csv"
        table.write_text(
            "symbol,name,market,sector,previous_close\n" + f"{SYMBOL},Samsung Electronics,KOSPI,IT,72000\n"
        )
        self._log: IO[bytes] = self._files.enter_context((directory / "log").open("w+b"))
        self.command = [
            sys.executable, "-m", "fastws", "serve", "--host", "127.0.0.1", "--port", "0", "--feed", feed,
            "--symbols-file", str(table), "--log-format", "json",
        ]  # fmt: skip
        self.environment = {
            # Prices only and evenly, from the first second on.
            "FASTWS_SIMULATOR_RATE": str(getattr(options, "rate", 1.0)),
            "FASTWS_SIMULATOR_BOOK_SHARE": "0",
            "FASTWS_SIMULATOR_OPENING_BURST": "1",
            "FASTWS_SIMULATOR_SEED": "1",
            "FASTWS_BATCH_INTERVAL_MS": str(options.batch_interval_ms),
            "FASTWS_RATE_LIMIT": "1000",
        }
        inherited = {name: text for name, text in os.environ.items() if not name.startswith("FASTWS_")}
        self._process = subprocess.Popen(
            self.command,
            env=inherited | self.environment,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
        super().__init__(self._process.pid)
        try:
            self.url = self._wait_for_url().replace("http://", "ws://") + "/v1/ws"
            if cpu is not None:
                os.sched_setaffinity(self.pid, {cpu})
        except BaseException:
            self.stop()
            raise

    def _wait_for_url(self) -> str:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            for line in self.log().splitlines():
                with contextlib.suppress(json.JSONDecodeError):
                    entry = json.loads(line)
                    if isinstance(entry, dict) and entry.get("event") == "listening":
                        return str(entry["url"])
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise LoadError(f"{' '.join(self.command)} did not start:\n{self.log()}")
            time.sleep(0.05)

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def stop(self) -> None:
        """End the process, by force if it does not end in time."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._files.close()


@dataclass(frozen=True)
class Target:
    """What is measured: a URL, and the process behind it when it is known."""

    url: str
    process: Process | None
    command: list[str]
    environment: dict[str, str]


@contextlib.contextmanager
def target(options: argparse.Namespace, feed: str) -> Iterator[Target]:
    if options.url:
        process = Process(options.server_pid) if options.server_pid else None
        yield Target(options.url, process, [], {})
        return
    cpus = [int(cpu) for cpu in options.pin.split(",")] if options.pin else None
    own = os.sched_getaffinity(0)
    server = Server(options, feed=feed, cpu=cpus[0] if cpus else None)
    try:
        if cpus:
            # After the start of the server, which would inherit it.
            os.sched_setaffinity(0, {cpus[-1]})
        yield Target(server.url, server, server.command, server.environment)
    finally:
        os.sched_setaffinity(0, own)
        server.stop()


def subscription(options: argparse.Namespace) -> bytes:
    request = {
        "type": "subscribe",
        "subscription_type": "stock",
        "targets": [options.symbol],
        "channels": ["price"],
    }
    if options.mode == "latest":
        request["mode"] = "latest"
    return json.dumps(request, separators=(",", ":")).encode()


def new_client(
    options: argparse.Namespace, url: str, n: int, *, n_slow: int = 0, n_ping: int = 0
) -> LoadClient:
    return LoadClient(
        url,
        n + n_slow,
        subscribe=subscription(options),
        check=options.check,
        conflated=options.mode == "latest",
        n_slow=n_slow,
        n_ping=min(n_ping, n),
        nap_us=options.nap_us,
    )


@dataclass(frozen=True)
class Run:
    """A measured stretch of load."""

    connect_s: float
    load: LoadResult
    server: dict[str, Any] | None
    timeline: list[dict[str, float]]


def measure(
    options: argparse.Namespace,
    client: LoadClient,
    process: Process | None,
    *,
    warm_up: float,
    seconds: float,
) -> Run:
    """Connect, warm up, then measure with a look at the server every second."""
    started = time.monotonic()
    client.connect(timeout=options.connect_timeout, max_in_flight=options.batch_size, ramp_up=options.ramp_up)
    connect_s = time.monotonic() - started
    client.run(warm_up)
    client.reset()
    samples = [process.sample()] if process else []
    own_started = time.process_time()
    began = time.monotonic()
    timeline: list[dict[str, float]] = []
    n_before = 0
    while (left := began + seconds - time.monotonic()) > 0.001 and client.n_open:
        client.run(min(1.0, left))
        result = client.result()
        row: dict[str, float] = {"at": time.monotonic() - began, "messages": result["messages"] - n_before}
        n_before = result["messages"]
        if result["slow"]:
            row["slow_open"] = result["slow"]["open"]
        if process:
            samples.append(process.sample())
            row["rss"] = samples[-1].rss
        timeline.append(row)
    server = None
    if process:
        first, last = samples[0], samples[-1]
        elapsed = last.at - first.at
        cpu_s = last.cpu_s - first.cpu_s
        own_s = time.process_time() - own_started
        server = {
            "cpu_cores": cpu_s / elapsed,
            "rss_first": first.rss,
            "rss_last": last.rss,
            "rss_most": max(sample.rss for sample in samples),
            "other_processes_cores": max(
                0.0, (last.machine_busy_s - first.machine_busy_s - cpu_s - own_s) / elapsed
            ),
        }
    return Run(connect_s, client.result(), server, timeline)


# Scenarios: each returns what is written as JSON, and prints its table.


def fanout(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """N readers of one symbol."""
    with target(options, "sim") as aim:
        client = new_client(options, aim.url, options.connections, n_ping=options.ping)
        try:
            run = measure(options, client, aim.process, warm_up=options.warm_up, seconds=options.seconds)
        finally:
            client.close(timeout=0)
        table = Table(f"fan-out: {options.connections:,} connections, {options.rate:,g} messages/s to each")
        describe(table, run, options)
        table.print()
        return {"target": described(aim), "run": asdict(run)}, verdict(run)


def idle(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """What a connection costs that gets nothing."""
    with target(options, "none") as aim:
        if aim.process is None:
            raise LoadError("the idle scenario reads the server's memory: give --server-pid with --url")
        # What the first connections make the server load and allocate once is not theirs.
        first = new_client(options, aim.url, 20)
        first.connect(timeout=options.connect_timeout)
        first.close()
        before, kernel_before, own_before = aim.process.memory(), tcp_memory(), Process(os.getpid()).memory()
        client = new_client(options, aim.url, options.connections)
        try:
            run = measure(options, client, aim.process, warm_up=options.warm_up, seconds=options.seconds)
            after, kernel_after, own_after = aim.process.memory(), tcp_memory(), Process(os.getpid()).memory()
        finally:
            client.close(timeout=0)
        n = options.connections
        figures = {
            "server_before": before,
            "server_after": after,
            "server_bytes_per_connection": (after["rss"] - before["rss"]) / n,
            "kernel_tcp_bytes_per_connection": (kernel_after - kernel_before) / n,
            "client_bytes_per_connection": (own_after["rss"] - own_before["rss"]) / n,
        }
        table = Table(f"idle: {n:,} subscribed connections to a quiet symbol")
        table.add("connected in", f"{run.connect_s:.2f} s, {n / run.connect_s:,.0f}/s")
        table.add("server memory", f"{mib(before['rss'])} before, {mib(after['rss'])} after")
        table.add("server per connection", f"{figures['server_bytes_per_connection'] / 1024:.2f} KiB")
        table.add(
            "kernel buffers per connection", f"{figures['kernel_tcp_bytes_per_connection'] / 1024:.2f} KiB"
        )
        table.add("client per connection", f"{figures['client_bytes_per_connection'] / 1024:.2f} KiB")
        assert run.server is not None
        table.add("server while idle", f"{run.server['cpu_cores']:.3f} cores")
        table.add("open at the end", f"{run.load['open']:,} of {n:,}")
        table.print()
        faults = verdict(run)
        if run.load["open"] < n:
            faults.append(f"{n - run.load['open']} connections were closed: {run.load['closes']}")
        return {"target": described(aim), "run": asdict(run), "memory": figures}, faults


def slow(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """The same readers without and with neighbours that do not read."""
    runs: dict[str, Run] = {}
    with target(options, "sim") as aim:
        for name, n_slow in (
            ("without slow readers", 0),
            (f"with {options.slow:,} slow readers", options.slow),
        ):
            client = new_client(options, aim.url, options.connections, n_slow=n_slow, n_ping=options.ping)
            try:
                # The slow ones fill their buffers while it is measured: no warm-up hides that.
                runs[name] = measure(
                    options, client, aim.process, warm_up=options.warm_up, seconds=options.seconds
                )
            finally:
                client.close(timeout=0)
        table = Table(
            f"slow readers: {options.connections:,} that read, {options.rate:,g} messages/s to each"
        )
        for name, run in runs.items():
            table.add(name, "")
            describe(table, run, options, indent="  ")
            if run.load["slow"]:
                group = run.load["slow"]
                closes = ", ".join(f"{n} x {code}" for code, n in sorted(group["closes"].items()))
                table.add(
                    "  slow ones still open",
                    f"{group['open']} of {group['connections']} ({closes or 'no closes'})",
                )
            if run.server:
                table.add("  server memory by second", " ".join(mib(row["rss"]) for row in run.timeline))
        without, with_slow = runs.values()
        p99 = [run.load["latency"]["p99_ms"] for run in (without, with_slow)]
        if None not in p99:
            table.add("p99 with / without", f"{p99[1]:.1f} / {p99[0]:.1f} ms")
        table.print()
        faults = [f"{name}: {fault}" for name, run in runs.items() for fault in verdict(run)]
        return {"target": described(aim), "runs": {name: asdict(run) for name, run in runs.items()}}, faults


# Output.


class Table:
    """Rows of a name and a text, aligned when printed."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.rows: list[tuple[str, str]] = []

    def add(self, name: str, text: str) -> None:
        self.rows.append((name, text))

    def print(self) -> None:
        width = max(len(name) for name, _ in self.rows) + 2
        print(self.title)
        for name, text in self.rows:
            print(f"  {name:<{width}}{text}".rstrip())


def mib(size: float) -> str:
    return f"{size / (1 << 20):.1f} MiB"


def durations(row: Mapping[str, Any]) -> str:
    if not row["count"]:
        return "nothing measured"
    names = (("p50", "p50_ms"), ("p90", "p90_ms"), ("p99", "p99_ms"), ("p99.9", "p999_ms"), ("max", "max_ms"))
    return "  ".join(f"{name} {row[key]:.1f}" for name, key in names) + "  ms"


def describe(table: Table, run: Run, options: argparse.Namespace, *, indent: str = "") -> None:
    load = run.load
    add: Callable[[str, str], None] = lambda name, text: table.add(indent + name, text)  # noqa: E731
    wanted = options.rate * load["connections"]
    add("connected in", f"{run.connect_s:.2f} s")
    share = (
        ""
        if options.url or options.mode == "latest"
        else f", {load['messages_per_second'] / wanted:.1%} of the rate"
    )
    add("delivered", f"{load['messages_per_second']:,.0f} messages/s{share}")
    fewest, most = load["messages_per_connection"]
    add("to one connection", f"{fewest:,} to {most:,} messages in {load['seconds']:.1f} s")
    size = load["messages"] / load["frames"] if load["frames"] else 0.0
    add(
        "frames",
        f"{load['frames'] / load['seconds']:,.0f}/s of {size:.1f} messages, {load['bytes_per_second'] / 1e6:,.0f} MB/s",
    )
    add("latency", durations(load["latency"]))
    if load["ping"]:
        ping = load["ping"]
        add("ping", f"{durations(ping)}  ({ping['sent']} sent, {ping['skipped']} skipped)")
    add("lost", f"{load['lost']:,} ({load['declared_lost']:,} declared)")
    if load["closes"]:
        add("closed by the server", ", ".join(f"{n} x {code}" for code, n in sorted(load["closes"].items())))
    if run.server:
        add(
            "server",
            f"{run.server['cpu_cores']:.2f} cores, {mib(run.server['rss_last'])},"
            f" {mib(run.server['rss_most'])} at most",
        )
    own = load["client"]
    add(
        "load client",
        f"{own['cpu_share']:.2f} cores, waited {own['run_delay_seconds']:.2f} s for a processor",
    )
    if run.server and run.server["other_processes_cores"] > 0.05:
        add("other processes", f"{run.server['other_processes_cores']:.2f} cores")
    for note in bottlenecks(load):
        add("note", note)


def bottlenecks(load: LoadResult) -> list[str]:
    own = load["client"]
    notes = []
    if max(own["cpu_share"], own["busy_share"]) > BUSY_LIMIT:
        notes.append("the generator was the bottleneck")
    if own["run_delay_seconds"] > DELAY_LIMIT * load["seconds"]:
        notes.append("the generator had to wait for a processor: latencies are in part its own")
    return notes


def verdict(run: Run) -> list[str]:
    """What must not have happened and did."""
    group: Group = run.load
    counts: Mapping[str, Any] = group
    faults = [f"{name} {counts[name]:,}" for name in FAULTS if counts[name]]
    for name in ("first_error", "first_unparsed"):
        if counts[name]:
            faults.append(f"{name}: {counts[name]}")
    if group["closes"]:
        faults.append(f"closed by the server: {group['closes']}")
    return faults


def described(aim: Target) -> dict[str, Any]:
    return {"url": aim.url, "command": aim.command, "environment": aim.environment}


def machine() -> dict[str, Any]:
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    facts = {
        name: Path(f"/proc/sys/net/{name}").read_text().split()
        for name in ("core/somaxconn", "ipv4/tcp_rmem", "ipv4/tcp_wmem", "ipv4/tcp_congestion_control")
    }
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * _PAGE,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {"fastws": __version__, "uvloop": version("uvloop")},
        "load_average": os.getloadavg(),
        "net": facts,
    }


def positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"expected a positive number, not {text}")
    return value


def count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, not {text}")
    return value


def parser() -> argparse.ArgumentParser:
    description, _, epilog = (__doc__ or "").partition("\n\n")
    top = argparse.ArgumentParser(
        prog="benchmarks.load",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="scenario", required=True)
    for scenario, connections, seconds in ((fanout, 1000, 10.0), (idle, 1000, 2.0), (slow, 500, 20.0)):
        command = commands.add_parser(scenario.__name__, help=scenario.__doc__, description=scenario.__doc__)
        command.set_defaults(run=scenario)
        add = command.add_argument
        add("--connections", type=count, default=connections, metavar="N")
        add(
            "--seconds",
            type=positive,
            default=seconds,
            metavar="S",
            help="measured time (default: %(default)g)",
        )
        add(
            "--warm-up",
            type=positive,
            default=1.0,
            metavar="S",
            help="time before that (default: %(default)g)",
        )
        if scenario is slow:
            add("--slow", type=count, default=50, metavar="N", help="connections that never read")
        if scenario is not idle:
            add(
                "--rate",
                type=positive,
                default=1000.0,
                metavar="R",
                help="messages/s published (default: %(default)g)",
            )
            add("--ping", type=int, default=4, metavar="N", help="connections that ping ten times a second")
        add("--batch-interval-ms", type=int, default=30, metavar="MS")
        add("--mode", choices=("all", "latest"), default="all")
        add(
            "--check",
            choices=("none", "edges", "full"),
            default="edges",
            help="how closely messages are read",
        )
        add("--batch-size", type=count, default=100, metavar="N", help="connections opened at a time")
        add("--ramp-up", type=float, default=0.0, metavar="S", help="spread the opening over so many seconds")
        add("--connect-timeout", type=positive, default=60.0, metavar="S")
        add("--nap-us", type=int, default=0, metavar="US", help="pause of the client after each wake-up")
        add("--pin", metavar="SERVER,CLIENT", help="processors to run on, as 0,1")
        add("--url", help="measure this server instead of a new one; it must publish by itself")
        add("--server-pid", type=int, metavar="PID", help="its process, for processor time and memory")
        add("--symbol", default=SYMBOL, help="what is subscribed to (default: %(default)s)")
        add("--json", type=Path, metavar="FILE", help="write everything that was measured")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    # The server inherits the limit.
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)
    )  # through the clean-up, to the server
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    facts = machine()
    try:
        result, faults = options.run(options)
    except LoadError as error:
        print(f"load: {error}", file=sys.stderr)
        return 2
    print("  FAULTS: " + "; ".join(faults) if faults else "  every message is accounted for")
    if options.json:
        command = ["python", "-m", "benchmarks.load", *(sys.argv[1:] if arguments is None else arguments)]
        document = {
            "command": command,
            "machine": facts,
            "scenario": options.scenario,
            "faults": faults,
            **result,
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
