"""Measure the latency table on this machine, and whole students against it."""

import dataclasses
import datetime
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx

from export.errors import UserError
from export.stopwatch import Timing, UnitOfWork, machine, onnx_runner, stopwatch, visits
from supernet.block_graphs import network_graph, part_graph
from supernet.latency import LatencyTable
from supernet.parts import Place, assemble, parts
from supernet.space import Architecture, SearchSpace

Runner = Callable[[], None]
CALIBRATION_NETWORKS = 16
REFERENCE = "the table's reference network"


def measure_table(
    space: SearchSpace, unit: UnitOfWork, rounds: int, seed: int, progress: str | None
) -> LatencyTable:
    """Time every part of `space` and some networks, interleaved; fit the one to the other.

    A part timed alone also converts its input and output to and from the runtime's own layout,
    which happens once inside a network: whole ≈ gain · Σ ms − layout · Σ elements in and out, by
    least squares on relative errors.
    """
    found = parts(space)
    runners: dict[Place | Architecture, Runner] = {
        place: _runner(part_graph(part.module), part.channels, part.size, unit)
        for place, part in found.items()
    }
    networks = _calibration_networks(space, seed)
    runners |= {a: _network_runner(network_graph(space, a), unit) for a in networks}
    timings = stopwatch(runners, rounds, seed=seed, progress=progress)

    elements = {place: float(part.elements()) for place, part in found.items()}
    summed_ms = assemble(space, {place: timings[place].ms for place in found}, {})
    summed_elements = assemble(space, elements, {})
    features = np.array(
        [[summed_ms.predicted_ms(a), summed_elements.predicted_ms(a)] for a in networks]
    )
    whole_ms = np.array([timings[a].ms for a in networks])
    gain, per_element = _fit(features, whole_ms)
    fitted = {
        # An entry never falls below a tenth of what was timed, whatever the fit says.
        place: max(
            gain * timings[place].ms + per_element * elements[place], 0.1 * timings[place].ms
        )
        for place in found
    }
    provenance = {
        "unit_of_work": str(unit),
        "unit": dataclasses.asdict(unit),
        "machine": machine(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "rounds": rounds,
        "parts": len(found),
        "networks": len(networks),
        "gain": gain,
        "ms_per_element": per_element,
        "leave_one_out_error": _leave_one_out(features, whole_ms),
        "median_spread": float(np.median([t.spread for t in timings.values()])),
        "reference_ms": timings[space.middle()].ms,
    }
    return assemble(space, fitted, provenance)


def _calibration_networks(space: SearchSpace, seed: int) -> list[Architecture]:
    generator = np.random.default_rng(seed)
    networks = {space.middle(): None, space.smallest(): None, space.largest(): None}
    while len(networks) < min(CALIBRATION_NETWORKS, space.size()):
        networks[space.random(generator)] = None
    return list(networks)


def _fit(features: np.ndarray, whole_ms: np.ndarray) -> tuple[float, float]:
    ones = np.ones(len(whole_ms))
    gain, per_element = np.linalg.lstsq(features / whole_ms[:, None], ones, rcond=None)[0]
    return float(gain), float(per_element)


def _leave_one_out(features: np.ndarray, whole_ms: np.ndarray) -> float:
    """Mean absolute relative error of networks that the fit has not seen."""
    errors = []
    for i in range(len(whole_ms)):
        others = np.arange(len(whole_ms)) != i
        predicted = features[i] @ _fit(features[others], whole_ms[others])
        errors.append(abs(predicted / whole_ms[i] - 1))
    return float(np.mean(errors))


def _network_runner(model: onnx.ModelProto | Path, unit: UnitOfWork) -> Runner:
    return _runner(model, 3, unit.resolution, unit)


def _runner(model: onnx.ModelProto | Path, channels: int, size: int, unit: UnitOfWork) -> Runner:
    graph = (onnx.load(model) if isinstance(model, Path) else model).graph
    values = np.random.default_rng(0).random((unit.batch, channels, size, size), np.float32)
    return onnx_runner(model, {graph.input[0].name: values}, unit)


def obtain_table(
    path: Path, space: SearchSpace, unit: UnitOfWork, rounds: int, seed: int
) -> LatencyTable:
    """Return the table at `path`, measured and written there when there is none.

    One of another space, unit of work or machine raises `UserError`.
    """
    if path.exists():
        table = LatencyTable.load(path, space)
        check_device(table, unit)
        return table
    table = measure_table(space, unit, rounds, seed, "latency table")
    table.save(path)
    return table


def unit_of(table: LatencyTable) -> UnitOfWork:
    """Return the unit of work that the table was measured in."""
    return UnitOfWork(**table.provenance["unit"])


def check_device(table: LatencyTable, unit: UnitOfWork) -> None:
    """Raise `UserError` when the table is of another unit of work or of another machine."""
    if unit_of(table) != unit:
        raise UserError(
            f"latency table in units of {table.unit_of_work()}, expected {unit}; "
            "remove latency.json or ask for that unit"
        )
    here, there = machine(), table.provenance["machine"]
    for field in ("cpu", "onnxruntime"):
        if here[field] != there[field]:
            raise UserError(
                f"latency table measured with {field} {there[field]!r}, this is {here[field]!r}; "
                "remove latency.json to measure it here"
            )


def measure_students(
    models: Mapping[str, onnx.ModelProto | Path], table: LatencyTable, rounds: int, seed: int
) -> dict[str, Timing]:
    """Time whole students against the table's reference network, interleaved.

    Every round compares each student with the reference timed moments apart, so the load of the
    machine cancels; the median ratio times the reference's milliseconds in the table says how long
    the student takes at the speed that the machine had when the table was measured.
    """
    unit = unit_of(table)
    runners = {name: _network_runner(model, unit) for name, model in models.items()}
    runners[REFERENCE] = _network_runner(network_graph(table.space, table.space.middle()), unit)
    seconds = {name: np.array(times) for name, times in visits(runners, rounds, seed=seed).items()}
    reference_ms = table.provenance["reference_ms"]
    timings = {}
    for name in models:
        low, middle, high = np.quantile(seconds[name] / seconds[REFERENCE], (0.25, 0.5, 0.75))
        timings[name] = Timing(float(middle * reference_ms), float((high - low) / middle))
    return timings


def rough_range_ms(space: SearchSpace, unit: UnitOfWork) -> tuple[float, float]:
    """Latency of the smallest and the largest student, from a few runs: for a preview only."""
    ends = {"smallest": space.smallest(), "largest": space.largest()}
    runners = {name: _network_runner(network_graph(space, a), unit) for name, a in ends.items()}
    timings = stopwatch(runners, rounds=3)
    return timings["smallest"].ms, timings["largest"].ms


def rough_table_seconds(space: SearchSpace, slowest_ms: float, rounds: int) -> float:
    """Guess the seconds of `measure_table`: its exports, and parts of half the largest size."""
    layers = sum(max(stage.depths) for stage in space.stages)
    part_ms = 0.5 * slowest_ms / layers
    runs_ms = len(parts(space)) * part_ms + CALIBRATION_NETWORKS * 0.5 * slowest_ms
    return 10 + rounds * 3 * runs_ms / 1000
