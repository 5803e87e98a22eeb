"""`fastws bench` by the name of a script: `python benchmarks/websocket_load_test.py --url ws://HOST:PORT/v1/ws`."""

import sys

from fastws.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
