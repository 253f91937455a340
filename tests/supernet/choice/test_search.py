"""A search for one budget, with trials and without, here and for a device that is elsewhere."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch

from export.timing.stopwatch import Timing
from supernet.alpha import Alpha
from supernet.choice.evidence import Answered
from supernet.choice.pick import Pick
from supernet.choice.programme import Programme, programme
from supernet.choice.search import SearchSettings, Surveyed, search
from supernet.choice.surrogate import Surrogate
from supernet.latency_table import LatencyTable
from supernet.space import Architecture
from tests.tiny import refuse

HOW = SearchSettings(candidates=6, finalists=2, trials=0, seed=0)


@pytest.fixture
def problem(measured: LatencyTable) -> Programme:
    return programme(measured)


@pytest.fixture
def known(problem: Programme) -> Surveyed:
    """Alpha that likes all alike, and a surrogate that likes what comes late."""
    space = problem.table.space
    losses = -torch.arange(sum(len(d.choices) for d in space.decisions()), dtype=torch.float64)
    return Surveyed(Alpha(space, *problem.range_ms(), 2), Surrogate(space, 0.0, losses, 1.0, 9))


def picked(problem: Programme, known: Surveyed, **how: int) -> tuple[Pick, list, list]:
    """Return the pick, what was measured, and what was tried; measured as predicted."""
    timed, tried, asked = [], [], []

    def measure(students: Sequence[Architecture], _: Answered) -> dict[Architecture, Timing]:
        timed.extend(students)
        return {a: Timing(problem.table.predicted_ms(a), 0.001) for a in students}

    def train(architecture: Architecture) -> float:
        tried.append(architecture)
        return float(architecture.head_width)

    def remember(find: Callable[[], float]) -> float:
        asked.append(find())
        return asked[0]

    middle_ms = sum(problem.range_ms()) / 2
    pick = search(problem, known, middle_ms, replace(HOW, **how), measure, train, remember)
    assert pick.predicted_ms == problem.table.predicted_ms(pick.architecture) <= middle_ms
    assert len(asked) == bool(tried and timed)
    return pick, timed, tried


def test_without_trials_the_best_expected_one_is_measured(
    problem: Programme, known: Surveyed
) -> None:
    pick, timed, tried = picked(problem, known)
    assert tried == []
    assert pick.architecture in timed
    best = min(set(timed), key=known.surrogate.loss)
    assert known.surrogate.loss(pick.architecture) >= known.surrogate.loss(best)


def test_with_trials_the_best_of_those_tried_is_taken(problem: Programme, known: Surveyed) -> None:
    pick, timed, tried = picked(problem, known, trials=5)
    assert len(tried) == 5
    assert pick.architecture in timed
    assert pick.architecture in tried
    assert pick.architecture.head_width == min(a.head_width for a in tried)


def test_for_a_device_that_is_elsewhere_nothing_is_measured(
    problem: Programme, known: Surveyed
) -> None:
    machine = problem.table.provenance["machine"] | {"cpu": "Telephone"}
    table = replace(problem.table, provenance={**problem.table.provenance, "machine": machine})
    pick, timed, tried = picked(programme(table), known, trials=5)
    assert (timed, len(tried), pick.measured) == ([], 5, None)
    middle_ms = sum(problem.range_ms()) / 2
    again = search(programme(table), known, middle_ms, HOW, refuse, refuse, refuse)
    assert again.measured is None
