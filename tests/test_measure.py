"""Tables measured here, continued, brought from elsewhere, and refused where they do not belong."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from export.device import UnitOfWork
from export.errors import UserError
from export.measurement import Measurement
from export.onnx_file import write_onnx
from export.stopwatch import Patience, Round, Timing
from supernet import measure
from supernet.derive import programme
from supernet.latency import LatencyTable
from supernet.measure import (
    check_table,
    check_unit,
    describe_table,
    given_table,
    measure_architectures,
    measure_plan,
    measure_shipped,
    measure_students,
    not_from_here,
    obtain_table,
    run_table,
    shipped_runner,
)
from supernet.space import Architecture, SearchSpace
from supernet.student import Student
from supernet.timing_plan import timing_plan

UNIT = UnitOfWork(batch=2, resolution=8)
PATIENCE = Patience(1.0, 5.0, least_rounds=2)


@pytest.fixture(scope="module")
def run(space: SearchSpace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the tiny space was measured."""
    folder = tmp_path_factory.mktemp("run")
    obtain_table(folder, space, UNIT, PATIENCE, 0)
    return folder


@pytest.fixture
def measured(run: Path, space: SearchSpace) -> LatencyTable:
    return LatencyTable.load(run / "latency.json", space)


def same_ms(one: LatencyTable, two: LatencyTable) -> bool:
    """To the digits that a measurement is stored with."""
    pairs = zip((*one.first, *one.rest, one.head), (*two.first, *two.rest, two.head), strict=True)
    return all(torch.allclose(a, b, rtol=1e-4, atol=0) for a, b in pairs)


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("nothing is to be timed")


def test_a_measured_folder_holds_rounds_and_table(run: Path, space: SearchSpace) -> None:
    assert {path.name for path in run.iterdir()} == {"measurement.json", "latency.json"}
    measurement = Measurement.load(run / "measurement.json")
    plan = timing_plan(space, 0)
    assert measurement.rounds[0].seconds.keys() == set(plan.names())
    table = LatencyTable.load(run / "latency.json", space)
    assert table.provenance["rounds"] == len(measurement.rounds) >= 2
    assert table.provenance["unit"] == asdict(UNIT)
    assert table.provenance["check"]["networks"] == 30
    assert table.provenance["machine"]["cpu"]


def test_a_table_is_not_measured_twice(
    run: Path, space: SearchSpace, measured: LatencyTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "measure_plan", refuse)
    again = obtain_table(run, space, UNIT, PATIENCE, 0)
    assert again.fingerprint() == measured.fingerprint()
    assert run_table(run, space).fingerprint() == measured.fingerprint()


def test_finished_rounds_are_not_measured_again(
    run: Path,
    space: SearchSpace,
    measured: LatencyTable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The table alone was lost: it comes from the rounds that are still there."""
    (tmp_path / "measurement.json").write_bytes((run / "measurement.json").read_bytes())
    monkeypatch.setattr(measure, "part_runner", refuse)
    assert same_ms(obtain_table(tmp_path, space, UNIT, PATIENCE, 0), measured)


def test_an_interrupted_measurement_is_continued(
    run: Path, space: SearchSpace, tmp_path: Path
) -> None:
    """The round that was there stays as it was, and later ones follow."""
    stored = Measurement.load(run / "measurement.json")
    replace(stored, rounds=stored.rounds[:1]).save(tmp_path / "measurement.json")
    table = obtain_table(tmp_path, space, UNIT, replace(PATIENCE, least_rounds=3), 0)
    continued = Measurement.load(tmp_path / "measurement.json")
    assert len(continued.rounds) == table.provenance["rounds"] >= 3
    assert continued.rounds[0] == stored.rounds[0]
    assert continued.date == stored.date


def test_a_measurement_of_something_else_is_not_continued(run: Path, space: SearchSpace) -> None:
    plan, path = timing_plan(space, 0), run / "measurement.json"
    with pytest.raises(UserError, match=r"cannot be continued here: unit\.batch 2, expected 4"):
        measure_plan(plan, replace(UNIT, batch=4), PATIENCE, path)
    with pytest.raises(UserError, match=r"measurement\.json: cannot be continued here: plan '"):
        measure_plan(timing_plan(space, 1), UNIT, PATIENCE, path)


def test_either_file_of_a_run_can_be_brought(
    run: Path, space: SearchSpace, measured: LatencyTable
) -> None:
    for name in ("latency.json", "measurement.json"):
        assert same_ms(given_table(run / name, space), measured)


def test_brought_tables_of_other_images_are_refused(
    run: Path, space: SearchSpace, measured: LatencyTable, tmp_path: Path
) -> None:
    unit = {**measured.provenance["unit"], "resolution": 16}
    path = tmp_path / "latency.json"
    replace(measured, provenance={**measured.provenance, "unit": unit}).save(path)
    with pytest.raises(UserError, match="images of 16 pixels, expected 8"):
        given_table(path, space)
    for name in ("latency.json", "measurement.json"):
        with pytest.raises(UserError, match="space"):
            given_table(run / name, replace(space, resolution=16))


@pytest.mark.parametrize(
    ("unit", "field"),
    [
        (replace(UNIT, batch=4), "batch 2, expected 4"),
        (replace(UNIT, threads=2), "threads 1, expected 2"),
        (replace(UNIT, provider="torch:cpu"), "provider 'CPUExecutionProvider', expected 'torch"),
    ],
    ids=["batch", "threads", "provider"],
)
def test_tables_of_another_unit_are_refused(
    measured: LatencyTable, unit: UnitOfWork, field: str
) -> None:
    path = Path("latency.json")
    check_table(measured, UNIT, path)
    with pytest.raises(UserError, match=rf"latency\.json: unit of work\.{field}"):
        check_table(measured, unit, path)


def elsewhere(table: LatencyTable, field: str) -> LatencyTable:
    machine = {**table.provenance["machine"], field: "another"}
    return replace(table, provenance={**table.provenance, "machine": machine})


@pytest.mark.parametrize("field", ["cpu", "onnxruntime"])
def test_tables_of_another_machine_are_refused(measured: LatencyTable, field: str) -> None:
    assert not_from_here(measured) is None
    with pytest.raises(UserError, match=rf"machine\.{field} 'another', expected"):
        check_table(elsewhere(measured, field), UNIT, Path("latency.json"))
    # Another kernel of the operating system makes no other machine.
    check_table(elsewhere(measured, "os"), UNIT, Path("latency.json"))


def test_brought_tables_may_be_of_another_machine(
    measured: LatencyTable, space: SearchSpace, tmp_path: Path
) -> None:
    """Not of another unit of work, though; and the run's folder keeps the table as its own."""
    foreign = elsewhere(measured, "cpu")
    table = obtain_table(tmp_path, space, UNIT, PATIENCE, 0, brought=foreign)
    assert table.fingerprint() == measured.fingerprint()
    assert not (tmp_path / "measurement.json").exists()
    again = obtain_table(tmp_path, space, UNIT, PATIENCE, 0)
    assert again.fingerprint() == measured.fingerprint()
    assert "machine.cpu 'another'" in not_from_here(again)
    assert "another" in dict(describe_table(programme(again)))["measured on"]
    with pytest.raises(UserError, match=r"batch 2, expected 3"):
        obtain_table(tmp_path, space, replace(UNIT, batch=3), PATIENCE, 0)


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
    monkeypatch.setattr(measure, "rounds", slowing)
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

    monkeypatch.setattr(measure, "rounds", scattered)
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
    measured: LatencyTable, space: SearchSpace
) -> None:
    architectures = [space.largest(), space.smallest()]
    timings = measure_architectures(measured, PATIENCE, 0, architectures)
    assert list(timings) == architectures
    # The smallest is the reference itself, which the largest has several times the work of.
    assert timings[space.smallest()].ms < timings[space.largest()].ms


