"""The search for one budget: derive, try, measure, pick."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from supernet.alpha import Alpha
from supernet.choice.pick import (
    Measure,
    Pick,
    alphas_proposal,
    budget_asked,
    budget_calibrated,
    budget_predicted,
    pick_measured,
    pick_predicted,
)
from supernet.choice.programme import Programme
from supernet.choice.surrogate import Surrogate
from supernet.choice.trials import Train, after_trials
from supernet.latency.measurement import machine_difference


@dataclass(frozen=True)
class SearchSettings:
    """How many students are derived, measured at once, and tried; with which draws."""

    candidates: int
    finalists: int
    trials: int
    seed: int


@dataclass(frozen=True)
class Surveyed:
    """What the shared weights tell of a space: alpha, and the surrogate of their losses."""

    alpha: Alpha
    surrogate: Surrogate


def search(
    problem: Programme,
    known: Surveyed,
    target_ms: float,
    how: SearchSettings,
    measure: Measure,
    train: Train,
    remember: Callable[[Callable[[], float]], float],
) -> Pick:
    """Return the architecture for a budget: tried, and measured whole where it can be.

    What is tried first is the candidate of alpha that the surrogate likes best. `measure` is used
    where students of the table can be timed here; `train` gives a student's loss, and `remember`
    the milliseconds to ask for, found once for a search that may be interrupted.
    """
    is_here = machine_difference(problem.table) is None
    surrogate = known.surrogate
    with torch.no_grad():
        drawn = (known.alpha(target_ms), how.candidates, how.seed)
    own = partial(alphas_proposal, problem, *drawn, surrogate.loss)
    asked_ms = (budget_asked if is_here else budget_predicted)(problem, target_ms)
    if how.trials and is_here:
        calibrated = (problem, own(asked_ms), target_ms, how.finalists, measure)
        asked_ms = remember(partial(budget_calibrated, *calibrated))
    proposal = own(asked_ms)
    if how.trials:
        tried = (how.trials, how.seed, train)
        proposal = after_trials(problem, surrogate, proposal, *tried)
    if is_here:
        return pick_measured(problem, proposal, target_ms, how.finalists, measure)
    return pick_predicted(problem, proposal, target_ms)
