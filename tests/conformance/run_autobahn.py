"""Runs the Autobahn suite against the echo endpoint: ``python -m tests.conformance.run_autobahn COMMAND``.

COMMAND runs the suite's fuzzing client; it is called as ``COMMAND URL CASES`` with CASES as a JSON list without its
brackets, and must exit with 0 only when every case is strictly OK.
"""

from __future__ import annotations

import subprocess
import sys

# All but section 9, which is about speed. Sections 12 and 13 are permessage-deflate.
CASES = '"1.*","2.*","3.*","4.*","5.*","6.*","7.*","10.*","12.*","13.*"'
SECONDS = 3600


def main() -> int:
    if len(sys.argv) < 2:
        print("name the command that runs the suite: make conformance AUTOBAHN=…", file=sys.stderr)
        return 2
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.conformance.echo_server", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        url = server.stdout.readline().split()[-1] if server.stdout else ""
        return subprocess.run([*sys.argv[1:], url, CASES], timeout=SECONDS, check=False).returncode
    finally:
        server.terminate()
        server.wait(10)


if __name__ == "__main__":
    sys.exit(main())