@pytest.mark.parametrize("provider", ["CPUExecutionProvider", "torch:cpu"])
def test_finished_students_run_as_they_ship(
    measured: LatencyTable, space: SearchSpace, tmp_path: Path, provider: str
) -> None:
    """The file where the table is of ONNX Runtime; in PyTorch there need be none."""
    unit = {**measured.provenance["unit"], "provider": provider}
    table = replace(measured, provenance={**measured.provenance, "unit": unit})
    student, path = Student(space, space.smallest()), tmp_path / "student.onnx"
    if provider == "torch:cpu":
        shipped_runner(student, path, table)()
    else:
        with pytest.raises(UserError, match=r"student\.onnx"):
            shipped_runner(student, path, table)
        write_onnx(student, student.head.classifier.weight.new_zeros(2, 3, 8, 8), path, {})
        shipped_runner(student, path, table)()


def test_what_ships_is_timed_in_two_sessions(
    measured: LatencyTable, space: SearchSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, timed = [], {0: Timing(4.0, 0.03), 1: Timing(5.0, 0.04)}
    monkeypatch.setattr(measure, "shipped_runner", lambda *what: opened.append(what))
    monkeypatch.setattr(measure, "measure_students", lambda *what: {"student": timed[what[-1]]})
    student, path = Student(space, space.smallest()), tmp_path / "student.onnx"
    found = measure_shipped(student, path, 4.4, measured, PATIENCE, 0)
    assert (found.ms, found.spread) == (4.5, pytest.approx(0.025))
    assert opened == [(student, path, measured)] * 2


def test_pytorch_measures_a_table_too(space: SearchSpace, tmp_path: Path) -> None:
    unit = replace(UNIT, provider="torch:cpu")
    table = obtain_table(tmp_path, space, unit, PATIENCE, 0)
    entries = [table.stem_ms, *(float(part.min()) for part in (*table.first, *table.rest))]
    assert min(*entries, float(table.head.min())) > 0
    assert table.provenance["machine"]["device"] == "cpu"
    assert "PyTorch eager cpu" in table.unit_of_work()
    assert run_table(tmp_path, space).fingerprint() == table.fingerprint()
    smallest, largest = space.smallest(), space.largest()
    assert table.predicted_ms(smallest) < table.predicted_ms(largest)


def test_units_that_nothing_here_can_run_are_refused() -> None:
    check_unit(UNIT)
    check_unit(replace(UNIT, provider="torch:cpu"))
    with pytest.raises(UserError, match=r"AbacusExecutionProvider.*CPUExecutionProvider"):
        check_unit(replace(UNIT, provider="AbacusExecutionProvider"))


def test_damaged_measurements_are_refused(run: Path, space: SearchSpace, tmp_path: Path) -> None:
    value = json.loads((run / "measurement.json").read_text())
    path = tmp_path / "measurement.json"
    for damage in ({"rounds": []}, {"names": value["names"][1:]}, {"seed": None}, {"machine": 1}):
        path.write_text(json.dumps({**value, **damage}))
        with pytest.raises(UserError, match=r"measurement\.json"):
            given_table(path, space)
