"""The files of deploy/ are held against the programs that read them, as far as those are here."""

from __future__ import annotations

import http.client
import importlib.util
import json
import re
import socket
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fastws.auth.tokens import sign
from fastws.configuration import read
from fastws.settings import Settings
from tests.rawclient import RawClient, upgrade_head
from tests.redis_server import RedisServer
from tests.serving import ROOT, Server, free_port, require_module, require_program, until

DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "systemd" / "fastws@.service"
CONFIGURATION = str(DEPLOY / "fastws.toml")
_VARIABLE = re.compile(r"\$\{(\w+):\?[^}]*\}")


def compose() -> dict[str, Any]:
    text = (DEPLOY / "compose.yaml").read_text()
    # As compose fills in variables that have to be there.
    filled = _VARIABLE.sub(lambda found: f"{found[1]} of thirty-two bytes or more, it is", text)
    assert "$" not in filled
    document: dict[str, Any] = require_module("yaml").safe_load(filled)
    return document


def settings_of(environment: dict[str, str]) -> Settings:
    # The file is where the container has it.
    given = {name: text for name, text in environment.items() if name != "FASTWS_CONFIG"}
    assert all(isinstance(text, str) for text in given.values())
    reading = read(CONFIGURATION, given, {})
    assert not reading.problems
    return reading.settings


