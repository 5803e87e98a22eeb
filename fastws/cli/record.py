"""``fastws record``: what a feed delivers, into a file."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
from typing import Final

import structlog
import uvloop

from fastws.cli.arguments import some_duration
from fastws.cli.options import add_config, add_settings, begin
from fastws.errors import SettingsError
from fastws.feeds.record import Recorder, record
from fastws.market.interest import Interest
from fastws.server.parts import load_instruments, make_feed
from fastws.settings import Settings
from fastws.settings_checks import parse_feed

RECORD_FLAGS: Final = (
    "feed",
    "symbols_file",
    "replay_speed",
    "replay_loop",
    "replay_max_gap",
    "simulator_rate",
    "simulator_seed",
    "log_level",
    "log_format",
)
RECORD_EXAMPLES: Final = """\
examples:
  fastws record --feed sim --output sim.txt --duration 60
      a minute of made-up prices, for `fastws serve --feed replay:sim.txt`
"""

_log = structlog.get_logger("fastws.cli")


def fill_record(recording: argparse.ArgumentParser) -> None:
    recording.epilog = RECORD_EXAMPLES
    add_config(recording)
    add_settings(recording, RECORD_FLAGS)
    recording.add_argument(
        "--output", metavar="FILE", required=True, help="file to write; appended to when it exists"
    )
    recording.add_argument(
        "--duration",
        metavar="SECONDS",
        type=some_duration,
        help="stop after so long (default: when the feed ends, or at Ctrl-C)",
    )
    recording.set_defaults(run=_record)


def _record(options: argparse.Namespace) -> int:
    settings = begin(options)
    instruments = load_instruments(settings)
    everything = {instrument.code: Interest(0, 1) for instrument in instruments}
    feed = make_feed(settings, instruments, lambda: everything)
    if feed is None:
        raise SettingsError(
            f"feed: {parse_feed(settings.feed).kind} delivers nothing to record; name one, as --feed sim",
            setting="feed",
            source=settings.sources.get("feed", "default"),
        )

    _check_output(settings, options.output)
    recorder = Recorder(options.output, instruments)

    async def run() -> None:
        recording = asyncio.ensure_future(record(feed, recorder, duration=options.duration))
        # The usual end of a recording without a duration; the file is complete then as well.
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signal_number, recording.cancel)
        _log.info("recording", feed=settings.feed, file=options.output)
        await asyncio.wait((recording,))
        if not recording.cancelled():
            recording.result()
        event = "recording was ended" if recording.cancelled() else "recording has ended"
        _log.info(event, file=options.output, updates=recorder.n_updates)

    with recorder:
        uvloop.run(run())
    return 0


def _check_output(settings: Settings, output: str) -> None:
    source = parse_feed(settings.feed).path
    if source is not None and os.path.exists(output) and os.path.samefile(source, output):
        raise SettingsError(
            f"output: {output} is the file that is replayed, and would grow while it is read; name another one",
            setting="output",
            source="--output",
        )
