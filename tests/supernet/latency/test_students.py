"""Whole students, timed as they ship, beside networks that the table knows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor, nn

from base.errors import UserError
from export.onnx_file import write_onnx
from export.timing import stopwatch
from export.timing.stopwatch import Patience, Round, Timing
from supernet.latency import students as measure
from supernet.latency.runners import file_runner
from supernet.latency.students import (
    measure_architectures,
    measure_beside,
    measure_shipped,
    measure_students,
    module_runners,
)
from supernet.latency_table import LatencyTable
from supernet.space import Architecture, SearchSpace
from supernet.student import Student
from tests.tiny import PATIENCE, refuse


def known(table: LatencyTable) -> dict[str, float]:
    """Milliseconds of the networks that are timed beside the students."""
    return {f"anchor/{i}": a["ms"] for i, a in enumerate(table.provenance["anchors"])}


@pytest.mark.parametrize("power", [1.0, 1.3], ids=["all alike", "large ones more"])
def test_students_are_brought_to_the_speed_of_the_tables_day(
    measured: LatencyTable, monkeypatch: pytest.MonkeyPatch, power: float
) -> None:
    """The machine becomes slower and slower; students take as long as the known networks do."""
    anchors = known(measured)

    def slowing(runners: dict, *_: object, **__: object) -> Iterator[Round]:
        assert set(runners) == anchors.keys() | students.keys()
        for slower in (1.0, 1.5, 2.5, 4.0):
            day_ms = {**anchors, **students}
            seconds = {n: 1e-3 * slower * ms**power for n, ms in day_ms.items()}
            yield Round(seconds, 3e-4 * slower, 10.0)

    fastest, *_, slowest = sorted(anchors.values())
    students = {"like the slowest": slowest, "between": (fastest * slowest) ** 0.5}
    monkeypatch.setattr(stopwatch, "rounds", slowing)
    runners, predicted_ms = dict.fromkeys(students, refuse), list(anchors.values())
    timings = measure_students(runners, predicted_ms, measured, PATIENCE, 0)
    assert {name: timing.ms for name, timing in timings.items()} == pytest.approx(students)
    assert max(timing.spread for timing in timings.values()) == pytest.approx(0, abs=1e-12)


def test_measuring_goes_on_until_patience_is_over(
    measured: LatencyTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts is the student's spread, not that of the steady networks beside it."""
    drawn, anchors = [], known(measured)

    def scattered(runners: dict, *_: object, **__: object) -> Iterator[Round]:
        for i in range(100):
            drawn.append(i)
            seconds = {name: 1e-3 * anchors.get(name, 1.0 + i) for name in runners}
            yield Round(seconds, 1.0, 1.0)

    monkeypatch.setattr(stopwatch, "rounds", scattered)
    patience = Patience(0.1, 12.0, least_rounds=4)
    measure_students({"a": refuse}, list(anchors.values()), measured, patience, 0)
    assert len(drawn) == 12


@pytest.mark.parametrize(
    "damage", [None, [], "fast", [{"ms": 1.0}], [{"architecture": {}, "ms": 1}]]
)
def test_a_table_without_known_networks_cannot_be_compared_with(
    measured: LatencyTable, damage: object
) -> None:
    table = replace(measured, provenance={**measured.provenance, "anchors": damage})
    with pytest.raises(UserError):
        measure_students({"a": refuse}, [1.0], table, PATIENCE, 0)


