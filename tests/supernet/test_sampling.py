"""Fair sampling against the exact distribution by enumeration."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kstest

from base.errors import UserError
from supernet.latency_table import LatencyTable
from supernet.sampling import (
    SAME_LATENCY,
    FairSampler,
    fair_sampler,
    fair_students,
    log_uniform,
    log_uniform_each,
    mean_ms,
    random_as_fast,
    tilted_distribution,
)
from supernet.space import Architecture
from tests.tiny import enumerate_students, fused, mbconv, tiny_space, tiny_table


@pytest.fixture(scope="module")
def every_architecture(table: LatencyTable) -> list[Architecture]:
    return enumerate_students(table.space)


@pytest.fixture(scope="module")
def table() -> LatencyTable:
    """Few enough students to count how often each is drawn."""
    space = tiny_space()
    second = replace(
        space.stages[1], operations=(mbconv((3,), (1, 3), (False,)), fused((3,), (2,), (False,)))
    )
    stages = (space.stages[0], second)
    return tiny_table(replace(space, stem_widths=(4,), head_widths=(8,), stages=stages))


def exact(table: LatencyTable, beta: float) -> dict[Architecture, float]:
    """P(a) ∝ Π 1 / choices of what a decides · exp(-beta ms(a)), by enumeration."""
    sizes = {d.name: len(d.choices) for d in table.space.decisions()}
    weights = {
        a: np.exp(-beta * table.predicted_ms(a))
        / math.prod(sizes[name] for name in table.space.decided(a))
        for a in enumerate_students(table.space)
    }
    total = sum(weights.values())
    return {architecture: weight / total for architecture, weight in weights.items()}


@pytest.mark.parametrize("beta", [-2.0, 0.0, 1.5])
def test_mean_latency_is_exact(table: LatencyTable, beta: float) -> None:
    by_hand = sum(p * table.predicted_ms(a) for a, p in exact(table, beta).items())
    assert mean_ms(table, beta) == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("beta", [0.0, 1.5])
def test_draws_follow_the_distribution(
    table: LatencyTable, beta: float, random: np.random.Generator
) -> None:
    count = 6000
    drawn = Counter(tilted_distribution(table, beta).draw(random) for _ in range(count))
    every = exact(table, beta)
    often = {a: p for a, p in every.items() if p * count >= 5}
    assert len(often) > 30
    for architecture, p in often.items():
        assert abs(drawn[architecture] / count - p) < 5 * (p * (1 - p) / count) ** 0.5 + 1e-4
    # Those too rare to be counted singly are counted together.
    p, rarely = 1 - sum(often.values()), count - sum(drawn[a] for a in often)
    assert abs(rarely / count - p) < 5 * (p * (1 - p) / count) ** 0.5 + 1e-4
    assert drawn.keys() <= every.keys()


def test_sampler_hits_its_target_in_the_mean(
    table: LatencyTable, every_architecture: list[Architecture], random: np.random.Generator
) -> None:
    ms = [table.predicted_ms(a) for a in every_architecture]
    sampler = fair_sampler(table, min(ms), max(ms))
    for target_ms in np.geomspace(min(ms) * 1.1, max(ms) * 0.9, 4):
        drawn = [table.predicted_ms(sampler.near(target_ms, random)) for _ in range(800)]
        assert np.mean(drawn) == pytest.approx(target_ms, rel=0.03)


def test_budgets_are_log_uniform(random: np.random.Generator) -> None:
    budgets = np.array([log_uniform((2.0, 32.0), random) for _ in range(4000)])
    assert budgets.min() >= 2
    assert budgets.max() <= 32
    assert np.mean(budgets < 8) == pytest.approx(0.5, abs=0.04)


def test_one_budget_lies_in_each_part_of_the_range(random: np.random.Generator) -> None:
    drawn = np.array([log_uniform_each((2.0, 32.0), 4, random) for _ in range(1000)])
    for part, (low, high) in zip(drawn.T, [(2, 4), (4, 8), (8, 16), (16, 32)], strict=True):
        assert low <= part.min() < part.max() <= high
        assert kstest(np.log(part / low) / np.log(2), "uniform").pvalue > 1e-3


@pytest.fixture
def by_ms(table: LatencyTable, every_architecture: list[Architecture]) -> list[Architecture]:
    """All students, the fastest first."""
    return sorted(every_architecture, key=table.predicted_ms)


@pytest.fixture
def sampler(table: LatencyTable, by_ms: list[Architecture]) -> FairSampler:
    return fair_sampler(table, table.predicted_ms(by_ms[0]), table.predicted_ms(by_ms[-1]))


def test_random_students_as_fast_are_all_of_them_and_no_other(
    table: LatencyTable,
    sampler: FairSampler,
    by_ms: list[Architecture],
    random: np.random.Generator,
) -> None:
    given = by_ms[len(by_ms) // 2]
    most_ms = table.predicted_ms(given)
    as_fast = {
        a for a in by_ms if (1 - SAME_LATENCY) * most_ms <= table.predicted_ms(a) <= most_ms
    } - {given}
    assert 2 <= len(as_fast) < len(by_ms) / 4
    drawn = {random_as_fast(sampler, most_ms, given, random) for _ in range(25 * len(as_fast))}
    assert drawn == as_fast


def test_fair_students_differ_and_small_spaces_run_out(
    sampler: FairSampler, by_ms: list[Architecture], random: np.random.Generator
) -> None:
    again = np.random.default_rng(0)
    drawn = fair_students(sampler, 30, random)
    assert len(drawn) == len(set(drawn)) == 30
    assert drawn == fair_students(sampler, 30, again)
    most = fair_students(sampler, 2 * len(by_ms), random)
    assert len(set(most)) == len(most)
    assert set(most) <= set(by_ms)
    assert 0.5 * len(by_ms) < len(most)


def test_where_none_is_as_fast_the_nearest_below_is_taken(
    table: LatencyTable,
    sampler: FairSampler,
    by_ms: list[Architecture],
    random: np.random.Generator,
) -> None:
    ms = [table.predicted_ms(a) for a in by_ms]
    alone = next(i for i in range(1, len(ms)) if ms[i - 1] < (1 - SAME_LATENCY) * ms[i])
    assert random_as_fast(sampler, ms[alone], by_ms[alone], random) == by_ms[alone - 1]
    with pytest.raises(UserError, match="no other student"):
        random_as_fast(sampler, ms[0], by_ms[0], random)
