"""The form of a precision: that of the run's table, or the one that is fastest here."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from base.errors import UserError
from export.runtimes import in_onnxruntime
from export.runtimes.faster import Ratios
from export.timing.stopwatch import Runner
from export.timing.unit_of_work import UnitOfWork
from supernet.latency import precision
from supernet.latency.measurement import find_or_measure_table
from supernet.latency.precision import RANDOM_STUDENTS, compared_students, settle_precision
from supernet.latency_table import LatencyTable
from supernet.presets import preset_space
from supernet.space import SearchSpace
from tests.tiny import PATIENCE, UNIT, refuse

INT8, SIGNED = replace(UNIT, precision="int8"), replace(UNIT, precision="int8-signed")


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "compare_forms", refuse)
    monkeypatch.setattr(precision, "student_runner", refuse)


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, int]]]:
    """Say how often fp32's milliseconds each form takes; return what is compared then."""
    compared = []

    def compare(runners: Mapping[str, Sequence[Runner]]) -> Ratios:
        compared.append(runners)
        return Ratios({form: (ratio[form],) for form in runners if form != "fp32"})

    ratio = {}

    def say(**ratios: float) -> list:
        ratio.update({form.replace("_", "-"): value for form, value in ratios.items()})
        return compared

    monkeypatch.setattr(precision, "compare_forms", compare)
    monkeypatch.setattr(precision, "student_runner", lambda _, architecture, unit: unit.precision)
    return say


def settle(folder: Path, space: SearchSpace, unit: UnitOfWork, slower: bool = False) -> tuple:
    return settle_precision(folder, space, unit, seed=0, slower_too=slower)


@pytest.mark.usefixtures("untimed")
def test_fp32_is_what_it_is(space: SearchSpace, tmp_path: Path) -> None:
    """Nothing is compared, whatever a table there says: that one is refused later."""
    write(tmp_path / "latency.json", {"provenance": {"unit": asdict(INT8)}})
    assert settle(tmp_path, space, UNIT) == (UNIT, None)


def write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


@pytest.mark.usefixtures("untimed")
@pytest.mark.parametrize("known", [INT8, SIGNED])
def test_a_run_that_was_begun_keeps_its_form(
    space: SearchSpace, tmp_path: Path, known: UnitOfWork
) -> None:
    """By its measurement, or by its table once that is there."""
    write(tmp_path / "measurement.json", {"unit": asdict(known)})
    assert settle(tmp_path, space, INT8) == (known, None)
    other = SIGNED if known is INT8 else INT8
    write(tmp_path / "measurement.json", {"unit": asdict(other)})
    write(tmp_path / "latency.json", {"provenance": {"unit": asdict(known)}})
    assert settle(tmp_path, space, INT8) == (known, None)


@pytest.mark.usefixtures("untimed")
@pytest.mark.parametrize("theirs", ["fp32", "bf16"])
def test_a_table_of_another_precision_is_left_to_be_refused(
    space: SearchSpace, tmp_path: Path, table: LatencyTable, theirs: str
) -> None:
    """What was asked for comes back, and the table is then refused by the field that differs."""
    unit = asdict(replace(UNIT, precision=theirs))
    replace(table, provenance={**table.provenance, "unit": unit}).save(tmp_path / "latency.json")
    found, ratios = settle(tmp_path, space, INT8)
    assert (found, ratios) == (INT8, None)
    with pytest.raises(UserError, match=f"unit of work.precision '{theirs}', expected 'int8'"):
        find_or_measure_table(tmp_path, space, found, PATIENCE, 0)


@pytest.mark.parametrize("unsigned", [0.5, 0.7])
def test_the_fastest_form_is_taken(
    space: SearchSpace, tmp_path: Path, times: Callable, unsigned: float
) -> None:
    compared = times(int8=unsigned, int8_signed=0.6)
    found, ratios = settle(tmp_path, space, INT8)
    assert found == (INT8 if unsigned < 0.6 else SIGNED)
    assert ratios == Ratios({"int8": (unsigned,), "int8-signed": (0.6,)})
    # Every form on the same students, from the smallest to the largest.
    (runners,) = compared
    students = compared_students(space, 0)
    assert runners == {f: [f] * len(students) for f in ("fp32", "int8", "int8-signed")}
    assert not list(tmp_path.iterdir())


def test_what_is_slower_is_refused_unless_asked_for(
    space: SearchSpace, tmp_path: Path, times: Callable
) -> None:
    times(int8=1.25, int8_signed=2.0)
    says = r"int8 takes 1\.25 times fp32's .*int8-signed 2\.00; take fp32, or --latency-slower"
    with pytest.raises(UserError, match=says):
        settle(tmp_path, space, INT8)
    found, ratios = settle(tmp_path, space, INT8, slower=True)
    assert found == INT8
    assert ratios.mean("int8") == pytest.approx(1.25)


@pytest.mark.usefixtures("untimed")
def test_what_cannot_run_here_is_refused_before_it_is_timed(
    space: SearchSpace, tmp_path: Path
) -> None:
    for unit, says in (
        (replace(UNIT, precision="bf16"), "not of ONNX Runtime"),
        (replace(INT8, provider="torch:cpu"), "not of PyTorch"),
        (replace(INT8, provider="AbacusExecutionProvider"), "not in this ONNX Runtime"),
        (replace(INT8, threads=100_000), "100000 threads"),
    ):
        with pytest.raises(UserError, match=says):
            settle(tmp_path, space, unit)


@pytest.mark.usefixtures("untimed")
def test_a_damaged_table_is_one_line(space: SearchSpace, tmp_path: Path) -> None:
    (tmp_path / "latency.json").write_text('{"provenance": ')
    with pytest.raises(UserError, match=r"latency\.json"):
        settle(tmp_path, space, INT8)


def test_compared_students_are_distinct_and_span_the_space() -> None:
    space = preset_space("digits", 10)
    students = compared_students(space, 0)
    assert students[:3] == [space.smallest(), space.middle(), space.largest()]
    assert len(set(students)) == len(students) == 3 + RANDOM_STUDENTS
    assert students == compared_students(space, 0)
    assert students != compared_students(space, 1)


def test_forms_are_really_timed(
    space: SearchSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which one wins the clock says; here it is not to be asked for long."""
    monkeypatch.setattr("export.runtimes.faster.PATIENCE", PATIENCE)
    monkeypatch.setattr(precision, "compared_students", lambda *_: [space.smallest()] * 2)
    found, ratios = settle(tmp_path, space, INT8, slower=True)
    assert found.precision == ratios.fastest
    assert ratios.by_form.keys() == set(in_onnxruntime.FORMS["int8"])
    assert {len(own) for own in ratios.by_form.values()} == {2}
