"""Seconds of phases, over the starts of a run."""

import json
from pathlib import Path

import pytest

from base.errors import UserError
from kd.run import taken as module
from kd.run.preview import taken_rows
from kd.run.taken import Taken


class Clock:
    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_phases_are_added_up_over_starts(tmp_path: Path, clock: Clock) -> None:
    """Also what an interruption ended; a call that is counted returns what it does."""
    path = tmp_path / "checkpoint" / "seconds.json"

    def interrupted(seconds: float) -> None:
        clock.now += seconds
        raise KeyboardInterrupt

    for seconds in (3.0, 4.0):
        taken = Taken(path, {"seed": "0"})
        with pytest.raises(KeyboardInterrupt):
            taken.counted("w", interrupted)(seconds)

    def wait(seconds: float) -> str:
        clock.now += seconds
        return "waited"

    assert taken.counted("alpha", wait)(2.0) == "waited"
    assert Taken(path, {"seed": "0"}).seconds == taken.seconds == {"w": 7.0, "alpha": 2.0}


def test_seconds_of_something_else_do_not_count(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "seconds.json"
    with Taken(path, {"seed": "0"}).count("search"):
        clock.now += 5
    assert Taken(path, {"seed": "1"}).seconds == {}
    with (other := Taken(path, {"seed": "1"})).count("search"):
        clock.now += 1
    assert Taken(path, {"seed": "1"}).seconds == other.seconds == {"search": 1.0}


@pytest.mark.parametrize("damage", [{"seconds": [1]}, {}, {"seconds": {"w": "long"}}])
def test_a_damaged_file_is_one_line(tmp_path: Path, damage: dict) -> None:
    path = tmp_path / "seconds.json"
    path.write_text(json.dumps({"identity": {}, **damage}))
    with pytest.raises(UserError, match=r"seconds\.json: damaged"):
        Taken(path, {})


def test_a_truncated_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "seconds.json"
    path.write_text('{"identity": {}, "sec')
    with pytest.raises(UserError, match=r"seconds\.json: damaged .*remove it and go on"):
        Taken(path, {})


def test_a_teacher_that_runs_online_is_predicted_in_w() -> None:
    rows = dict(taken_rows({"w": 500.0}, {"w": 100.0, "teacher online": 380.0}))
    assert rows == {"time: w": "500 s, 480 s predicted", "time: all": "500 s, 480 s predicted"}


def test_what_was_taken_stands_beside_what_was_predicted() -> None:
    taken = {"teacher": 130.0, "w": 61.0}
    predicted = {"teacher": 118.0, "w": 70.0}
    assert taken_rows(taken, predicted) == [
        ("time: teacher", "130 s, 118 s predicted"),
        ("time: w", "61 s, 70 s predicted"),
        ("time: all", "191 s, 188 s predicted"),
    ]
