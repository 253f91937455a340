"""The latency table measured on this machine, and whole students against it."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

from tqdm import tqdm

from export.device import UnitOfWork, machine, unit_of_work
from export.errors import UserError
from export.files import first_difference, read_json
from export.measurement import Measurement, begin, found, measure
from export.onnx_runner import check_provider, onnx_runner
from export.stopwatch import (
    NEAREST_KNOWN,
    Patience,
    Runner,
    Timing,
    rounds,
    timings_beside,
)
from export.torch_runner import check_torch_provider, torch_device_name, torch_runner
from supernet.block_graphs import network_graph, part_graph
from supernet.derive import Programme
from supernet.latency import LatencyTable
from supernet.latency_fit import fit_table
from supernet.parts import Part
from supernet.space import Architecture, SearchSpace
from supernet.student import Student
from supernet.timing_plan import TimingPlan, part_name, timing_plan


def check_unit(unit: UnitOfWork) -> None:
    """Raise `UserError` when nothing here can run the unit of work."""
    if unit.in_torch:
        check_torch_provider(unit.provider)
    else:
        check_provider(unit.provider)


def part_runner(part: Part, unit: UnitOfWork) -> Runner:
    """Return a call that runs a part in the unit of work."""
    if unit.in_torch:
        return torch_runner(part.module, part.shape, unit)
    return onnx_runner(part_graph(part.module, part.size).SerializeToString(), part.shape, unit)


def student_runner(space: SearchSpace, architecture: Architecture, unit: UnitOfWork) -> Runner:
    """Return a call that runs a student with random weights, which cost what trained ones cost."""
    shape = (3, space.resolution, space.resolution)
    if unit.in_torch:
        return torch_runner(Student(space, architecture), shape, unit)
    return onnx_runner(network_graph(space, architecture).SerializeToString(), shape, unit)


def shipped_runner(student: Student, onnx_path: Path, table: LatencyTable) -> Runner:
    """Return a call that runs a finished student as it ships: the ONNX file, or in PyTorch."""
    unit, shape = unit_of(table), (3, table.space.resolution, table.space.resolution)
    if unit.in_torch:
        return torch_runner(student, shape, unit)
    return onnx_runner(onnx_path, shape, unit)


def here(unit: UnitOfWork) -> dict[str, str]:
    """Return the machine and runtime that would run the unit of work now."""
    if not unit.in_torch:
        return machine()
    return {**machine(), "torch": version("torch"), "device": torch_device_name(unit.provider)}


def measure_plan(plan: TimingPlan, unit: UnitOfWork, patience: Patience, path: Path) -> Measurement:
    """Time all of the plan, interleaved, until patience is over; go on from `path` if it is there.

    Raises `UserError` when the measurement there is of something else or of another machine.
    """
    done = found(path, begin(plan.fingerprint(), plan.seed, unit, here(unit)))
    if patience.is_over(done.rounds):
        return done
    runners = {part_name(place): part_runner(part, unit) for place, part in plan.parts.items()}
    runners |= {name: student_runner(plan.space, a, unit) for name, a in plan.networks.items()}
    reference = student_runner(plan.space, plan.reference, unit)
    with tqdm(desc="latency table", unit="round", initial=len(done.rounds)) as bar:
        for latest in measure(runners, reference, done, patience, path):
            bar.set_postfix_str(patience.progress(latest.rounds))
            bar.update()
    if not patience.is_settled(latest.rounds):
        progress = patience.progress(latest.rounds)
        print(f"latency table: {progress}; the machine is busy, more time helps", file=sys.stderr)
    return latest


def obtain_table(
    folder: Path,
    space: SearchSpace,
    unit: UnitOfWork,
    patience: Patience,
    seed: int,
    brought: LatencyTable | None = None,
) -> LatencyTable:
    """Return the table in the run's `folder`; when there is none, the one brought or measured now.

    A measurement that was interrupted is continued. A table of another space, unit of work or
    machine raises `UserError`.
    """
    path = folder / "latency.json"
    if path.exists():
        table = LatencyTable.load(path, space)
        check_table(table, unit, path)
        return table
    if brought is None:
        plan = timing_plan(space, seed)
        table = fit_table(plan, measure_plan(plan, unit, patience, folder / "measurement.json"))
    else:
        table = replace(brought, provenance={**brought.provenance, "brought": True})
    table.save(path)
    return table


def given_table(path: Path, space: SearchSpace) -> LatencyTable:
    """Read a table that the user brings: a run's latency.json, or a device's measurement.json.

    It may come from another machine. Raises `UserError` when it is of another space or damaged.
    """
    if "rounds" in read_json(path):
        measurement = Measurement.load(path)
        table = fit_table(timing_plan(space, measurement.seed), measurement)
    else:
        table = LatencyTable.load(path, space)
    resolution = unit_of(table).resolution
    if resolution != space.resolution:
        raise UserError(
            f"{path}: table of images of {resolution} pixels, expected {space.resolution}; "
            f"measure it for {space.name}"
        )
    return table


def unit_of(table: LatencyTable) -> UnitOfWork:
    """Return the unit of work that the table was measured in; `UserError` when it is damaged."""
    return unit_of_work(table.provenance.get("unit"))


def not_from_here(table: LatencyTable) -> str | None:
    """Name what of the table's machine is not this one's; None when students can be timed here."""
    ours, theirs = here(unit_of(table)), table.provenance["machine"]
    fields = ("cpu", "device", "onnxruntime", "torch")
    return first_difference(
        *({f: m[f] for f in fields if f in m} for m in (theirs, ours)), "machine"
    )


def check_table(table: LatencyTable, unit: UnitOfWork, path: Path) -> None:
    """Raise `UserError` when the table is of another unit of work or of another machine."""
    differs = first_difference(asdict(unit_of(table)), asdict(unit), "unit of work")
    if not table.provenance.get("brought"):
        differs = differs or not_from_here(table)
    if differs:
        raise UserError(
            f"{path}: {differs}; remove the file to measure here, or give it as --latency-table "
            "if it is the device that counts"
        )


def measure_students(
    runners: Mapping[str, Runner],
    predicted_ms: Sequence[float],
    table: LatencyTable,
    patience: Patience,
    seed: int,
) -> dict[str, Timing]:
    """Time whole students beside the table's anchors, interleaved.

    The anchors are networks from the fastest to the slowest whose milliseconds the table knows;
    those about as fast as the students, whose predictions are given, are timed with them. How long
    they take now says how long the students would take at the speed that the machine had when the
    table was measured; other load cancels. Raises `UserError` when the table has no anchors.
    """
    unit, anchors = unit_of(table), _around(_anchors(table), predicted_ms)
    named = {f"anchor/{i}": a for i, a in enumerate(anchors)}
    known_ms = {name: anchors[a] for name, a in named.items()}
    beside = {name: student_runner(table.space, a, unit) for name, a in named.items()}
    reference = student_runner(table.space, table.space.smallest(), unit)
    estimate, done = partial(timings_beside, known_ms=known_ms), []
    for latest in rounds({**runners, **beside}, reference, seed=seed):
        done.append(latest)
        if patience.is_over(done, estimate):
            break
    return estimate(done)


def _around(
    anchors: Mapping[Architecture, float], predicted_ms: Sequence[float]
) -> dict[Architecture, float]:
    """Return the anchors that are nearest to any of the students, by the ratio of their times."""
    near = {
        a
        for ms in predicted_ms
        for a in sorted(anchors, key=lambda a: abs(math.log(anchors[a] / ms)))[:NEAREST_KNOWN]
    }
    return {a: ms for a, ms in anchors.items() if a in near}


def _anchors(table: LatencyTable) -> dict[Architecture, float]:
    try:
        anchors = {
            Architecture.from_json(anchor["architecture"]): float(anchor["ms"])
            for anchor in table.provenance["anchors"]
        }
        if not anchors or min(anchors.values()) <= 0:
            raise ValueError(f"{list(anchors.values())} ms")
        return anchors
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"latency table without whole networks to compare students with ({error}); measure it"
        ) from error


def measure_shipped(
    student: Student,
    onnx_path: Path,
    predicted_ms: float,
    table: LatencyTable,
    patience: Patience,
    seed: int,
) -> Timing:
    """Time a finished student as it ships: the mean of two sessions."""
    once, again = (
        measure_students(
            {"student": shipped_runner(student, onnx_path, table)},
            *([predicted_ms], table, patience, session_seed),
        )["student"]
        for session_seed in (seed, seed + 1)
    )
    return once.with_another(again)


def measure_architectures(
    table: LatencyTable, patience: Patience, seed: int, architectures: Sequence[Architecture]
) -> dict[Architecture, Timing]:
    """Time whole students with random weights, as `measure_students` does."""
    unit = unit_of(table)
    runners = {str(i): student_runner(table.space, a, unit) for i, a in enumerate(architectures)}
    predicted_ms = [table.predicted_ms(a) for a in architectures]
    timings = measure_students(runners, predicted_ms, table, patience, seed)
    return {a: timings[str(i)] for i, a in enumerate(architectures)}


def run_table(folder: Path, space: SearchSpace) -> LatencyTable:
    """Read the table of a run; `UserError` when it is foreign, damaged or of another machine."""
    path = folder / "latency.json"
    table = LatencyTable.load(path, space)
    check_table(table, unit_of(table), path)
    return table


def describe_table(problem: Programme) -> list[tuple[str, str]]:
    """Say which budgets are feasible, of what, and how good the table is."""
    table = problem.table
    fastest_ms, slowest_ms = problem.range_ms()
    device = table.provenance["machine"]
    return [
        ("latency of the space", f"{fastest_ms:.2f} to {slowest_ms:.2f} ms"),
        ("one unit of work", table.unit_of_work()),
        ("measured on", f"{device.get('device', device['cpu'])}, {table.provenance['date']}"),
        ("table's error", describe_check(table)),
    ]


def describe_check(table: LatencyTable) -> str:
    """Say how well the table predicts networks that its fit has not seen."""
    check = table.provenance.get("check", {})
    if "error" not in check:
        return "not known: no networks were left to check it on"
    return (
        f"{check['error']:.1%} (mean) on {check['networks']} networks not seen before, "
        f"rank correlation {check['spearman']:.3f}, repeatability {check['repeatability']:.1%}"
    )
