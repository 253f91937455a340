"""Ways to pick a student for a budget from one trained supernet: the search, and its controls."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.shared_search import TRIALS
from benchmarks.small_world import SPACE
from supernet.alpha import Alpha
from supernet.derive import FILLS, Programme, candidates
from supernet.space import Architecture, Choices

CANDIDATES, TEN = 16, 10


@dataclass(frozen=True)
class Searched:
    """One trained supernet, what it thinks of every student, and alpha."""

    losses: Mapping[Architecture, float]  # with shared weights
    trial: Callable[[Architecture], float]  # loss after a trial
    alpha: Alpha
    separate: Mapping[float, Alpha]  # one for each budget, at the same cost together
    alone: Mapping[float, Alpha]  # one for each budget, each at half the cost
    problem: Programme
    macs: Mapping[Architecture, int]

    def ms(self, architecture: Architecture) -> float:
        """Predicted milliseconds."""
        return self.problem.table.predicted_ms(architecture)

    def feasible(self, target_ms: float) -> list[Architecture]:
        """All students within the budget."""
        return [a for a in self.losses if self.ms(a) <= target_ms]


Pick = Callable[[Searched, float, np.random.Generator], list[Architecture]]


def filling(searched: Searched, target_ms: float) -> list[Architecture]:
    """Feasible students that use the budget as candidates do."""
    feasible = searched.feasible(target_ms)
    return next(
        filled
        for fill in FILLS
        if (filled := [a for a in feasible if searched.ms(a) >= fill * target_ms])
    )


def by_trials(searched: Searched, target_ms: float, draws: np.random.Generator) -> list:
    """The search with --trials: the best of them are ranked again after a trial."""
    return tried(searched, derived(searched, searched.alpha, target_ms, draws))


def by_shared(searched: Searched, target_ms: float, draws: np.random.Generator) -> list:
    """The search: candidates from alpha, ranked with shared weights."""
    return ranked(searched, searched.alpha, target_ms, draws)


def trials_of_filling(searched: Searched, target_ms: float, _: np.random.Generator) -> list:
    """Trials without alpha: of the best by shared weights among all that fill the budget."""
    return tried(searched, filling(searched, target_ms))


def trials_of_random(searched: Searched, target_ms: float, draws: np.random.Generator) -> list:
    """Trials of as many random students that fill the budget."""
    full = filling(searched, target_ms)
    drawn = draws.choice(len(full), min(TRIALS, len(full)), replace=False)
    return tried(searched, [full[i] for i in drawn])


def tried(searched: Searched, found: list[Architecture]) -> list[Architecture]:
    """Best by trial among the best by shared weights."""
    best = sorted(found, key=lambda a: searched.losses[a])[:TRIALS]
    return [min(best, key=searched.trial)]


def by_separate(searched: Searched, target_ms: float, draws: np.random.Generator) -> list:
    """The same with an alpha for each budget, trained for as many steps together."""
    return ranked(searched, searched.separate[target_ms], target_ms, draws)


def by_alone(searched: Searched, target_ms: float, draws: np.random.Generator) -> list:
    """The same with an alpha for each budget, each trained for half as many steps (FBNet)."""
    return ranked(searched, searched.alone[target_ms], target_ms, draws)


def ranked(
    searched: Searched, alpha: Alpha, target_ms: float, draws: np.random.Generator
) -> list[Architecture]:
    """Best of alpha's candidates by shared weights."""
    found = derived(searched, alpha, target_ms, draws)
    return [min(found, key=lambda a: searched.losses[a])]


def derived(
    searched: Searched, alpha: Alpha, target_ms: float, draws: np.random.Generator
) -> list[Architecture]:
    """Alpha's candidates for a budget."""
    with torch.no_grad():
        log_p = alpha(target_ms)
    return candidates(searched.problem, log_p, target_ms, CANDIDATES, draws)


def any_feasible(searched: Searched, target_ms: float, _: np.random.Generator) -> list:
    """Every feasible student once: the mean is that of a random one."""
    return searched.feasible(target_ms)


