"""The integer programme against brute force over every architecture."""

import numpy as np
import pytest
import torch

from base.errors import UserError
from supernet.alpha import Alpha
from supernet.choice.programme import candidates, check_budget, programme
from supernet.latency_table import LatencyTable
from supernet.space import Architecture, Choices, SearchSpace
from tests.tiny import enumerate_students


@pytest.fixture
def log_p(space: SearchSpace) -> Choices:
    alpha = Alpha(space, 1.0, 10.0, 2)
    torch.nn.init.normal_(alpha.logits, std=2, generator=torch.Generator().manual_seed(1))
    return {name: lp.detach() for name, lp in alpha(3.0).items()}


def best_by_hand(
    table: LatencyTable, log_p: Choices, least_ms: float, most_ms: float
) -> Architecture:
    """The most probable architecture by what it decides, of those within the bounds."""
    at = {d.name: {c: i for i, c in enumerate(d.choices)} for d in table.space.decisions()}

    def log_probability(a: Architecture) -> float:
        return sum(float(log_p[n][at[n][c]]) for n, c in table.space.decided(a).items())

    every = enumerate_students(table.space)
    return max(
        (a for a in every if least_ms <= table.predicted_ms(a) <= most_ms), key=log_probability
    )


def test_solution_is_the_brute_force_one(table: LatencyTable, log_p: Choices) -> None:
    problem = programme(table)
    fastest_ms, slowest_ms = problem.range_ms()
    for share in (0.02, 0.2, 0.4, 0.6, 0.8, 1.0):
        most_ms = fastest_ms + share * (slowest_ms - fastest_ms)
        for least_ms in (0.0, 0.9 * most_ms):
            expected = best_by_hand(table, log_p, least_ms, most_ms)
            value = problem.of_existing_layers(problem.value_of(log_p))
            assert problem.solve(value, least_ms, most_ms) == expected


def test_range_is_that_of_all_architectures(
    table: LatencyTable, every_architecture: list[Architecture]
) -> None:
    ms = [table.predicted_ms(a) for a in every_architecture]
    assert programme(table).range_ms() == pytest.approx((min(ms), max(ms)), rel=1e-12)


def test_infeasible_budget_has_no_solution(table: LatencyTable, log_p: Choices) -> None:
    problem = programme(table)
    too_fast = 0.99 * problem.range_ms()[0]
    assert problem.solve(problem.value_of(log_p), 0.0, too_fast) is None
    assert candidates(problem, log_p, too_fast, 4, np.random.default_rng(0)) == []


def test_candidates_are_distinct_within_budget_and_fill_it(
    table: LatencyTable, log_p: Choices, random: np.random.Generator
) -> None:
    problem = programme(table)
    fastest_ms, slowest_ms = problem.range_ms()
    for budget_ms in np.geomspace(1.2 * fastest_ms, 0.95 * slowest_ms, 4):
        found = candidates(problem, log_p, budget_ms, 6, random)
        assert len(found) == len(set(found)) >= 1
        for architecture in found:
            assert 0.8 * budget_ms <= table.predicted_ms(architecture) <= budget_ms
    assert found[0] == best_by_hand(table, log_p, 0.985 * budget_ms, budget_ms)


def test_generous_budget_gives_the_most_probable_of_all(
    table: LatencyTable, log_p: Choices
) -> None:
    problem = programme(table)
    expected = best_by_hand(table, log_p, 0.0, np.inf)
    assert problem.solve(problem.of_existing_layers(problem.value_of(log_p))) == expected


def test_budget_is_checked_against_the_range(table: LatencyTable) -> None:
    problem = programme(table)
    fastest_ms, slowest_ms = problem.range_ms()
    assert not check_budget(problem, fastest_ms)
    assert not check_budget(problem, slowest_ms)
    assert check_budget(problem, 1.01 * slowest_ms)
    feasible = f"{fastest_ms:.2f} to {slowest_ms:.2f} ms for a one made-up unit"
    with pytest.raises(UserError, match=feasible):
        check_budget(problem, 0.99 * fastest_ms)
    for impossible in (0.0, -3.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="above 0"):
            check_budget(problem, impossible)
