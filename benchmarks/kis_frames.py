"""KIS trade frames for benchmarks, made from a captured one."""

from __future__ import annotations

from importlib.resources import files

CAPTURED = (files("fastws.data") / "kis_frames.txt").read_bytes().splitlines()
TRADE = next(line for line in CAPTURED if line.startswith(b"0|H0STCNT0|001|"))
BOOK = next(line for line in CAPTURED if line.startswith(b"0|H0STASP0|001|005930"))


def trade_frames(n_frames: int, n_records: int) -> list[bytes]:
    """Frames that differ in codes, numbers and lengths, so that the processor learns no frame by heart."""
    values = TRADE.decode().split("|", 3)[3].split("^")
    frames = []
    for n in range(n_frames):
        records = []
        for k in range(n * n_records, (n + 1) * n_records):
            record = list(values)
            record[0] = f"{k * 7919 % 4000:06}"
            for at in (2, 7, 8, 9, 10, 11, 13, 14, 19, 20, 36, 37, 38, 39):
                record[at] = str((k * 2_654_435_761 + at * 40_503) % 10 ** (1 + (k * 31 + at * 17) % 9))
            records.append("^".join(record))
        frames.append(f"0|H0STCNT0|{n_records:03}|{'^'.join(records)}".encode())
    return frames
