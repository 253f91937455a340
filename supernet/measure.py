"""Measure the latency table on this machine, and whole students against it."""

import dataclasses
import datetime
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import torch

from export.errors import UserError
from export.stopwatch import Timing, UnitOfWork, machine, onnx_runner, stopwatch
from supernet.block_graphs import network_graph, part_graph
from supernet.latency import LatencyTable, table_shapes
from supernet.space import Architecture, Layer, SearchSpace
from supernet.student import Head, Stem, mbconv

# Where a part stands in the table: ("stem",), ("first", s, c_in, c, k, e, se), ("rest", s, c, k, e,
# se) or ("head", c), by the choices' positions.
Place = tuple[str | int, ...]
Runner = Callable[[], None]
CALIBRATION_NETWORKS = 12


def measure_table(
    space: SearchSpace, unit: UnitOfWork, rounds: int, seed: int, progress: str | None
) -> LatencyTable:
    """Time every part of `space` and some networks, interleaved; fit the one to the other.

    A part timed alone pays for its call and for its input's layout, which it does not inside a
    network: whole ≈ gain · Σ parts + shift · number of parts, by least squares on relative errors.
    """
    runners: dict[object, Runner] = dict(_part_runners(space, unit))
    networks = _calibration_networks(space, seed)
    for architecture in networks:
        runners[architecture] = _network_runner(network_graph(space, architecture), unit)
    timings = stopwatch(runners, rounds, seed=seed, progress=progress)
    raw = _assemble(space, {p: t.ms for p, t in timings.items() if isinstance(p, tuple)}, {})
    whole_ms = np.array([timings[a].ms for a in networks])
    features = np.array([[raw.predicted_ms(a), parts_in(a)] for a in networks])
    gain, shift = _fit(features, whole_ms)
    fitted = {
        place: max(gain * timing.ms + shift, 0.1 * timing.ms)
        for place, timing in timings.items()
        if isinstance(place, tuple)
    }
    provenance = {
        "unit_of_work": str(unit),
        "unit": dataclasses.asdict(unit),
        "machine": machine(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "rounds": rounds,
        "parts": len(fitted),
        "networks": len(networks),
        "gain": gain,
        "shift_ms": shift,
        "leave_one_out_error": _leave_one_out(features, whole_ms),
        "median_spread": float(np.median([t.spread for t in timings.values()])),
        "reference_ms": timings[space.middle()].ms,
    }
    return _assemble(space, fitted, provenance)


def parts_in(architecture: Architecture) -> int:
    """Count stem, blocks and head."""
    return 2 + sum(len(stage.layers) for stage in architecture.stages)


def _calibration_networks(space: SearchSpace, seed: int) -> list[Architecture]:
    generator = np.random.default_rng(seed)
    networks = {space.middle(): None, space.smallest(): None, space.largest(): None}
    while len(networks) < min(CALIBRATION_NETWORKS, space.size()):
        networks[space.random(generator)] = None
    return list(networks)


def _fit(features: np.ndarray, whole_ms: np.ndarray) -> tuple[float, float]:
    gain, shift = np.linalg.lstsq(features / whole_ms[:, None], np.ones(len(whole_ms)), rcond=None)[
        0
    ]
    return float(gain), float(shift)


def _leave_one_out(features: np.ndarray, whole_ms: np.ndarray) -> float:
    """Mean absolute relative error of networks that the fit has not seen."""
    errors = []
    for i in range(len(whole_ms)):
        others = np.arange(len(whole_ms)) != i
        predicted = features[i] @ _fit(features[others], whole_ms[others])
        errors.append(abs(predicted / whole_ms[i] - 1))
    return float(np.mean(errors))


def _part_runners(space: SearchSpace, unit: UnitOfWork) -> Iterator[tuple[Place, Runner]]:
    size = unit.resolution
    stem = Stem(space.stem_width, space.stem_stride)
    yield ("stem",), _part_runner(stem, 3, size, unit)
    size = -(-size // space.stem_stride)
    for s, stage in enumerate(space.stages):
        layers = list(
            itertools.product(
                enumerate(stage.kernels),
                enumerate(stage.expansions),
                enumerate(stage.squeeze_excite),
            )
        )
        widths_in, widths = list(enumerate(space.widths_into(s))), list(enumerate(stage.widths))
        for (i, c_in), (o, c_out), picks in itertools.product(widths_in, widths, layers):
            (k, kernel), (e, expansion), (se, gated) = picks
            block = mbconv(space, s, 0, c_in, c_out, Layer(kernel, expansion, gated))
            yield ("first", s, i, o, k, e, se), _part_runner(block, c_in, size, unit)
        size = -(-size // stage.stride)
        for (c, width), picks in itertools.product(widths, layers):
            (k, kernel), (e, expansion), (se, gated) = picks
            block = mbconv(space, s, 1, width, width, Layer(kernel, expansion, gated))
            yield ("rest", s, c, k, e, se), _part_runner(block, width, size, unit)
    for c, width in enumerate(space.stages[-1].widths):
        head = Head(width, space.head_width, space.classes)
        yield ("head", c), _part_runner(head, width, size, unit)


def _part_runner(part: torch.nn.Module, channels: int, size: int, unit: UnitOfWork) -> Runner:
    return _runner(part_graph(part), channels, size, unit)


def _network_runner(model: onnx.ModelProto | Path, unit: UnitOfWork) -> Runner:
    return _runner(model, 3, unit.resolution, unit)


def _runner(model: onnx.ModelProto | Path, channels: int, size: int, unit: UnitOfWork) -> Runner:
    graph = (onnx.load(model) if isinstance(model, Path) else model).graph
    values = np.random.default_rng(0).random((unit.batch, channels, size, size), np.float32)
    return onnx_runner(model, {graph.input[0].name: values}, unit)


def _assemble(
    space: SearchSpace, ms: Mapping[Place, float], provenance: Mapping[str, object]
) -> LatencyTable:
    shapes = table_shapes(space)
    first = [torch.zeros(shape, dtype=torch.float64) for shape in shapes.first]
    rest = [torch.zeros(shape, dtype=torch.float64) for shape in shapes.rest]
    head = torch.zeros(shapes.head, dtype=torch.float64)
    for (kind, *at), value in ms.items():
        if kind == "first":
            first[at[0]][tuple(at[1:])] = value
        elif kind == "rest":
            rest[at[0]][tuple(at[1:])] = value
        elif kind == "head":
            head[at[0]] = value
    return LatencyTable(space, ms[("stem",)], tuple(first), tuple(rest), head, provenance)


def unit_of(table: LatencyTable) -> UnitOfWork:
    """Return the unit of work that the table was measured in."""
    return UnitOfWork(**table.provenance["unit"])


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


def rough_range_ms(space: SearchSpace, unit: UnitOfWork) -> tuple[float, float]:
    """Latency of the smallest and the largest student, from a few runs: for a preview only."""
    ends = {"smallest": space.smallest(), "largest": space.largest()}
    runners = {name: _network_runner(network_graph(space, a), unit) for name, a in ends.items()}
    timings = stopwatch(runners, rounds=3)
    return timings["smallest"].ms, timings["largest"].ms


def rough_table_seconds(space: SearchSpace, slowest_ms: float, rounds: int) -> float:
    """Guess the seconds of `measure_table`: its exports, and parts of half the largest size."""
    shapes = table_shapes(space)
    parts = sum(math.prod(shape) for shape in (*shapes.first, *shapes.rest, shapes.head))
    part_ms = 0.5 * slowest_ms / parts_in(space.largest())
    return 10 + rounds * 3 * (parts * part_ms + CALIBRATION_NETWORKS * 0.5 * slowest_ms) / 1000


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
    """Time whole students, interleaved with the table's reference network.

    Milliseconds are brought to the speed that the machine had when the table was measured, so that
    they compare with the table and its budgets on a machine whose load drifts.
    """
    unit, reference = unit_of(table), "the table's reference network"
    runners = {name: _network_runner(model, unit) for name, model in models.items()}
    runners[reference] = _network_runner(network_graph(table.space, table.space.middle()), unit)
    timings = stopwatch(runners, rounds, seed=seed)
    drift = timings.pop(reference).ms / table.provenance["reference_ms"]
    return {name: Timing(t.ms / drift, t.spread) for name, t in timings.items()}
