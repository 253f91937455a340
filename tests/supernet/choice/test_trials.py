"""Who is tried for a budget, and what comes of it, in a space whose students can be enumerated."""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from supernet.choice.belief import FEWEST
from supernet.choice.pick import Proposal
from supernet.choice.programme import BUDGET_USES, Programme, programme
from supernet.choice.surrogate import Surrogate, encode_architecture, fit_surrogate
from supernet.choice.trials import (
    OTHERS,
    TRIED_USE,
    Trials,
    after_trials,
    best_student,
    trial_facts,
    try_students,
)
from supernet.latency_table import LatencyTable
from supernet.space import Architecture, SearchSpace

COUNT = 12


@pytest.fixture(scope="module")
def problem(table: LatencyTable) -> Programme:
    return programme(table)


@pytest.fixture(scope="module")
def budget_ms(problem: Programme) -> float:
    return float(np.sqrt(np.prod(problem.range_ms())))


def additive(space: SearchSpace, seed: int) -> Callable[[Architecture], float]:
    """A loss that is a sum over choices, drawn at random."""
    draws = np.random.default_rng(seed)
    of_choices = draws.normal(size=sum(len(d.choices) for d in space.decisions()))
    return lambda a: float(encode_architecture(space, a).numpy() @ of_choices)


def surrogate_of(
    space: SearchSpace, every: list[Architecture], loss: Callable[[Architecture], float]
) -> Surrogate:
    return fit_surrogate(space, {a: loss(a) for a in every[::5]})


def filling(problem: Programme, every: list[Architecture], budget_ms: float) -> list[Architecture]:
    """All students that fill a budget, by brute force."""
    ms = {a: problem.table.predicted_ms(a) for a in every}
    for fill in BUDGET_USES:
        if found := [a for a, own in ms.items() if fill * budget_ms <= own <= budget_ms]:
            return found
    return []


@pytest.mark.parametrize("seed", range(5))
def test_the_best_student_is_the_brute_force_one(
    problem: Programme, every_architecture: list[Architecture], budget_ms: float, seed: int
) -> None:
    space = problem.table.space
    losses = np.random.default_rng(seed).normal(size=problem.binaries)

    def loss(architecture: Architecture) -> float:
        return float(encode_architecture(space, architecture).numpy() @ losses)

    found = best_student(problem, losses, budget_ms)
    least = min(map(loss, filling(problem, every_architecture, budget_ms)))
    assert loss(found) == pytest.approx(least)
    assert best_student(problem, losses, 0.9 * problem.range_ms()[0]) is None


def tried(
    problem: Programme,
    surrogate: Surrogate,
    loss: Callable[[Architecture], float],
    first: Architecture,
    budget_ms: float,
    seed: int = 0,
    count: int = COUNT,
) -> Trials:
    draws = np.random.default_rng(seed)
    return try_students(problem, surrogate, first, budget_ms, count, loss, draws)


@pytest.fixture(scope="module")
def wrong(problem: Programme, every_architecture: list[Architecture]) -> Surrogate:
    """What shared weights tell: the opposite of the truth."""
    space, loss = problem.table.space, additive(problem.table.space, 7)
    return surrogate_of(space, every_architecture, lambda a: -loss(a))


def test_different_students_that_fill_the_budget_are_each_trained_once(
    problem: Programme, wrong: Surrogate, every_architecture: list[Architecture], budget_ms: float
) -> None:
    possible, trained = filling(problem, every_architecture, budget_ms), []

    def train(architecture: Architecture) -> float:
        trained.append(architecture)
        return additive(problem.table.space, 7)(architecture)

    first = possible[0]
    trials = tried(problem, wrong, train, first, budget_ms)
    assert trained[0] == first
    assert list(trials.losses) == trained
    assert len(set(trained)) == len(trained) == COUNT
    assert set(trained) <= set(possible)
    again = tried(problem, wrong, additive(problem.table.space, 7), first, budget_ms)
    assert again.losses == trials.losses


def test_trials_find_what_a_surrogate_that_knows_nothing_does_not(
    problem: Programme, every_architecture: list[Architecture], budget_ms: float
) -> None:
    """Of all that fill the budget, the best of those tried is among the first, on average."""
    space = problem.table.space
    possible = filling(problem, every_architecture, budget_ms)
    ranks, random = [], []
    for seed in range(8):
        loss = additive(space, seed)
        surrogate = surrogate_of(space, every_architecture, additive(space, 100 + seed))
        first = min(possible, key=surrogate.loss)
        trials = tried(problem, surrogate, loss, first, budget_ms, seed)
        losses = np.array([loss(a) for a in possible])
        ranks.append(np.mean(losses < min(trials.losses.values())))
        draws = np.random.default_rng(seed)
        by_chance = [draws.choice(losses, COUNT, replace=False).min() for _ in range(100)]
        random.append(np.mean([np.mean(losses < own) for own in by_chance]))
    assert np.mean(ranks) < 0.5 * np.mean(random)


