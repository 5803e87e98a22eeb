"""Whether one run of the micro-benchmarks is slower than another, beyond noise. Sans-IO.

1. What is compared is the shortest time of each benchmark, divided by the shortest time of its yardstick, measured
   right beside it: a machine that is slower, or has a neighbour, slows both down.
2. What cannot be told from noise is no regression. Noise is how far the yardsticks' times of the passes lie apart, how
   far they do not agree on the machine's pace, and how far the peers, which no change of ours touches, are from where
   they were. Both runs count.
3. That the passes of one benchmark differ is no excuse for it: its best time is one that can be reached, and what
   seems slower is measured more often until it has had its chance.
4. What had to share its processor in every pass is called slower only where the waiting cannot have made it so: waiting
   for half of the time doubles a time, and makes no tenfold of it. Otherwise it is not judged.
5. A peer, and what has no yardstick, is never judged.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from benchmarks.micro_results import Benchmark, Document

FLOOR: Final = 0.12
"""What is below this is never called a regression: where code and data come to lie in memory makes that much."""
MAX_NOISE: Final = 0.5
"""With more than this nothing can be judged."""
MAX_WAITING: Final = 0.05
"""Which share of its time a benchmark may have waited for a processor."""

Judgement = Literal["ok", "slower", "faster", "shared", "new", "gone", "peer", "told"]


class Verdict(NamedTuple):
    """Of one benchmark. `ratio` is now to base, corrected by the yardsticks: 1.25 takes a quarter longer."""

    name: str
    judgement: Judgement
    base: Benchmark | None
    now: Benchmark | None
    ratio: float | None = None
    tolerance: float = 0.0


class Comparison(NamedTuple):
    """`noise` is that of the machine, over both runs, and `pace` how much longer the yardsticks take now."""

    verdicts: list[Verdict]
    noise: float
    pace: dict[str, float]

    @property
    def slower(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if verdict.judgement == "slower"]

    @property
    def shared(self) -> list[Verdict]:
        """What seems slower, and had its processor never to itself."""
        return [verdict for verdict in self.verdicts if verdict.judgement == "shared"]

    @property
    def is_possible(self) -> bool:
        return self.noise <= MAX_NOISE


def compare(base: Document, now: Document) -> Comparison:
    """Judge `now` by `base`."""
    pace = {
        name: min(times) / min(base.calibration[name])
        for name, times in now.calibration.items()
        if times and base.calibration.get(name)
    }
    disagreement = max(pace.values()) / min(pace.values()) - 1 if pace else 0.0
    noise = max(base.noise, now.noise, disagreement, _peers_noise(base, now))
    verdicts = [
        _judge(name, base.benchmarks.get(name), now.benchmarks.get(name), noise)
        for name in (base.benchmarks | now.benchmarks)
    ]
    return Comparison(verdicts, noise, pace)


def corrected(base: Benchmark, now: Benchmark) -> float:
    """How much longer an item takes now, by the yardstick; 1.0 is the same."""
    return (now.ns_per_item / now.yardstick_ns) / (base.ns_per_item / base.yardstick_ns)


def _judge(name: str, base: Benchmark | None, now: Benchmark | None, noise: float) -> Verdict:
    if base is None or now is None:
        return Verdict(name, "gone" if now is None else "new", base, now)
    if not (now.yardstick and base.yardstick == now.yardstick):
        return Verdict(name, "told", base, now)
    ratio = corrected(base, now)
    if now.against:
        return Verdict(name, "peer", base, now, ratio)
    tolerance = max(FLOOR, noise)
    judgement: Judgement = "ok"
    if ratio > 1 + tolerance:
        has_waited = now.waiting > MAX_WAITING and ratio * (1 - now.waiting) <= 1 + MAX_NOISE
        judgement = "shared" if has_waited else "slower"
    elif ratio < 1 / (1 + tolerance):
        judgement = "faster"
    return Verdict(name, judgement, base, now, ratio, tolerance)


def _peers_noise(base: Document, now: Document) -> float:
    """How far from 1 the corrected ratio of nine peers in ten is at most.

    Not of all: one of them may have come with another version.
    """
    distances = sorted(
        abs(corrected(peer, now.benchmarks[name]) - 1)
        for name, peer in base.benchmarks.items()
        if _is_peer(peer) and name in now.benchmarks and _is_peer(now.benchmarks[name])
    )
    return distances[(len(distances) - 1) * 9 // 10] if distances else 0.0


def _is_peer(benchmark: Benchmark) -> bool:
    return bool(benchmark.against and benchmark.yardstick)
