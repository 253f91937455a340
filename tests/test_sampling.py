"""Fair sampling against the exact distribution by enumeration."""

from collections import Counter

import numpy as np
import pytest

from supernet.latency import LatencyTable
from supernet.sampling import draw, fair_sampler, log_uniform, mean_ms
from supernet.space import Architecture


def exact(table: LatencyTable, beta: float) -> dict[Architecture, float]:
    """P(a) ∝ share of all assignments that mean a · exp(-beta ms(a)), by enumeration."""
    decisions = table.space.decisions()
    weights: Counter[Architecture] = Counter()
    for picked in np.ndindex(*(len(d.choices) for d in decisions)):
        named = {d.name: i for d, i in zip(decisions, picked, strict=True)}
        architecture = table.space.architecture(named)
        weights[architecture] += np.exp(-beta * table.predicted_ms(architecture))
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
    drawn = Counter(draw(table, beta, random) for _ in range(count))
    for architecture, p in exact(table, beta).items():
        assert abs(drawn[architecture] / count - p) < 5 * (p * (1 - p) / count) ** 0.5 + 1e-4


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
