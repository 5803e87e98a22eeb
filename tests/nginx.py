"""A real nginx in front of a server, set up as its users do."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tests.serving import require_program, until

# Everything but the headers of X-Forwarded-* and the upgrade is nginx's default: the Host header becomes that of the
# upstream, and what the client sends as Forwarded is handed on.
_CONFIGURATION = """
user root;
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location {prefix} {{
            proxy_pass {upstream};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Host $http_host;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Prefix "{taken}";
        }}
    }}
}}
"""


@contextmanager
def proxying(directory: Path, upstream: str, *, prefix: str = "/") -> Iterator[int]:
    """Hand what is below `prefix` on to `upstream`; yields the port. With a path, `upstream` replaces the prefix."""
    program = require_program("nginx")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    configuration = directory / "nginx.conf"
    configuration.write_text(
        _CONFIGURATION.format(
            directory=directory,
            port=port,
            upstream=upstream,
            prefix=prefix,
            taken=prefix.rstrip("/") if urlsplit(upstream).path else "",
        )
    )
    process = subprocess.Popen(
        [program, "-p", str(directory), "-c", str(configuration), "-e", f"{directory}/error.log"]
    )
    try:

        def is_listening() -> bool:
            assert process.poll() is None, (directory / "error.log").read_text()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        until(is_listening, "nginx")
        yield port
    finally:
        process.terminate()
        process.wait(10)
