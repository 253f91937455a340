"""Time whole students, beside networks whose milliseconds are known."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import nn

from base.errors import UserError
from export.runtimes.runtime import check_unit
from export.timing.rough import quick_ms
from export.timing.statistic import PlainStatistic
from export.timing.stopwatch import (
    NEAREST_KNOWN,
    Enough,
    Patience,
    PlainRuns,
    Runner,
    Timing,
    never,
    plain_runs,
    time_beside,
)
from supernet.latency.runners import (
    file_runner,
    module_runner,
    student_runner,
    unit_of_table,
)
from supernet.latency_table import LatencyTable
from supernet.space import Architecture
from supernet.student import Student

STUDENT, PLAIN_SECONDS = "student", 3.0
SLOWED = 3  # networks that tell how slow plain runs are


def measure_students(
    runners: Mapping[str, Runner],
    predicted_ms: Sequence[float],
    table: LatencyTable,
    patience: Patience,
    seed: int,
    enough: Enough = never,
) -> dict[str, Timing]:
    """Time whole students beside the table's anchors, interleaved, until it is over or `enough`.

    The anchors are networks from the fastest to the slowest whose milliseconds the table knows;
    those about as fast as the students, whose predictions are given, are timed with them. How long
    they take now says how long the students would take at the speed that the machine had when the
    table was measured; other load cancels. Raises `UserError` when the table has no anchors.
    """
    unit, anchors = unit_of_table(table), _around(_anchors(table), predicted_ms)
    check_unit(unit)
    named = {f"anchor/{i}": a for i, a in enumerate(anchors)}
    known_ms = {name: anchors[a] for name, a in named.items()}
    beside = {name: student_runner(table.space, a, unit) for name, a in named.items()}
    reference = student_runner(table.space, table.space.smallest(), unit)
    return time_beside(runners, beside, known_ms, reference, patience, seed, enough)


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
    enough: Callable[[Timing], bool],
) -> Timing:
    """Time a finished student as it ships: the mean of two sessions, each until it is `enough`."""
    once, again = (
        measure_students(
            {STUDENT: file_runner(student, onnx_path, table)},
            [predicted_ms],
            table,
            patience,
            session_seed,
            lambda found: enough(found[STUDENT]),
        )[STUDENT]
        for session_seed in (seed, seed + 1)
    )
    return once.with_another(again)


def plain_runs_shipped(student: Student, onnx_path: Path, table: LatencyTable) -> PlainRuns:
    """Run a finished student as it ships, one run after the other, as whoever deploys it does."""
    return plain_runs(file_runner(student, onnx_path, table), PLAIN_SECONDS)


def slowdown(table: LatencyTable, target_ms: float, statistic: PlainStatistic) -> float:
    """Return how many times its undisturbed time a plain run takes now, by a statistic of runs.

    Networks of known milliseconds that are near the target are run; the most slowed one counts.
    """
    unit, anchors = unit_of_table(table), _anchors(table)
    check_unit(unit)
    near = sorted(anchors, key=lambda a: abs(math.log(anchors[a] / target_ms)))[:SLOWED]
    runners = {a: student_runner(table.space, a, unit) for a in near}
    return max(
        plain_runs(runner, PLAIN_SECONDS).ms(statistic) / anchors[a]
        for a, runner in runners.items()
    )


def module_runners(modules: Mapping[str, nn.Module], table: LatencyTable) -> dict[str, Runner]:
    """Return calls that run networks of the students' images in the table's unit of work.

    Raises `UserError`, with the network's name, for one that nothing here can run.
    """
    unit, runners = unit_of_table(table), {}
    for name, module in modules.items():
        try:
            runners[name] = module_runner(module, unit)
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
    return runners


def measure_beside(
    architecture: Architecture,
    table: LatencyTable,
    seed: int,
    patience: Patience,
    modules: Mapping[str, nn.Module],
) -> dict[str, float]:
    """Return the milliseconds of any networks, timed together with one student."""
    runners = module_runners(modules, table)
    about_ms = [quick_ms(runner) for runner in runners.values()]
    student = student_runner(table.space, architecture, unit_of_table(table))
    known_ms = [*about_ms, table.predicted_ms(architecture)]
    timings = measure_students({**runners, STUDENT: student}, known_ms, table, patience, seed)
    return {name: timing.ms for name, timing in timings.items()}


def measure_architectures(
    table: LatencyTable,
    patience: Patience,
    seed: int,
    architectures: Sequence[Architecture],
    enough: Callable[[Mapping[Architecture, Timing]], bool] = never,
) -> dict[Architecture, Timing]:
    """Time whole students with random weights, as `measure_students` does."""
    unit = unit_of_table(table)
    runners = {str(i): student_runner(table.space, a, unit) for i, a in enumerate(architectures)}
    predicted_ms = [table.predicted_ms(a) for a in architectures]

    def by_architecture(timings: Mapping[str, Timing]) -> dict[Architecture, Timing]:
        return {a: timings[str(i)] for i, a in enumerate(architectures)}

    own = (runners, predicted_ms, table, patience, seed)
    return by_architecture(measure_students(*own, lambda found: enough(by_architecture(found))))
