from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from fastws.kis.testing import FakeKIS, FakeSettings, ScriptError, actions, load, parse
from fastws.kis.testing.actions import ACTIONS, Action, describe, read_action
from fastws.kis.testing.faults import Faults

TOML = """\
# what happens when
[settings]
cap = 40
pingpong_interval = 5

[[step]]
at = 10.0
do = "drop"

[[step]]
session = 2
request = 3
do = "answer"
code = "OPSP8996"
times = 2
"""
LINES = """\
# the same
{"settings": {"cap": 40, "pingpong_interval": 5}}

{"at": 10.0, "do": "drop"}
{"session": 2, "request": 3, "do": "answer", "code": "OPSP8996", "times": 2}
"""


@pytest.mark.parametrize("text", [TOML, LINES])
def test_both_forms_say_the_same(text: str, tmp_path: Path) -> None:
    path = tmp_path / ("s.toml" if text is TOML else "s.jsonl")
    path.write_text(text)
    for script in (parse(text), load(path)):
        assert script.settings == {"cap": 40, "pingpong_interval": 5}
        first, second = script.steps
        assert (first.when.at, first.action) == (10.0, actions.Drop())
        assert (second.when.session, second.when.request) == (2, 3)
        assert second.action == actions.Answer(code="OPSP8996", times=2)
    server = FakeKIS(script=parse(text), cap=3)
    assert (server.settings.cap, server.settings.pingpong_interval) == (3, 5.0)


def test_the_script_of_the_help_works() -> None:
    text = (parse.__globals__["__doc__"]).split("In TOML::\n")[1].split("The same as")[0]
    assert [type(step.action) for step in parse(text).steps] == [actions.Drop, actions.Drop]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[[step]]\nat = 1\ndo = "dorp"', "s line 3: do: 'dorp' is no action; they are drop, "),
        ("[[step]]\nat = 1", "s line 1: do: None is no action"),
        ('[[step]]\nat = "soon"\ndo = "drop"', "s line 2: at: expected a number"),
        ('[[step]]\ndo = "drop"\n[[step]]\ndo = "drop"\nat = -1', "s line 5: at: expected a number >= 0"),
        ('[[step]]\n\ndo = "drop"\ntims = 3', "s line 4: object contains unknown field `tims`"),
        ('[[step]]\ndo = "answer"', "s line 1: code: is missing"),
        ("[settings]\nrate = 10\ncap = 0", "s line 3: cap: expected an integer >= 1"),
        ("[settings]\ncop = 3", "s line 2: object contains unknown field `cop`"),
        ("cap = 3", "s line 1: cap: unknown; a script has"),
        ("[[step]\n", "s: is not valid TOML: "),
        ("rate = " + "1" * 5000, "s: is not valid TOML: "),
        ("rate = " + "[" * 5000, "s: is not valid TOML: "),
        ('[[step]]\nafter = 1\ndo = "drop"', "s line 2: after: counts from the opening of a session"),
        ('[[step]]\nsession = 1\nevery = 1\ndo = "drop"', "s line 3: every: goes with at"),
        ('[[step]]\nsession = 1\nat = 1\ndo = "drop"', "s line 3: at: a step waits for a time or for"),
        ('[[step]]\nsession=1\nafter=1\nrequest=2\ndo="drop"', "s line 3: after, request, records: "),
        ('{"at": 1, "do": "drop"}\n{"at": 1, "do": "fly"}', "s line 2: do: 'fly' is no action"),
        ('{"at": 1, "do": "drop"}\n\n{"at": 1, }', "s line 3: is not JSON: "),
        ('{"settings": {"phase": "lunch"}}', "s line 1: phase: invalid value 'lunch'"),
        ('{"settings": 3}', "s line 1: settings: expected a table"),
        ('{"do": "rest", "of": "all", "status": 99}', "s line 1: status: expected an integer >= 200"),
    ],
)
def test_what_is_wrong_is_told_with_line_and_field(text: str, expected: str) -> None:
    with pytest.raises(ScriptError) as failure:
        parse(text, "s")
    assert str(failure.value).startswith(expected), str(failure.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ScriptError, match=r"no\.toml: cannot be read: No such file"):
        load(tmp_path / "no.toml")
    (tmp_path / "b.toml").write_bytes(b"\xff")
    with pytest.raises(ScriptError, match="it is not UTF-8"):
        load(tmp_path / "b.toml")


def test_every_action_is_described_and_can_be_read() -> None:
    text = describe()
    needed = {"code": "OPSP0007", "seconds": 1.0, "message": "m", "kind": "text", "tr_key": "005930",
              "phase": "closed", "file": "f", "settings": {}}  # fmt: skip
    for name, kind in ACTIONS.items():
        first = (kind.__doc__ or "").replace("``", "").split()[:5]
        assert f"\n  {name}\n      {' '.join(first)}" in f"\n{text}"
        required = [field.name for field in msgspec.structs.fields(kind) if field.required]
        made = read_action({"do": name} | {field: needed[field] for field in required})
        assert isinstance(made, kind)


def test_settings_are_checked_wherever_they_come_from() -> None:
    with pytest.raises(ScriptError, match="cap: expected an integer >= 1"):
        FakeKIS(cap=0)
    with pytest.raises(ScriptError, match="unknown field `nap`"):
        FakeKIS(nap=0)
    assert FakeKIS(FakeSettings(cap=7), rate=9.0).settings == FakeSettings(cap=7, rate=9.0)
    with pytest.raises(ScriptError, match=r"widths\[...\]: expected an integer"):
        FakeKIS().do("set", settings={"widths": {"H0STCNT0": "wide"}})


def test_faults_stand_once_or_as_often_or_as_long_as_they_say() -> None:
    faults = Faults()

    def taken(n: int, now: float) -> list[bool]:
        return [faults.take(actions.RefuseUpgrade, now) is not None for _ in range(n)]

    def add(action: Action) -> None:
        assert isinstance(action, actions.Fault)
        faults.add(action, 0.0)

    add(actions.RefuseUpgrade())
    assert taken(2, 0.0) == [True, False]
    add(actions.RefuseUpgrade(times=2))
    assert taken(3, 0.0) == [True, True, False]
    add(actions.RefuseUpgrade(seconds=5.0))
    assert taken(3, 4.9) == [True] * 3
    assert taken(1, 5.0) == [False]
    faults.clear()
    add(actions.RefuseUpgrade(seconds=5.0, times=1))
    assert taken(2, 1.0) == [True, False]
    add(actions.RefuseUpgrade(times=9))
    assert len(faults.standing(0.0)) == 1
    assert faults.clear() == 1
    assert taken(1, 0.0) == [False]


def test_a_fault_meets_whom_it_names() -> None:
    faults = Faults()
    faults.add(actions.Rest(of="token", app_key="a"), 0.0)
    assert faults.take(actions.Rest, 0.0, "b") is None
    assert faults.take(actions.Rest, 0.0, "a", lambda fault: fault.of == "approval") is None
    assert faults.take(actions.Rest, 0.0, "a", lambda fault: fault.of == "token") is not None
