"""nginx with Nchan: the server is nginx, and this program its publisher, which posts one message at a time over a
connection that stays open. Latencies have that hop in them; processor time has only nginx's side of it."""

from __future__ import annotations

import http.client
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.peers.publication import MIN_SLEEP_S, announce, arguments, messages

# Where Debian's libnginx-mod-nchan puts it.
MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
CONFIGURATION = f"""
load_module {MODULE};
daemon off; worker_processes 1; worker_rlimit_nofile 65536;
pid %(directory)s/pid; error_log stderr crit;
events {{ worker_connections 65536; }}
http {{
    access_log off; keepalive_requests 1000000000; keepalive_time 1d;
    client_body_temp_path %(directory)s/body; proxy_temp_path %(directory)s/proxy;
    fastcgi_temp_path %(directory)s/fastcgi; uwsgi_temp_path %(directory)s/uwsgi; scgi_temp_path %(directory)s/scgi;
    nchan_shared_memory_size 256m;
    server {{
        listen 127.0.0.1:%(port)d backlog=4096;
        location = /v1/ws {{
            nchan_subscriber websocket; nchan_channel_id prices; nchan_subscriber_first_message newest;
        }}
        location = /publish {{ nchan_publisher http; nchan_channel_id prices; }}
    }}
}}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def worker_of(nginx: subprocess.Popen[bytes]) -> int:
    """Wait for nginx to accept; returns the process that serves. The master only waits."""
    children = Path(f"/proc/{nginx.pid}/task/{nginx.pid}/children")
    while nginx.poll() is None:
        pids = children.read_text().split()
        if pids:
            return int(pids[0])
        time.sleep(0.01)
    sys.exit(f"nginx ended with {nginx.returncode}")


def publish_for_ever(port: int) -> None:
    rate, head = arguments()
    connection = http.client.HTTPConnection("127.0.0.1", port)
    began = time.monotonic()
    for n, text in enumerate(messages(head), 1):
        connection.request("POST", "/publish", text, {"Content-Type": "text/plain"})
        response = connection.getresponse()
        response.read()
        if response.status not in (201, 202):
            sys.exit(f"Nchan answered {response.status} {response.reason} to a message")
        due = began + (n + 1) / rate
        if due > time.monotonic():
            time.sleep(max(due - time.monotonic(), MIN_SLEEP_S))


def main() -> None:
    # Through the clean-up, to nginx.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="fastws-nchan-") as directory:
        configuration = Path(directory, "nginx.conf")
        configuration.write_text(CONFIGURATION % {"directory": directory, "port": port})
        nginx = subprocess.Popen(
            [shutil.which("nginx") or "nginx", "-p", directory, "-c", str(configuration)]
        )
        try:
            announce(port, worker_of(nginx))
            publish_for_ever(port)
        finally:
            nginx.terminate()
            nginx.wait()


if __name__ == "__main__":
    main()