@pytest.mark.parametrize(
    ("predicted_ms", "expected"),
    [
        ([9.0], [1, 2, 3, 4, 5, 6]),
        ([2.0**4.6], [2, 3, 4, 5, 6, 7]),
        ([0.1], [0, 1, 2, 3, 4, 5]),
        ([1e9], [4, 5, 6, 7, 8, 9]),
        ([2.0**4.6, 2.0**5.6], [2, 3, 4, 5, 6, 7, 8]),
        ([0.1, 1e9], range(10)),
    ],
)
def test_only_the_anchors_nearest_to_the_students_are_timed(
    measured: LatencyTable,
    every_architecture: list[Architecture],
    monkeypatch: pytest.MonkeyPatch,
    predicted_ms: list[float],
    expected: Sequence[int],
) -> None:
    """Of anchors of 1, 2, 4 … ms, the six nearest in ratio to each."""
    drawn = every_architecture[1 :: len(every_architecture) // 10][:10]
    ms = {a: 2.0 ** ((7 * i) % 10) for i, a in enumerate(drawn)}
    anchors = [{"ms": ms[a], "architecture": a.to_json()} for a in drawn]
    table = replace(measured, provenance={**measured.provenance, "anchors": anchors})
    timed = []

    def watched(_: SearchSpace, architecture: Architecture, __: object) -> Callable[[], None]:
        timed.append(ms.get(architecture))
        return lambda: None

    monkeypatch.setattr(measure, "student_runner", watched)
    measure_students({"a": lambda: None}, predicted_ms, table, Patience(1e9, 1.0), 0)
    # The last runner is the reference's, the smallest student.
    assert sorted(timed[:-1]) == [2.0**i for i in expected]


def test_whole_students_are_timed_by_architecture(
    measured: LatencyTable, space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its own runner's timing, also where it is asked whether that is enough."""
    architectures, asked = [space.largest(), space.smallest()], []
    monkeypatch.setattr(measure, "student_runner", lambda space, a, unit: a)

    def measure_students(runners: Mapping, *known: object) -> dict[str, Timing]:
        found = {name: Timing(1.0 + architectures.index(a), 0.0) for name, a in runners.items()}
        known[-1](found)
        return dict(reversed(found.items()))

    def enough(found: Mapping) -> bool:
        asked.append(found)
        return True

    monkeypatch.setattr(measure, "measure_students", measure_students)
    timings = measure_architectures(measured, PATIENCE, 0, architectures, enough)
    assert timings == {a: Timing(1.0 + i, 0.0) for i, a in enumerate(architectures)} == asked[0]


@pytest.mark.parametrize("provider", ["CPUExecutionProvider", "torch:cpu"])
def test_finished_students_run_as_they_ship(
    measured: LatencyTable, space: SearchSpace, tmp_path: Path, provider: str
) -> None:
    """The file where the table is of ONNX Runtime; in PyTorch there need be none."""
    unit = {**measured.provenance["unit"], "provider": provider}
    table = replace(measured, provenance={**measured.provenance, "unit": unit})
    student, path = Student(space, space.smallest()), tmp_path / "student.onnx"
    if provider == "torch:cpu":
        file_runner(student, path, table)()
    else:
        with pytest.raises(UserError, match=r"student\.onnx"):
            file_runner(student, path, table)
        write_onnx(student, student.head.classifier.weight.new_zeros(2, 3, 8, 8), path, {})
        file_runner(student, path, table)()


def test_what_ships_is_timed_in_two_sessions(
    measured: LatencyTable, space: SearchSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, asked, timed = [], [], {0: Timing(4.0, 0.03), 1: Timing(5.0, 0.04)}

    def measure_students(*known: object) -> dict[str, Timing]:
        seed, enough = known[-2:]
        found = {"student": timed[seed]}
        assert enough(found)
        return found

    def enough(timing: Timing) -> bool:
        asked.append(timing)
        return True

    monkeypatch.setattr(measure, "file_runner", lambda *what: opened.append(what))
    monkeypatch.setattr(measure, "measure_students", measure_students)
    student, path = Student(space, space.smallest()), tmp_path / "student.onnx"
    found = measure_shipped(student, path, 4.4, measured, PATIENCE, 0, enough)
    assert found == timed[0].with_another(timed[1])
    assert 4.3 < found.ms < 4.5, "the first is more exact"
    assert opened == [(student, path, measured)] * 2
    assert asked == list(timed.values())


class Moody(nn.Module):
    """Decides by its input, which no export can follow."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) if images.sum() > 0 else images.amax((2, 3))


class Precise(nn.Module):
    """Convolves in float64: ONNX has that, and ONNX Runtime does not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3).double()

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images.double()).mean((2, 3)).float()


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Moody(), r"odd: cannot be exported to ONNX .*name another"),
        (Precise(), r"odd: ONNX Runtime .* does not run it .*Conv.*name another"),
    ],
)
def test_a_network_that_cannot_be_run_is_named(
    measured: LatencyTable, network: nn.Module, said: str
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        module_runners({"odd": network}, measured)
    assert "\n" not in str(caught.value)


def test_any_network_is_timed_beside_a_student(
    measured: LatencyTable, space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brought to the speed of the table's day as the student is."""
    anchors = known(measured)
    middle_ms = sorted(anchors.values())[len(anchors) // 2]

    def slow(runners: dict, *_: object, **__: object) -> Iterator[Round]:
        day_ms = {"mine": 1.1 * middle_ms, "student": middle_ms, **anchors}
        for runner in runners.values():
            runner()
        for _ in range(5):
            yield Round({name: 2e-3 * day_ms[name] for name in runners}, 1e-3, 1.0)

    monkeypatch.setattr(stopwatch, "rounds", slow)
    monkeypatch.setattr(measure, "_around", lambda every, _: every)
    mine = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found = measure_beside(space.middle(), measured, 0, PATIENCE, {"mine": mine})
    assert found == pytest.approx({"mine": 1.1 * middle_ms, "student": middle_ms}, rel=1e-6)
