"""The measured table: every entry there, fitted to whole networks, refused elsewhere."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from export.errors import UserError
from export.stopwatch import Timing, UnitOfWork
from supernet import measure
from supernet.block_graphs import network_graph
from supernet.latency import LatencyTable
from supernet.measure import (
    REFERENCE,
    check_device,
    measure_students,
    measure_table,
    obtain_table,
)
from supernet.parts import assemble, parts
from supernet.space import Architecture, SearchSpace

UNIT = UnitOfWork(batch=2, resolution=8)


@pytest.fixture(scope="module")
def measured(space: SearchSpace) -> LatencyTable:
    return measure_table(space, UNIT, rounds=2, seed=0, progress=None)


def test_every_entry_is_measured(measured: LatencyTable, tmp_path: Path) -> None:
    measured.save(tmp_path / "latency.json")
    again = LatencyTable.load(tmp_path / "latency.json", measured.space)
    assert again.fingerprint() == measured.fingerprint()
    parts = sum(p.numel() for p in (*measured.first, *measured.rest, measured.head)) + 1
    assert measured.provenance["parts"] == parts
    assert measured.provenance["machine"]["cpu"]


def test_fit_recovers_the_layout_cost_of_made_up_timings(
    space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole networks take 0.9 of their parts' sum, and 1e-4 ms less for each element."""
    draws, found = np.random.default_rng(0), parts(space)
    ms = {place: draws.uniform(0.5, 2) for place in found}
    elements = {place: part.elements() for place, part in found.items()}

    def whole_ms(architecture: Architecture) -> float:
        sums = [assemble(space, values, {}).predicted_ms(architecture) for values in (ms, elements)]
        return 0.9 * sums[0] - 1e-4 * sums[1]

    def made_up(runners: dict, rounds: int, **_: object) -> dict[object, Timing]:
        wholes = {a: whole_ms(a) for a in runners if isinstance(a, Architecture)}
        return {name: Timing(value, 0.0) for name, value in (ms | wholes).items()}

    monkeypatch.setattr(measure, "stopwatch", made_up)
    table = measure_table(space, UNIT, rounds=1, seed=0, progress=None)
    assert table.provenance["gain"] == pytest.approx(0.9)
    assert table.provenance["ms_per_element"] == pytest.approx(-1e-4)
    assert table.provenance["leave_one_out_error"] == pytest.approx(0, abs=1e-9)
    for architecture in (space.smallest(), space.middle(), space.largest()):
        assert table.predicted_ms(architecture) == pytest.approx(whole_ms(architecture))


def test_students_are_brought_to_the_speed_of_the_tables_day(
    measured: LatencyTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine becomes three times slower meanwhile; the student is 2.5 times the reference."""
    drift = np.linspace(1, 3, 9)

    def drifting(runners: dict, rounds: int, **_: object) -> dict[str, list[float]]:
        return {name: list(drift * (0.4 if name == REFERENCE else 1.0)) for name in runners}

    monkeypatch.setattr(measure, "visits", drifting)
    graph = network_graph(measured.space, measured.space.smallest())
    timings = measure_students({"a": graph}, measured, rounds=9, seed=0)
    assert timings["a"].ms == pytest.approx(2.5 * measured.provenance["reference_ms"])
    assert timings["a"].spread == pytest.approx(0)


def test_table_of_another_unit_or_machine_is_refused(measured: LatencyTable) -> None:
    check_device(measured, UNIT)
    with pytest.raises(UserError, match=r"batch of 2 images .* expected batch of 4 images"):
        check_device(measured, dataclasses.replace(UNIT, batch=4))
    machine = {**measured.provenance["machine"], "cpu": "another processor"}
    foreign = dataclasses.replace(measured, provenance={**measured.provenance, "machine": machine})
    with pytest.raises(UserError, match="cpu 'another processor'"):
        check_device(foreign, UNIT)


def test_table_is_measured_once(measured: LatencyTable, tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    measured.save(path)
    found = obtain_table(path, measured.space, UNIT, rounds=0, seed=0)  # no rounds: cannot measure
    assert found.fingerprint() == measured.fingerprint()
