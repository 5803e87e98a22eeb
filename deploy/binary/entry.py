"""What the program in dist/fastws begins with."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Where systems have their certificate authorities; the OpenSSL that was packed knows those of Debian only.
_AUTHORITIES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


def find_authorities() -> None:
    if "SSL_CERT_FILE" in os.environ or "SSL_CERT_DIR" in os.environ:
        return
    found = next((path for path in _AUTHORITIES if Path(path).is_file()), None)
    if found is not None:
        os.environ["SSL_CERT_FILE"] = found


def main() -> int:
    if sys.argv[1:3] == ["-S", "-c"]:
        # sys.executable stands for a Python to whoever starts it so, as fastws bench does.
        program = sys.argv[3]
        sys.argv[:] = ["-c", *sys.argv[4:]]
        exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102 - what it was asked for
        return 0
    find_authorities()
    from fastws.cli import main as command  # noqa: PLC0415 - not for the above

    return command()


if __name__ == "__main__":
    sys.exit(main())