def any_filling(searched: Searched, target_ms: float, _: np.random.Generator) -> list:
    """Every student that fills the budget once."""
    return filling(searched, target_ms)


def largest(searched: Searched, target_ms: float, _: np.random.Generator) -> list:
    """The feasible student of most multiply-accumulates."""
    return [max(searched.feasible(target_ms), key=lambda a: searched.macs[a])]


def best_of_ten(searched: Searched, target_ms: float, draws: np.random.Generator) -> list:
    """The best of ten random feasible students by shared weights."""
    feasible = searched.feasible(target_ms)
    ten = draws.choice(len(feasible), min(TEN, len(feasible)), replace=False)
    return [min((feasible[i] for i in ten), key=lambda a: searched.losses[a])]


def argmax_of_alpha(searched: Searched, target_ms: float, _: np.random.Generator) -> list:
    """The likeliest choice of every decision, whatever the budget."""
    with torch.no_grad():
        log_p = searched.alpha(target_ms)
    return [SPACE.architecture({name: int(p.argmax()) for name, p in log_p.items()})]


def likeliest(searched: Searched, target_ms: float, draws: np.random.Generator) -> list:
    """Alpha alone: the most probable student that fills the budget."""
    with torch.no_grad():
        log_p = searched.alpha(target_ms)
    return candidates(searched.problem, log_p, target_ms, 1, draws)


def shared_alone(searched: Searched, target_ms: float, _: np.random.Generator) -> list:
    """Shared weights alone: the best of all feasible students, without alpha."""
    return [min(searched.feasible(target_ms), key=lambda a: searched.losses[a])]


def shared_filling(searched: Searched, target_ms: float, _: np.random.Generator) -> list:
    """Shared weights alone among the students that fill the budget."""
    return [min(filling(searched, target_ms), key=lambda a: searched.losses[a])]


def surrogate(searched: Searched, target_ms: float, _: np.random.Generator) -> list:
    """A surrogate linear in the choices of existing layers, fitted to all scores, solved exactly.

    BINAS (Nayman et al. 2021, arXiv:2110.12399) fits such a model to a few hundred evaluations.
    """
    value = searched.problem.value_of(surrogate_of(searched))
    found = searched.problem.solve(searched.problem.of_existing_layers(value), 0.0, target_ms)
    return [] if found is None else [found]


def surrogate_of(searched: Searched) -> Choices:
    """Value of every choice by least squares on the shared losses, lower losses being better."""
    designs = np.array([design(a) for a in searched.losses])
    losses = np.array(list(searched.losses.values()))
    weights = np.linalg.lstsq(designs, -(losses - losses.mean()), rcond=None)[0]
    sizes = [len(d.choices) for d in SPACE.decisions()]
    parts = torch.from_numpy(weights).split(sizes)
    return {d.name: part for d, part in zip(SPACE.decisions(), parts, strict=True)}


def design(architecture: Architecture) -> np.ndarray:
    """1 at every choice of the architecture, of its existing layers only."""
    stages = enumerate(architecture.stages, start=1)
    layers = {f"stage{s}.layer{i + 1}" for s, stage in stages for i in range(len(stage.layers))}
    parts = SPACE.one_hot(architecture).items()
    own = [p if ".layer" not in n or n.rpartition(".")[0] in layers else 0 * p for n, p in parts]
    return torch.cat(own).numpy()


PICKS: Mapping[str, Pick] = {
    "search (alpha, then shared weights)": by_shared,
    "search with trials": by_trials,
    "  an alpha for each budget, same cost": by_separate,
    "  an alpha for each budget, five times": by_alone,
    "trials without alpha, of all that fill": trials_of_filling,
    "trials of random ones that fill": trials_of_random,
    "a random feasible student": any_feasible,
    "a random student that fills the budget": any_filling,
    "the largest feasible student (MACs)": largest,
    "best of ten random by shared weights": best_of_ten,
    "argmax of alpha": argmax_of_alpha,
    "most probable that fills, alpha alone": likeliest,
    "shared weights alone, all feasible": shared_alone,
    "shared weights alone, filling": shared_filling,
    "surrogate linear in the choices": surrogate,
}
