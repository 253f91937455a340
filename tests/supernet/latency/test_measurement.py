"""Tables measured here, continued, brought from elsewhere, and refused where they do not belong."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from base.errors import UserError
from export.runtimes.runtime import check_unit
from export.timing.measurement import Measurement
from export.timing.unit_of_work import UnitOfWork
from supernet.latency import measurement as measure
from supernet.latency.measurement import (
    check_table,
    describe_table,
    find_or_measure_table,
    load_given_table,
    load_run_table,
    machine_difference,
    measure_plan,
)
from supernet.latency.plan import timing_plan
from supernet.latency.runners import unit_of_table
from supernet.latency_table import LatencyTable
from supernet.space import SearchSpace
from tests.tiny import PATIENCE, UNIT, refuse


def same_ms(one: LatencyTable, two: LatencyTable) -> bool:
    """To the digits that a measurement is stored with."""
    pairs = zip((*one.first, *one.rest, one.head), (*two.first, *two.rest, two.head), strict=True)
    return all(torch.allclose(a, b, rtol=1e-4, atol=0) for a, b in pairs)


def test_a_measured_folder_holds_rounds_and_table(measured_run: Path, space: SearchSpace) -> None:
    assert {path.name for path in measured_run.iterdir()} == {"measurement.json", "latency.json"}
    measurement = Measurement.load(measured_run / "measurement.json")
    plan = timing_plan(space, 0)
    assert measurement.rounds[0].seconds.keys() == set(plan.names())
    table = LatencyTable.load(measured_run / "latency.json", space)
    assert table.provenance["rounds"] == len(measurement.rounds) >= 2
    assert unit_of_table(table) == UNIT
    assert table.provenance["check"]["networks"] == 30
    assert table.provenance["machine"]["cpu"]


def test_a_table_is_not_measured_twice(
    measured_run: Path, space: SearchSpace, measured: LatencyTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "measure_plan", refuse)
    again = find_or_measure_table(measured_run, space, UNIT, PATIENCE, 0)
    assert again.fingerprint() == measured.fingerprint()
    assert load_run_table(measured_run, space).fingerprint() == measured.fingerprint()


def test_finished_rounds_are_not_measured_again(
    measured_run: Path,
    space: SearchSpace,
    measured: LatencyTable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The table alone was lost: it comes from the rounds that are still there."""
    (tmp_path / "measurement.json").write_bytes((measured_run / "measurement.json").read_bytes())
    monkeypatch.setattr(measure, "part_runner", refuse)
    assert same_ms(find_or_measure_table(tmp_path, space, UNIT, PATIENCE, 0), measured)


def test_an_interrupted_measurement_is_continued(
    measured_run: Path, space: SearchSpace, tmp_path: Path
) -> None:
    """The round that was there stays as it was, and later ones follow."""
    stored = Measurement.load(measured_run / "measurement.json")
    replace(stored, rounds=stored.rounds[:1]).save(tmp_path / "measurement.json")
    table = find_or_measure_table(tmp_path, space, UNIT, replace(PATIENCE, least_rounds=3), 0)
    continued = Measurement.load(tmp_path / "measurement.json")
    assert len(continued.rounds) == table.provenance["rounds"] >= 3
    assert continued.rounds[0] == stored.rounds[0]
    assert continued.date == stored.date


def test_a_measurement_of_something_else_is_not_continued(
    measured_run: Path, space: SearchSpace
) -> None:
    plan, path = timing_plan(space, 0), measured_run / "measurement.json"
    with pytest.raises(UserError, match=r"cannot be continued here: unit\.batch 2, expected 4"):
        measure_plan(plan, replace(UNIT, batch=4), PATIENCE, path)
    with pytest.raises(UserError, match=r"measurement\.json: cannot be continued here: plan '"):
        measure_plan(timing_plan(space, 1), UNIT, PATIENCE, path)


def test_either_file_of_a_run_can_be_brought(
    measured_run: Path, space: SearchSpace, measured: LatencyTable
) -> None:
    for name in ("latency.json", "measurement.json"):
        assert same_ms(load_given_table(measured_run / name, space), measured)


def test_brought_tables_of_other_images_are_refused(
    measured_run: Path, space: SearchSpace, measured: LatencyTable, tmp_path: Path
) -> None:
    unit = {**measured.provenance["unit"], "resolution": [16, 16]}
    path = tmp_path / "latency.json"
    replace(measured, provenance={**measured.provenance, "unit": unit}).save(path)
    with pytest.raises(UserError, match="images of 3×16×16, expected 3×8×8"):
        load_given_table(path, space)
    for name in ("latency.json", "measurement.json"):
        with pytest.raises(UserError, match="space"):
            load_given_table(measured_run / name, replace(space, resolution=(16, 16)))


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
    assert machine_difference(measured) is None
    with pytest.raises(UserError, match=rf"machine\.{field} 'another', expected"):
        check_table(elsewhere(measured, field), UNIT, Path("latency.json"))
    # Another kernel of the operating system makes no other machine.
    check_table(elsewhere(measured, "os"), UNIT, Path("latency.json"))


