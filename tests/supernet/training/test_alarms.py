"""Every alarm is provoked alone, and a healthy search raises none."""

import math

import pytest
import torch

from supernet.alpha import Alpha
from supernet.space import SearchSpace
from supernet.training.alarms import alarms

STEPS = range(0, 100, 10)


@pytest.fixture
def alpha(space: SearchSpace) -> Alpha:
    """One that has decided: every decision for its last choice, the deepest among them."""
    alpha = Alpha(space, 1.0, 8.0, 3)
    last, start = [], 0
    for decision in alpha.decisions:
        start += len(decision.choices)
        last.append(start - 1)
    with torch.no_grad():
        alpha.logits[:, last] = 4.0
    return alpha


def healthy() -> list[dict]:
    """Losses that fall together, and a multiplier of the losses' size."""
    w = [
        {"phase": "w", "step": s, "fast": 2.0 - s / 100, "fair": 1.5 - s / 100, "slow": 1.0}
        for s in STEPS
    ]
    steps = [{"phase": "alpha", "step": s, "search_loss": 0.7, "lambda": 0.5} for s in STEPS]
    return [{"phase": "teacher", "step": 5, "loss": 1.0}, *w, *steps]


def changed(phase: str, **numbers: float) -> list[dict]:
    return [line | numbers if line["phase"] == phase else line for line in healthy()]


def test_a_healthy_search_raises_none(alpha: Alpha) -> None:
    assert alarms(alpha, healthy()) == []


def test_uniform_alpha(space: SearchSpace) -> None:
    (line,) = alarms(Alpha(space, 1.0, 8.0, 3), healthy())
    assert line.startswith("alpha is nearly uniform at the end (entropy 100% of the most)")
    assert "--alpha-steps" in line


def test_depth_collapsed_for_the_slowest_budget(alpha: Alpha) -> None:
    start = 0
    with torch.no_grad():
        for decision in alpha.decisions:
            if decision.name.endswith(".depth"):
                alpha.logits[-1, start : start + len(decision.choices)] = torch.tensor([4.0, 0.0])
            start += len(decision.choices)
    (line,) = alarms(alpha, healthy())
    assert "even for 8 ms" in line
    assert f"probability {1 / (1 + math.exp(-4)):.0%} and more" in line


def test_least_depth_for_fast_budgets_is_no_collapse(alpha: Alpha) -> None:
    start = 0
    with torch.no_grad():
        for decision in alpha.decisions:
            if decision.name.endswith(".depth"):
                alpha.logits[0, start : start + len(decision.choices)] = torch.tensor([9.0, 0.0])
            start += len(decision.choices)
    assert alarms(alpha, healthy()) == []


def test_a_multiplier_that_ran_away(alpha: Alpha) -> None:
    (line,) = alarms(alpha, changed("alpha", **{"lambda": 70.0}))
    assert "ended at 70, 100 times the loss" in line


def test_fast_students_that_do_not_learn(alpha: Alpha) -> None:
    (line,) = alarms(alpha, changed("w", fast=2.0))
    assert "does not fall (2 at first, 2 at the end)" in line


def test_search_and_train_loss_apart(alpha: Alpha) -> None:
    (line,) = alarms(alpha, changed("w", fair=0.1))
    assert line.startswith("loss 0.7 on the search split, 0.1 on the train split")


def test_an_interrupted_beginning_does_not_count(alpha: Alpha) -> None:
    """The lines of a run that was stopped would make fast students' loss look risen."""
    stopped = [line | {"fast": 0.01} for line in healthy() if line["phase"] == "w"][:4]
    assert alarms(alpha, [*stopped, *healthy()]) == []
