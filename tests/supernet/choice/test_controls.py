"""Students as fast that nobody searched, against all students of a space by brute force."""

from dataclasses import replace

import numpy as np
import pytest

from supernet.choice.controls import (
    LARGEST,
    RANDOM,
    UNGATED,
    has_choice_of_gates,
    most_macs,
    students_as_fast,
    without_gates,
)
from supernet.choice.programme import Programme, programme
from supernet.latency.parts import parts
from supernet.latency_table import LatencyTable, places
from supernet.space import Architecture, SearchSpace
from supernet.student import parameters_and_macs


@pytest.fixture(scope="module")
def problem(table: LatencyTable) -> Programme:
    return programme(table)


@pytest.fixture(scope="module")
def by_ms(table: LatencyTable, every_architecture: list[Architecture]) -> list[Architecture]:
    return sorted(every_architecture, key=table.predicted_ms)


def gates(architecture: Architecture) -> int:
    return sum(layer.squeeze_excite for stage in architecture.stages for layer in stage.layers)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 1.0])
def test_most_macs_are_those_of_brute_force(
    problem: Programme, by_ms: list[Architecture], share: float
) -> None:
    at = round(share * (len(by_ms) - 1))
    within, most_ms = by_ms[: at + 1], problem.table.predicted_ms(by_ms[at])
    found, space = most_macs(problem, most_ms + 1e-9), problem.table.space
    own = {place: part.costs.macs for place, part in parts(space).items()}
    macs = {a: sum(own[place] for place in places(space, a)) for a in within}
    for architecture in within[:: max(1, at // 20)]:
        assert macs[architecture] == parameters_and_macs(space, architecture)[1]
    assert macs[found] == max(macs.values())


def test_a_table_without_gates_has_the_others_milliseconds(
    table: LatencyTable, by_ms: list[Architecture]
) -> None:
    ungated = without_gates(table)
    same = [a for a in by_ms if not gates(a)]
    assert same
    for architecture in same[::7]:
        assert ungated.predicted_ms(architecture) == table.predicted_ms(architecture)
    assert ungated.space.size() == len(same)


def test_students_as_fast_are_no_slower_and_others(
    problem: Programme, by_ms: list[Architecture]
) -> None:
    own = by_ms[len(by_ms) // 2]
    most_ms = problem.table.predicted_ms(own)
    found = students_as_fast(problem, own, np.random.default_rng(0))
    assert found.keys() == {RANDOM, UNGATED, LARGEST}
    assert all(problem.table.predicted_ms(a) <= most_ms + 1e-9 for a in found.values())
    assert own not in found.values()
    assert gates(found[UNGATED]) == 0


def test_what_is_the_students_own_is_left_out(
    problem: Programme, by_ms: list[Architecture]
) -> None:
    own = most_macs(problem, problem.table.predicted_ms(by_ms[len(by_ms) // 2]))
    assert LARGEST not in students_as_fast(problem, own, np.random.default_rng(0))


def test_a_space_without_gates_or_with_gates_alone_leaves_no_choice(space: SearchSpace) -> None:
    assert has_choice_of_gates(space)
    for gated in ((False,), (True,)):
        stages = tuple(
            replace(
                stage, operations=tuple(replace(o, squeeze_excite=gated) for o in stage.operations)
            )
            for stage in space.stages
        )
        assert not has_choice_of_gates(replace(space, stages=stages))
