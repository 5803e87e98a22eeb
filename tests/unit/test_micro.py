"""What becomes of the micro-benchmarks' times: the file, the verdict and the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import micro, micro_results, micro_table, micro_verdict
from benchmarks.calibration import YARDSTICKS, calibrate
from benchmarks.micro_results import Document, ResultsError

MACHINE = {"processor": "A processor", "cores": 2, "python": "CPython 3.11.7", "packages": {"numpy": "2.0"}}
PACE = {"python": 130e-6, "native": 17e-6, "memory": 300e-6, "kernel": 27e-6}


def row(name: str, seconds: float, *, pace: float = 1.0, test: str = "frames", **info: Any) -> dict[str, Any]:
    """A benchmark as pytest-benchmark writes it."""
    extra = {
        "what": f"What {name} does",
        "unit": "messages/s",
        "items": 1000,
        "yardstick": "native",
        "yardsticks": {key: value * pace for key, value in PACE.items()},
        "messages_per_s": 1.0,
        "ns_per_message": 1.0,
    } | info
    return {
        "fullname": f"benchmarks/test_bench_{test}.py::test_{name}",
        "extra_info": {key: value for key, value in extra.items() if value is not None},
        "stats": {"min": seconds, "median": seconds * 1.1, "stddev": seconds / 100, "rounds": 20},
    }


def document(*passes: list[dict[str, Any]]) -> Document:
    return micro_results.merge([{"benchmarks": rows} for rows in passes], MACHINE)


def steady(seconds: float = 1e-3, *, pace: float = 1.0, **times: float) -> Document:
    """Two passes, 1 % apart, of some benchmarks that take `seconds`, but for those in `times`."""
    names = {f"test{i}": seconds for i in range(8)} | times
    return document(
        *(
            [row(name, value * pace * factor, pace=pace * factor) for name, value in names.items()]
            for factor in (1.0, 1.01)
        )
    )


def judgements(base: Document, now: Document) -> dict[str, str]:
    return {verdict.name: verdict.judgement for verdict in micro_verdict.compare(base, now).verdicts}


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        ("kis", ["kis.books", "kis.trades[20]"]),
        ("kis*", ["kis.books", "kis.trades[20]", "kis_records.trades[20]"]),
        ("kis.trades", ["kis.trades[20]"]),
        ("kis.trades[20]", ["kis.trades[20]"]),
        ("kis.trades[2]", []),
        ("*.trades", ["kis.trades[20]", "kis_records.trades[20]"]),
        ("kis.b", []),
    ],
)
def test_what_a_name_on_the_command_line_means(pattern: str, meant: list[str]) -> None:
    names = ["kis.books", "kis.trades[20]", "kis_records.trades[20]"]
    assert [name for name in names if micro.is_meant(name, pattern)] == meant


class TestResults:
    def test_the_shortest_time_of_all_passes_counts(self) -> None:
        found = document([row("parse", 3e-3, pace=1.2)], [row("parse", 2e-3, pace=1.1)], [row("parse", 4e-3)])
        benchmark = found.benchmarks["frames.parse"]
        assert benchmark.min_ns == 2e6
        assert benchmark.median_ns == 3.3e6
        assert benchmark.passes_ns == [3e6, 2e6, 4e6]
        assert benchmark.yardstick_ns == 17_000
        assert benchmark.rounds == 60
        assert (benchmark.per_second, benchmark.ns_per_item) == (500_000, 2000)
        assert found.calibration["native"] == [20_400, 18_700, 17_000]
        assert found.noise == pytest.approx(0.1)
        assert benchmark.extra == {}

    def test_a_pass_calibrates_by_its_shortest_yardstick(self) -> None:
        found = document([row("a", 1e-3, pace=1.3), row("b", 1e-3, pace=1.1), row("c", 1e-3, pace=1.2)])
        assert found.calibration["python"] == [143_000]
        assert found.benchmarks["frames.a"].yardstick_ns == 22_100

    def test_what_was_measured_once_and_other_figures_are_kept(self) -> None:
        once = row("burst", 0.3, yardstick=None, yardsticks=None, longest_pause_ms=7.3)
        found = document([row("parse", 1e-3), once], [row("parse", 1e-3)])
        assert found.benchmarks["frames.burst"].passes_ns == [3e8]
        assert found.benchmarks["frames.burst"].yardstick == ""
        assert found.benchmarks["frames.burst"].extra == {"longest_pause_ms": 7.3}

    @pytest.mark.parametrize(
        ("fullname", "name"),
        [
            ("benchmarks/test_bench_frames.py::test_parse_small", "frames.parse_small"),
            ("benchmarks/test_bench_masking.py::test_mask[64 KiB]", "masking.mask[64 KiB]"),
            ("benchmarks/test_bench_hub.py::test_market[1-all]", "hub.market[1-all]"),
        ],
    )
    def test_names(self, fullname: str, name: str) -> None:
        assert micro_results.name_of(fullname) == name
        assert micro.suite_of(name) == fullname.partition("::")[0]

    def test_a_file_is_read_as_it_was_written(self, tmp_path: Path) -> None:
        found = document(
            [
                row("parse", 1.23456789e-3, bytes=70, at_least=1000.0, percent_saved=86.8),
                row("parse_peer", 1e-3, against="frames.parse"),
            ]
        )
        path = tmp_path / "micro.json"
        micro_results.write(found, path)
        assert micro_results.read(path) == found
        assert json.loads(path.read_text())["benchmarks"]["frames.parse"]["min_ns"] == 1_234_600
        # A change of one benchmark is a change of one line.
        assert sum("frames.parse" in line for line in path.read_text().splitlines()) == 2

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("", "no results"),
            ("[]", "no results"),
            ('{"format": 1}', "no results"),
            ('{"format": 99, "rows": []}', "format 99"),
        ],
    )
    def test_another_file_is_told(self, tmp_path: Path, text: str, reason: str) -> None:
        path = tmp_path / "other.json"
        path.write_text(text)
        with pytest.raises(ResultsError, match=reason):
            micro_results.read(path)

    def test_a_missing_file_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(ResultsError, match="make bench writes one"):
            micro_results.read(tmp_path / "micro.json")

    def test_targets(self) -> None:
        found = document(
            [
                row("fast", 1e-3, at_least=1_000_000.0),
                row("slow", 2e-3, at_least=1_000_000.0),
                row("peer", 5e-3, against="frames.fast", at_least=3.0),
                row("good_peer", 5e-3, against="frames.slow", at_least=3.0),
                row("peer_of_none", 1e-3, against="frames.gone", at_least=3.0),
                row("share", 1e-3, missed="0.1 of a core, not under 0.05"),
            ]
        )
        assert found.missed() == [
            "frames.slow: 500,000 messages/s, not 1,000,000",
            "frames.slow: 2.5 times What good_peer does, not 3",
            "frames.share: 0.1 of a core, not under 0.05",
        ]


class TestVerdict:
    def test_the_same_again_is_ok(self) -> None:
        assert set(judgements(steady(), steady()).values()) == {"ok"}

    @pytest.mark.parametrize("pace", [0.4, 0.8, 1.3, 3.0])
    def test_a_slower_machine_shifts_the_yardstick_and_not_the_verdict(self, pace: float) -> None:
        assert set(judgements(steady(), steady(pace=pace)).values()) == {"ok"}
        found = judgements(steady(), steady(pace=pace, test3=1.25e-3))
        assert [name for name, judgement in found.items() if judgement != "ok"] == ["frames.test3"]

    def test_what_takes_longer_is_named(self) -> None:
        comparison = micro_verdict.compare(steady(), steady(test3=1.2e-3, test5=0.8e-3))
        assert [
            (verdict.name, verdict.judgement) for verdict in comparison.verdicts if verdict.judgement != "ok"
        ] == [
            ("frames.test3", "slower"),
            ("frames.test5", "faster"),
        ]
        (verdict,) = comparison.slower
        assert verdict.ratio == pytest.approx(1.2, rel=1e-3)

    def test_everything_slower_is_no_noise(self) -> None:
        """A change that makes all of it slower does not pass for a slow machine: the yardsticks keep their pace."""
        assert set(judgements(steady(), steady(1.3e-3)).values()) == {"slower"}

    @pytest.mark.parametrize(("seconds", "judgement"), [(1.11e-3, "ok"), (1.14e-3, "slower")])
    def test_little_is_never_a_regression(self, seconds: float, judgement: str) -> None:
        assert judgements(steady(), steady(test3=seconds))["frames.test3"] == judgement

    def test_passes_that_differ_hide_nothing(self) -> None:
        base = document([row("parse", 1.0e-3)], [row("parse", 1.4e-3)])
        assert judgements(base, document([row("parse", 1.4e-3)], [row("parse", 1.25e-3)])) == {
            "frames.parse": "slower"
        }
        assert judgements(base, document([row("parse", 1.4e-3)], [row("parse", 1.05e-3)])) == {
            "frames.parse": "ok"
        }

    def test_a_machine_that_changes_its_pace_is_noise(self) -> None:
        base = steady()
        calm = document(*[[row("test0", 1.2e-3)] for _ in range(3)])
        restless = document(*[[row("test0", 1.2e-3, pace=pace)] for pace in (1.0, 1.25, 1.3)])
        assert judgements(base, calm)["frames.test0"] == "slower"
        assert judgements(base, restless)["frames.test0"] == "ok"
        assert micro_verdict.compare(base, restless).noise == pytest.approx(0.25)

    def test_yardsticks_that_do_not_agree_are_noise(self) -> None:
        base = document([row("test0", 1e-3)])
        yardsticks = PACE | {"memory": PACE["memory"] * 1.25}
        now = document([row("test0", 1.2e-3, yardsticks=yardsticks)])
        comparison = micro_verdict.compare(base, now)
        assert comparison.noise == pytest.approx(0.25)
        assert comparison.slower == []

    def test_peers_that_are_not_where_they_were_are_noise(self) -> None:
        def of(peers: float, ours: float) -> Document:
            rows = [row(f"peer{i}", peers, against="frames.ours") for i in range(4)]
            return document([*rows, row("ours", ours)])

        assert judgements(of(1e-3, 1e-3), of(1.01e-3, 1.2e-3))["frames.ours"] == "slower"
        comparison = micro_verdict.compare(of(1e-3, 1e-3), of(1.22e-3, 1.2e-3))
        assert comparison.slower == []
        assert comparison.noise == pytest.approx(0.22)
        # One of them alone may have come with another version.
        rows = [row(f"peer{i}", 1e-3 if i else 2e-3, against="frames.ours") for i in range(4)]
        one = document([*rows, row("ours", 1.2e-3)])
        assert judgements(of(1e-3, 1e-3), one)["frames.ours"] == "slower"

    def test_what_only_one_has_and_what_is_no_matter_of_ours_is_not_judged(self) -> None:
        burst = {"yardstick": None, "yardsticks": None}
        base = document(
            [row("old", 1e-3), row("peer", 1e-3, against="frames.old"), row("burst", 1.0, **burst)]
        )
        now = document(
            [row("new", 1e-3), row("peer", 1e-3, against="frames.old"), row("burst", 9.0, **burst)]
        )
        assert judgements(base, now) == {
            "frames.old": "gone",
            "frames.new": "new",
            "frames.peer": "peer",
            "frames.burst": "told",
        }

    def test_measured_again_the_best_counts(self) -> None:
        now = steady(test3=1.4e-3)
        again = document([row("test3", 1.02e-3)], [row("test3", 1.3e-3)])
        joined = micro_results.joined(now, again)
        assert judgements(steady(), now)["frames.test3"] == "slower"
        assert judgements(steady(), joined)["frames.test3"] == "ok"
        assert len(joined.benchmarks["frames.test3"].passes_ns) == 4
        still = micro_results.joined(now, document([row("test3", 1.4e-3)], [row("test3", 1.42e-3)]))
        assert judgements(steady(), still)["frames.test3"] == "slower"

    def test_what_never_had_a_processor_to_itself_is_not_called_slower(self) -> None:
        shared, free = (row("test3", 1.5e-3, waiting=waiting) for waiting in (0.3, 0.01))
        assert judgements(steady(), document([shared], [shared]))["frames.test3"] == "shared"
        assert judgements(steady(), document([shared], [free]))["frames.test3"] == "slower"
        again = micro_results.joined(document([shared]), document([free]))
        assert judgements(steady(), again)["frames.test3"] == "slower"
        # What is as fast as it was needs no excuse.
        fast = document([row("test3", 1e-3, waiting=0.3)])
        assert judgements(steady(), fast)["frames.test3"] == "ok"

    @pytest.mark.parametrize(
        ("seconds", "judgement"), [(2.9e-3, "shared"), (3.1e-3, "slower"), (1e-2, "slower")]
    )
    def test_waiting_for_half_of_the_time_does_not_excuse_everything(
        self, seconds: float, judgement: str
    ) -> None:
        now = document([row("test3", seconds, waiting=0.5)])
        assert judgements(steady(), now)["frames.test3"] == judgement


class TestConclusion:
    def conclude(self, base: Document, now: Document) -> int:
        return micro.conclude(micro_verdict.compare(base, now), Path("micro.json"))

    def test_nothing_slower(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.conclude(steady(), steady()) == 0
        assert "nothing is slower" in capsys.readouterr().out

    def test_something_slower(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.conclude(steady(), steady(test3=1.3e-3)) == 1
        assert capsys.readouterr().out == "SLOWER: frames.test3 takes 30% longer\n"

    def test_too_much_noise(self, capsys: pytest.CaptureFixture[str]) -> None:
        wild = document(*[[row("test0", 3e-3, pace=pace)] for pace in (1.0, 1.7, 1.8)])
        assert self.conclude(steady(), wild) == 2
        assert "NOT JUDGED: noise" in capsys.readouterr().out

    def test_a_processor_that_others_had(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.conclude(steady(), document([row("test0", 2e-3, waiting=0.4)])) == 2
        assert capsys.readouterr().out.startswith("NOT JUDGED: frames.test0: others had the processors")

    def test_nothing_in_common(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.conclude(steady(), document([row("other", 1e-3)])) == 2
        assert "none of these" in capsys.readouterr().out


class TestTables:
    def test_the_page(self) -> None:
        found = document(
            [
                row("parse", 84.1e-6, bytes=70_000, at_least=1_000_000.0, percent_saved=86.8),
                row("parse[1]", 2e-3, at_least=600_000.0),
                row("parse[2]", 4e-3, at_least=600_000.0),
                row("peer[1-orjson]", 300e-6, against="frames.parse", what="orjson and msgspec, from a dict"),
                row(
                    "peer[1-msgspec]", 400e-6, against="frames.parse", what="orjson and msgspec, from a dict"
                ),
            ]
        )
        text = micro_table.page(found)
        assert "\n### frames\n" in text
        assert "\nFrames of RFC 6455: " in text
        assert "`python -m benchmarks.micro run -k frames`" in text
        assert (
            "| **parse**: What parse does | 11.9 M messages | 84.1 ns | 832 | "
            "3.6 x orjson; 4.8 x msgspec; percent saved: 86.8 |" in text
        )
        assert "| frames.parse, messages/s | 1,000,000 | 11,890,606 | met |" in text
        assert "| frames.parse[2], messages/s | 600,000 | 250,000 | **missed** |" in text
        assert "frames.parse[1], " not in text

    def test_the_rest_of_a_page_stays(self, tmp_path: Path) -> None:
        path = tmp_path / "README.md"
        micro_table.put(path, "first")
        first = path.read_text()
        assert first.startswith("# Measured\n\n" + micro_table.BEGIN + "\nfirst\n")
        path.write_text("before\n\n" + first + "\nafter\n")
        micro_table.put(path, "second")
        assert path.read_text() == "before\n\n" + first.replace("first", "second") + "\nafter\n"
        micro_table.put(path, "second")
        assert path.read_text() == "before\n\n" + first.replace("first", "second") + "\nafter\n"
        path.write_text("others' words\n")
        micro_table.put(path, "third")
        assert path.read_text().startswith("others' words\n\n" + micro_table.BEGIN + "\nthird\n")

    def test_a_comparison(self) -> None:
        comparison = micro_verdict.compare(steady(), steady(pace=1.5, test3=1.3e-3))
        lines = micro_table.verdicts(comparison)
        assert "frames.test3  1 µs  1.95 µs   1.30  SLOWER (noise 12%)" in lines
        assert "frames.test0  1 µs   1.5 µs   1.00  ok" in lines
        assert "python 1.50, native 1.50, memory 1.50, kernel 1.50" in lines[-2]
        assert lines[-1].endswith("both runs: 0.5%")

    def test_other_machines_and_versions_are_told(self) -> None:
        base, now = steady(), steady()
        assert micro_table.differences(base, now) == []
        base.machine |= {"processor": "Another", "packages": {"numpy": "1.0"}}
        assert micro_table.differences(base, now) == [
            "differs: processor: Another, now A processor",
            "differs: packages: numpy 1.0, now numpy 2.0",
        ]

    @pytest.mark.parametrize(
        ("ns", "text"),
        [
            (0.5, "0.5 ns"),
            (84.14, "84.1 ns"),
            (999.4, "999 ns"),
            (999.6, "1 µs"),
            (3.54e8, "354 ms"),
            (2e9, "2 s"),
        ],
    )
    def test_durations(self, ns: float, text: str) -> None:
        assert micro_table.duration(ns) == text

    @pytest.mark.parametrize(("n", "text"), [(940, "940"), (12_345, "12.3 k"), (3_640_000, "3.64 M")])
    def test_counts(self, n: float, text: str) -> None:
        assert micro_table.count(n) == text


def test_every_yardstick_is_measured() -> None:
    found = calibrate()
    assert list(found) == list(YARDSTICKS)
    assert all(0 < seconds < 1 for seconds in found.values())