def test_the_services_of_compose_fit_together() -> None:
    document = compose()
    services = document["services"]
    assert services.keys() == {"redis", "nginx", "fastws-1", "fastws-2", "fastws-3"}
    for name, service in services.items():
        assert isinstance(service["image"], str)
        assert set(service.get("depends_on", ())) <= services.keys(), name
        assert set(service["networks"]) <= document["networks"].keys()
        for volume in service.get("volumes", ()):
            source, target, *_ = volume.split(":")
            assert target.startswith("/")
            is_file = source.startswith("./")
            assert (DEPLOY / source).is_file() if is_file else source in document["volumes"], volume
    upstreams = (DEPLOY / "nginx" / "upstreams.compose.conf").read_text()
    assert set(re.findall(r"server (\S+):8000", upstreams)) == {"fastws-1", "fastws-2", "fastws-3"}
    build = services["fastws-1"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()


def test_the_servers_of_compose_can_use_their_settings() -> None:
    services = compose()["services"]
    found = [settings_of(services[f"fastws-{n}"]["environment"]) for n in (1, 2, 3)]
    assert {(each.host, each.port, each.relay) for each in found} == {
        ("0.0.0.0", 8000, "redis://redis:6379/0")
    }
    assert [each.feed_standby for each in found] == [0, 1, 2]
    stop = found[0].shutdown_delay + found[0].shutdown_timeout
    assert services["fastws-1"]["stop_grace_period"] == "30s"
    assert stop < 30
    # What containers share is named in one place.
    assert found[0].database == f"sqlite:///{services['fastws-1']['volumes'][1].split(':')[1]}/fastws.db"


def dockerfile() -> Any:
    """The module that replays it."""
    spec = importlib.util.spec_from_file_location("replay", DEPLOY / "replay.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_image_is_made_of_what_the_package_is_made_of() -> None:
    replay = dockerfile()
    steps = replay.instructions((DEPLOY / "Dockerfile").read_text())
    assert {name for name, _ in steps if not hasattr(replay.Replay, f"_{name.lower()}")} == set()
    patterns = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = dict(rest.split("=") for name, rest in steps if name == "ARG")["EXTRAS"].split(",")
    assert set(extras) <= project["optional-dependencies"].keys()
    copied = {source for name, rest in steps if name == "COPY" for source in rest.split()[:-1]}
    # What links in the package lead to, as well.
    assert copied >= {project["readme"], "LICENSE", "pyproject.toml", "setup.py", "fastws", "clients"}
    for source in copied:
        assert (ROOT / source).exists()
        assert not replay.ignored(patterns, source)
    assert replay.ignored(patterns, "fastws/_core.c")
    assert replay.ignored(patterns, "fastws/_core.cpython-312-x86_64-linux-gnu.so")
    assert replay.ignored(patterns, "fastws/server/__pycache__")
    assert not replay.ignored(patterns, "fastws/_core.pyx")
    assert not replay.ignored(patterns, "fastws/web/static/vendor/LICENSE")
    said = dict(steps)
    command = json.loads(said["ENTRYPOINT"]) + json.loads(said["CMD"])
    assert command == ["fastws", "serve"]
    assert json.loads(said["HEALTHCHECK"].partition(" CMD ")[2]) == ["fastws", "health"]
    # Kubernetes takes none by its name for one that is not root.
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", said["USER"])
    variables = dict(rest.split("=", 1) for name, rest in steps if name == "ENV")
    assert settings_of(variables).host == "0.0.0.0"


def test_redis_takes_its_command_line(tmp_path: Path) -> None:
    program, *options = compose()["services"]["redis"]["command"]
    assert program == "redis-server"
    with RedisServer(tmp_path, *options) as redis:
        assert "67108864 16777216 10" in redis.command("CONFIG", "GET", "client-output-buffer-limit")
        assert redis.command("CONFIG", "GET", "save").endswith("$0\r\n\r\n")


def test_the_steps_of_the_readme_fit_the_files() -> None:
    text = (DEPLOY / "README.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        done = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    named = set(re.findall(r"deploy/[\w./*-]*\w\*?", text))
    assert len(named) > 5
    assert all(list(ROOT.glob(name)) for name in named), named
    # Where the unit looks for what is installed, and what Redis's user is called.
    for path in re.findall(r"(?:=-?|--config )(/(?:etc|opt)/\S+)", UNIT.read_text()):
        assert path.partition("%")[0].removesuffix("/bin/fastws") in text, path
    assert "CHANGE-THIS-PASSWORD" in (DEPLOY / "redis" / "fastws.conf").read_text()
    assert "CHANGE-THIS-PASSWORD" in text


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    program = require_program("systemd-analyze")
    # What the unit starts is not there; something else is, that can be started.
    text = UNIT.read_text()
    command = "/opt/fastws/.venv/bin/fastws"
    assert f"ExecStart={command} serve" in text
    (tmp_path / UNIT.name).write_text(text.replace(command, "/bin/true"))
    target = DEPLOY / "systemd" / "fastws.target"
    port = DEPLOY / "systemd" / "fastws@.socket"
    for each in (target, port):
        (tmp_path / each.name).write_text(each.read_text())
    done = subprocess.run(
        [
            program,
            "verify",
            "--man=no",
            "--recursive-errors=no",
            tmp_path / "fastws@1.service",
            tmp_path / "fastws@1.socket",
            tmp_path / target.name,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:", "PATH": "/usr/bin:/bin"},
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_finds_little_to_attack(tmp_path: Path) -> None:
    # In tenths: 10 is a service without any protection, and what has a network is never at 0.
    (tmp_path / "fastws@1.service").write_text(UNIT.read_text())
    done = subprocess.run(
        [
            require_program("systemd-analyze"),
            "security",
            "--offline=true",
            "--threshold=20",
            "--no-pager",
            tmp_path / "fastws@1.service",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_socket_of_systemd_is_where_nginx_looks() -> None:
    text = (DEPLOY / "systemd" / "fastws@.socket").read_text()
    found = re.search(r"^ListenStream=(\S+)$", text, re.MULTILINE)
    assert found is not None
    upstreams = (DEPLOY / "nginx" / "upstreams.systemd.conf").read_text()
    for n in (0, 1, 2):
        assert f"server {found[1].replace('%i', str(n))} max_fails=2" in upstreams
    # The name that is the administrator's would keep clients away.
    assert "FileDescriptorName=admin" not in text


def test_the_servers_of_systemd_can_use_their_settings() -> None:
    lines = re.findall(r"^Environment=(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE)
    found = [settings_of({name: text.replace("%i", str(n)) for name, text in lines}) for n in (0, 1, 2)]
    ports = [each.port for each in found]
    upstreams = (DEPLOY / "nginx" / "upstreams.systemd.conf").read_text()
    assert [f"server 127.0.0.1:{port} max_fails=2" in upstreams for port in ports] == [True] * 3
    assert [each.admin_bind for each in found] == [f"127.0.0.1:900{n}" for n in (0, 1, 2)]
    assert [each.feed_standby for each in found] == [0, 1, 2]
    stop = re.search(r"^TimeoutStopSec=(\d+)$", UNIT.read_text(), re.MULTILINE)
    assert stop is not None
    assert found[0].shutdown_delay + found[0].shutdown_timeout < int(stop[1])
    # Keys that the servers do not share stand in none of the files.
    assert (
        not {"port", "admin_bind", "jwt_secret", "admin_token"}
        & tomllib.loads(Path(CONFIGURATION).read_text()).keys()
    )


def kubernetes() -> dict[tuple[str, str], dict[str, Any]]:
    """What the manifest makes, by kind and name."""
    text = (DEPLOY / "kubernetes" / "fastws.yaml").read_text()
    return {
        (each["kind"], each["metadata"]["name"]): each for each in require_module("yaml").safe_load_all(text)
    }


def test_the_parts_of_the_manifest_find_each_other() -> None:
    made = kubernetes()
    sets = {
        name: each["spec"] for (kind, name), each in made.items() if kind in ("StatefulSet", "Deployment")
    }
    assert sets.keys() == {"fastws", "redis"}
    labels, ports = {}, {}
    for name, spec in sets.items():
        (container,) = spec["template"]["spec"]["containers"]
        labels[name] = spec["template"]["metadata"]["labels"]
        ports[name] = {port["name"] for port in container["ports"]}
        assert spec["selector"]["matchLabels"] == labels[name]
        volumes = {volume["name"] for volume in spec["template"]["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        assert spec["template"]["spec"]["securityContext"]["runAsNonRoot"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
    services = {name: each["spec"] for (kind, name), each in made.items() if kind == "Service"}
    assert services.keys() == {"fastws", "fastws-pods", "redis"}
    for name, spec in services.items():
        (target,) = (each for each in sets if labels[each] == spec["selector"])
        assert {port["targetPort"] for port in spec["ports"]} <= ports[target], name
        # The administrator's port is nobody's but Prometheus's.
        assert "admin" not in {port["targetPort"] for port in spec["ports"]}
    assert sets["fastws"]["serviceName"] in services
    (path,) = made["Ingress", "fastws"]["spec"]["rules"][0]["http"]["paths"]
    target = path["backend"]["service"]
    assert target["port"]["name"] in {port["name"] for port in services[target["name"]]["ports"]}
    for kind in ("PodDisruptionBudget", "NetworkPolicy"):
        spec = made[kind, "fastws"]["spec"]
        assert (spec.get("selector") or spec["podSelector"])["matchLabels"] == labels["fastws"]


def test_the_servers_of_the_manifest_can_use_their_settings(tmp_path: Path) -> None:
    made = kubernetes()
    pod = made["StatefulSet", "fastws"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (name, text), *_ = made["ConfigMap", "fastws"]["data"].items()
    variables = {each["name"]: each.get("value", "1") for each in container["env"]}
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert Path(variables.pop("FASTWS_CONFIG")).parent.as_posix() in mounts
    (tmp_path / name).write_text(text)
    secrets = {
        "FASTWS_ADMIN_TOKEN": "a" * 32,
        "FASTWS_JWT_SECRET": "b" * 32,
        "FASTWS_DATABASE": "postgresql+psycopg://db/fastws",
    }
    reading = read(str(tmp_path / name), variables | secrets, {})
    assert not reading.problems
    settings = reading.settings
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert (settings.port, settings.admin_bind) == (ports["clients"], f"0.0.0.0:{ports['admin']}")
    assert settings.feed_standby == 1
    assert settings.relay is not None
    service = made["Service", "redis"]
    assert f"//{service['metadata']['name']}:{service['spec']['ports'][0]['port']}/" in settings.relay
    wait = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    stop = wait + settings.shutdown_delay + settings.shutdown_timeout
    assert stop < pod["terminationGracePeriodSeconds"]
    assert {each["httpGet"]["path"] for kind, each in container.items() if kind.endswith("Probe")} == {
        "/health",
        "/ready",
    }
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
    # The user of the image.
    user = re.search(r"^USER (\d+):(\d+)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert user is not None
    assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"]) == (
        int(user[1]),
        int(user[2]),
    )
    assert not pod["enableServiceLinks"]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[Server]]:
    started = [
        Server(
            tmp_path, admin_bind="127.0.0.1:0", trusted_proxies="127.0.0.1", admin_token="of an administrator"
        )
        for _ in range(2)
    ]
    yield started
    for server in started:
        if server.process.poll() is None:
            server.end()


def configure(directory: Path, ports: list[int], port: int) -> list[str]:
    """Write the configuration with other ports, and return the command that uses it."""
    program = require_program("nginx")
    text = (DEPLOY / "nginx" / "nginx.conf").read_text()
    for before, after in (
        ("user www-data;", "user root; daemon off;"),
        ("/run/nginx.pid", f"{directory}/nginx.pid"),
        ("/var/log/nginx/error.log", f"{directory}/error.log"),
        ("worker_processes auto", "worker_processes 1"),
        ("listen 8080 ", f"listen 127.0.0.1:{port} "),
        ("    access_log off;", "    access_log off;" + "".join(
            f"\n    {kind}_temp_path {directory}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )),
    ):  # fmt: skip
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    text = re.sub(r"\n *listen \[::\].*", "", text)
    upstreams = (DEPLOY / "nginx" / "upstreams.systemd.conf").read_text()
    for before, now in zip((8000, 8001, 8002), ports, strict=True):
        upstreams = upstreams.replace(f"127.0.0.1:{before}", f"127.0.0.1:{now}")
    (directory / "nginx.conf").write_text(text)
    (directory / "fastws-upstreams.conf").write_text(upstreams)
    return [
        program,
        "-p",
        str(directory),
        "-c",
        str(directory / "nginx.conf"),
        "-e",
        f"{directory}/error.log",
    ]


def test_nginx_takes_the_configuration(tmp_path: Path) -> None:
    command = configure(tmp_path, [8000, 8001, 8002], free_port())
    (tmp_path / "compose").write_text((DEPLOY / "nginx" / "upstreams.compose.conf").read_text())
    for upstreams in ("systemd", "compose"):
        text = (DEPLOY / "nginx" / f"upstreams.{upstreams}.conf").read_text()
        # Their names are those of the network of compose.
        (tmp_path / "fastws-upstreams.conf").write_text(re.sub(r"fastws-(\d):", r"127.0.0.\1:", text))
        done = subprocess.run([*command, "-t"], capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr
        assert "warn" not in done.stderr


def connected(port: int) -> RawClient:
    client = RawClient(port, handshake=False)
    client.send(upgrade_head(x_forwarded_for="203.0.113.7"))
    assert client.read_response()[0] == 101
    assert client.read_message()["type"] == "connection"
    return client


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def status_of(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path)
    status = connection.getresponse().status
    connection.close()
    return status


@pytest.mark.long
def test_prices_are_polled_at_once_whoever_is_asked(tmp_path: Path) -> None:
    (tmp_path / "prices.csv").write_text("symbol,price\nAAPL,150.25\n")
    secret = "a secret of at least thirty-two bytes"
    one, another = (
        {"Authorization": f"Bearer {sign({'sub': name}, secret.encode(), 'HS256')}"}
        for name in ("one", "another")
    )
    path, body = "/api/realtime/force_price_update/", b'{"symbols":["AAPL","GOOGL"]}'
    done = {"updated": ["AAPL"], "failed": [{"symbol": "GOOGL", "reason": "missing: not in the answer"}]}

    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer(tmp_path))

        def start(rank: int) -> Server:
            server = Server(
                tmp_path,
                *("--relay", redis.url, "--feed-standby", str(rank)),
                feed=f"poll:csv:{tmp_path / 'prices.csv'}",
                jwt_secret=secret,
                force_update_interval=600,
                trusted_proxies="127.0.0.1",
            )
            stack.callback(server.end)
            return server

        owner, standby = start(0), start(1)
        owner.until_feed_is("live")

        def is_owner_heard() -> bool:
            there = standby.get_json("/v1/ws/stats?scope=cluster")["instances"]
            return sorted(each["feed_roles"]["csv"] for each in there if each["feed_roles"]) == [
                "owner",
                "standby",
            ]

        # Who has heard of nobody stands by too.
        until(is_owner_heard, "the owner, at the standby")

        def ask(server: Server, user: dict[str, str] = one) -> tuple[int, Any]:
            status, answer = server.get(path, "POST", body, user)
            return status, json.loads(answer)

        assert [ask(server) for server in (owner, standby)] == [(202, done)] * 2
        # Asked too soon again at each of them.
        assert ask(standby)[0] == 429

        port = free_port()
        process = subprocess.Popen(configure(tmp_path, [standby.port, free_port(), owner.port], port))
        stack.callback(process.wait, 10)
        stack.callback(process.terminate)
        until(lambda: is_listening(port), "nginx")
        redis.kill()
        until(lambda: "the relay is away" in standby.log, "the end of Redis")
        status, answer = ask(standby, another)
        assert (status, answer["error"]["message"]) == (
            503,
            "the feed csv may run at another server, and the relay is away; try again",
        )
        # That was not counted as a request of the user's.
        assert ask(standby, another)[0] == 503

        def asked_by_nginx() -> tuple[int, Any]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("POST", path, body, another)
            response = connection.getresponse()
            found = response.status, json.loads(response.read())
            connection.close()
            return found

        assert asked_by_nginx() == (202, done)


def test_clients_behind_nginx_are_spread_and_go_on_when_a_server_is_gone(
    tmp_path: Path, servers: list[Server]
) -> None:
    one, two = servers
    port = free_port()
    # The third one is not there from the beginning.
    process = subprocess.Popen(configure(tmp_path, [one.port, two.port, free_port()], port))
    clients: list[RawClient] = []
    try:
        until(lambda: is_listening(port), "nginx")
        clients += [connected(port) for _ in range(8)]
        assert min(server.stats()["active_connections"] for server in servers) >= 3
        # Whom the proxy in front of nginx tells of, and not what clients claim to each other.
        assert {server.stats()["addresses"] for server in servers} == {1}
        assert status_of(port, "/metrics") == 404
        one.end()
        for _ in range(4):
            assert status_of(port, "/health") == 200
            clients.append(connected(port))
        assert two.stats()["active_connections"] >= 7
    finally:
        for client in clients:
            client.close()
        process.terminate()
        process.wait(10)