def test_a_space_of_few_students_is_no_endless_search(
    problem: Programme, wrong: Surrogate, every_architecture: list[Architecture]
) -> None:
    """Nothing but the fastest student is within the budget."""
    fastest_ms = problem.range_ms()[0]
    (only,) = filling(problem, every_architecture, 1.0001 * fastest_ms)
    trials = tried(problem, wrong, additive(problem.table.space, 7), only, 1.0001 * fastest_ms)
    assert list(trials.losses) == [only]
    assert trials.propose(1.0001 * fastest_ms) == [only]


@pytest.mark.parametrize("share", [1.02, 1.04, 1.06, 1.1, 1.2])
def test_where_no_student_fills_the_budget_the_fullest_are_proposed(
    problem: Programme, wrong: Surrogate, every_architecture: list[Architecture], share: float
) -> None:
    """Just above the fastest there are few, and far apart."""
    budget_ms = share * problem.range_ms()[0]
    first = filling(problem, every_architecture, budget_ms)[0]
    trials = tried(problem, wrong, additive(problem.table.space, 7), first, budget_ms)
    assert set(trials.propose(budget_ms)) & set(trials.losses)


def test_of_a_few_trials_nothing_is_believed_of_others(
    problem: Programme, wrong: Surrogate, every_architecture: list[Architecture], budget_ms: float
) -> None:
    first = filling(problem, every_architecture, budget_ms)[0]
    loss = additive(problem.table.space, 7)
    trials = tried(problem, wrong, loss, first, budget_ms, count=FEWEST - 1)
    found = trials.propose(budget_ms)
    assert len(found) > len(trials.losses) == FEWEST - 1
    assert min(found, key=trials.loss) in trials.losses
    assert max(map(trials.loss, trials.losses)) < min(map(trials.loss, found[FEWEST - 1 :]))


def test_what_is_proposed_after_trials_replaces_the_searchs_own(
    problem: Programme, wrong: Surrogate, every_architecture: list[Architecture], budget_ms: float
) -> None:
    """Where the search proposes nobody, there is nothing to try."""
    possible, loss = filling(problem, every_architecture, budget_ms), additive(wrong.space, 7)
    own = Proposal(lambda _: possible[:3], budget_ms, lambda a: -possible.index(a))
    trained: list[Architecture] = []

    def train(architecture: Architecture) -> float:
        trained.append(architecture)
        return loss(architecture)

    found = after_trials(problem, wrong, own, 6, 0, train)
    assert trained[0] == possible[2]
    assert (found.asked_ms, found.least_use) == (budget_ms, TRIED_USE)
    assert set(trained) <= set(found.propose(budget_ms))
    assert found.expect(trained[1]) == loss(trained[1])
    nobody = replace(own, propose=lambda _: [])
    assert after_trials(problem, wrong, nobody, 6, 0, train) is nobody
    assert len(trained) == 6


def test_those_tried_are_proposed_with_a_few_others(
    problem: Programme, wrong: Surrogate, every_architecture: list[Architecture], budget_ms: float
) -> None:
    loss = additive(problem.table.space, 7)
    first = filling(problem, every_architecture, budget_ms)[0]
    trials = tried(problem, wrong, loss, first, budget_ms)
    found = trials.propose(budget_ms)
    assert found[:-OTHERS] == list(trials.losses)
    assert len(set(found)) == len(found) == COUNT + OTHERS
    assert all(trials.loss(a) == loss(a) for a in trials.losses)
    # Of the others more is known than nothing, but none is preferred to the best that was tried.
    others = [trials.loss(other) for other in found[-OTHERS:]]
    assert np.isfinite(others).all()
    assert min(trials.losses.values()) < min(others)
    # For less, only those that the table predicts to be within it, and to use it.
    less = trials.propose(0.99 * budget_ms)
    ms = [problem.table.predicted_ms(a) for a in less]
    assert all(own <= 0.99 * budget_ms for own in ms)
    assert all(TRIED_USE * 0.99 * budget_ms <= own for own in ms[:-OTHERS])


def test_facts_tell_what_was_tried(table: LatencyTable, space: SearchSpace) -> None:
    student = space.middle()
    form = json.dumps(student.to_json())
    (fact,) = trial_facts(table, {form: (1.5, 0.25)}, "accuracy")
    assert Architecture.from_json(fact["architecture"]) == student
    assert fact["predicted_ms"] == table.predicted_ms(student)
    assert (fact["loss"], fact["accuracy"]) == (1.5, 0.25)