def test_brought_tables_may_be_of_another_machine(
    measured: LatencyTable, space: SearchSpace, tmp_path: Path
) -> None:
    """Not of another unit of work, though; and the run's folder keeps the table as its own."""
    foreign = elsewhere(measured, "cpu")
    table = find_or_measure_table(tmp_path, space, UNIT, PATIENCE, 0, given=foreign)
    assert table.fingerprint() == measured.fingerprint()
    assert not (tmp_path / "measurement.json").exists()
    again = find_or_measure_table(tmp_path, space, UNIT, PATIENCE, 0)
    assert again.fingerprint() == measured.fingerprint()
    assert "machine.cpu 'another'" in machine_difference(again)
    assert "another" in dict(describe_table(again, (1.0, 2.0)))["measured on"]
    with pytest.raises(UserError, match=r"batch 2, expected 3"):
        find_or_measure_table(tmp_path, space, replace(UNIT, batch=3), PATIENCE, 0)


@pytest.mark.parametrize(
    ("unit", "says"),
    [
        ({"provider": "QNNExecutionProvider", "precision": "int8"}, None),
        ({"provider": "torch:cuda"}, None),
        ({"precision": "bf16"}, "precision bf16: not of ONNX Runtime CPU"),
        ({"provider": "torch:cuda", "precision": "int8"}, "precision int8: not of PyTorch"),
        ({"provider": "openvino:NPU", "precision": "int8-signed"}, "int8-signed: not of OpenVINO"),
    ],
)
def test_brought_tables_of_a_precision_in_which_nobody_answers_here(
    measured: LatencyTable, space: SearchSpace, tmp_path: Path, unit: dict, says: str | None
) -> None:
    """Said before anything is trained; that the device is elsewhere is no fault."""
    whole = replace(UNIT, **unit)
    table = replace(measured, provenance={**measured.provenance, "unit": asdict(whole)})
    table.save(tmp_path / "latency.json")
    brought = replace(table, provenance={**table.provenance, "brought": True})
    brought.save(tmp_path / "run" / "latency.json")
    if says is None:
        assert unit_of_table(load_given_table(tmp_path / "latency.json", space)) == whole
        assert unit_of_table(load_run_table(tmp_path / "run", space)) == whole
        return
    for load in (
        lambda: load_given_table(tmp_path / "latency.json", space),
        lambda: load_run_table(tmp_path / "run", space),
    ):
        with pytest.raises(UserError, match=says):
            load()


def test_pytorch_measures_a_table_too(space: SearchSpace, tmp_path: Path) -> None:
    unit = replace(UNIT, provider="torch:cpu")
    table = find_or_measure_table(tmp_path, space, unit, PATIENCE, 0)
    parts = (table.stem, *table.first, *table.rest, table.head)
    assert min(float(part.min()) for part in parts) > 0
    assert table.provenance["machine"]["device"] == "cpu"
    assert "PyTorch eager cpu" in table.unit_of_work()
    assert load_run_table(tmp_path, space).fingerprint() == table.fingerprint()
    smallest, largest = space.smallest(), space.largest()
    assert table.predicted_ms(smallest) < table.predicted_ms(largest)


def test_units_that_nothing_here_can_run_are_refused() -> None:
    check_unit(UNIT)
    check_unit(replace(UNIT, provider="torch:cpu"))
    with pytest.raises(UserError, match=r"AbacusExecutionProvider.*CPUExecutionProvider"):
        check_unit(replace(UNIT, provider="AbacusExecutionProvider"))


def test_damaged_measurements_are_refused(
    measured_run: Path, space: SearchSpace, tmp_path: Path
) -> None:
    value = json.loads((measured_run / "measurement.json").read_text())
    path = tmp_path / "measurement.json"
    for damage in ({"rounds": []}, {"names": value["names"][1:]}, {"seed": None}, {"machine": 1}):
        path.write_text(json.dumps({**value, **damage}))
        with pytest.raises(UserError, match=r"measurement\.json"):
            load_given_table(path, space)


def test_a_table_that_predicts_badly_is_not_used_silently(
    measured: LatencyTable, space: SearchSpace, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for error, said in ((0.099, False), (0.25, True)):
        check = {**measured.provenance["check"], "error": error}
        table = replace(measured, provenance={**measured.provenance, "check": check})
        table.save(tmp_path / "latency.json")
        for load in (load_given_table, lambda path, s: load_run_table(path.parent, s)):
            load(tmp_path / "latency.json", space)
            assert ("ALARM: the latency table is 25% off" in capsys.readouterr().err) is said
        assert ("ALARM" in dict(describe_table(table, (1.0, 2.0)))) is said
