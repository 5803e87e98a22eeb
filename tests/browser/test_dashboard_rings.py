"""What the dashboard keeps of prices over time: bounded, in order, and with holes where nothing was known."""

from __future__ import annotations

import json
import math
import random
import subprocess
from typing import Any

from tests.serving import ROOT, require_program

RINGS = ROOT / "fastws" / "web" / "static" / "dashboard" / "rings.js"
PRELUDE = f"""
import {{ BarRing, Course, TickRing }} from {json.dumps(RINGS.as_uri())};
const given = JSON.parse(process.argv[1] ?? "null");
"""


def run(script: str, given: Any = None) -> Any:
    """What a script of Node prints as JSON, with the rings at hand and `given`."""
    command = [require_program("node"), "--input-type=module", "-e", PRELUDE + script, json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_bucket_has_its_last_value_and_a_cut_is_a_hole() -> None:
    found = run("""
      const ring = new TickRing(5, 200);
      const out = [];
      const read = (from) => { const s = [], v = []; ring.read(from, s, v); out.push([s, v]); };
      ring.cut();
      ring.push(1000, 1); ring.push(1100, 2); ring.push(1300, 3); read(0);
      ring.push(1200, 9); read(0);
      ring.cut(); ring.cut(); read(0);
      ring.push(1350, 4); read(0);
      ring.push(2000, 5); ring.push(3000, 6); read(0);
      read(2500); read(9000);
      console.log(JSON.stringify(out));
    """)
    first = [[1.1, 1.3], [2, 3]]
    assert found == [
        first,
        first,  # what is older than the last is left out
        [[1.1, 1.3, 1.3], [2, 3, None]],
        [[1.1, 1.3, 1.3, 1.35], [2, 3, None, 4]],
        [[1.3, 1.3, 1.35, 2, 3], [3, None, 4, 5, 6]],  # the oldest is gone
        [[2, 3], [5, 6]],  # and the one before, from which the line comes
        [[3], [6]],
    ]


def test_candles_are_those_of_the_prices() -> None:
    rng = random.Random(5)
    at, prices = 0, []
    for _ in range(400):
        at += rng.randrange(1, 30_000)
        prices.append((at, rng.randrange(90, 110)))
    found = run(
        """
      const ring = new BarRing(20, 60_000);
      for (const [ms, value] of given) ring.push(ms, value);
      const columns = [[], [], [], [], []];
      ring.read(columns);
      console.log(JSON.stringify(columns));
    """,
        prices,
    )
    minutes: dict[int, list[int]] = {}
    for ms, value in prices:
        minutes.setdefault(ms // 60_000 * 60, []).append(value)
    wanted = [[second, of[0], max(of), min(of), of[-1]] for second, of in minutes.items()][-20:]
    assert [list(bar) for bar in zip(*found, strict=True)] == wanted


def test_a_course_begins_where_it_began_and_never_has_more_points() -> None:
    for n in (1, 7, 8, 9, 1000):
        found = run(
            """
          const course = new Course(8, 500);
          for (let i = 0; i < given; i += 1) { course.push(500 * i, -1); course.push(500 * i + 100, i); }
          console.log(JSON.stringify(Array.from({ length: course.size }, (_, i) => course.at(i))));
        """,
            n,
        )
        assert len(found) <= 8
        assert found[-1] == n - 1
        assert found == sorted(found)
        if n >= 8:
            assert len(found) >= 4
            # A point stands for a stretch that doubles, and has what was last in it.
            assert found[0] <= 2 ** math.ceil(math.log2(n / 4))
