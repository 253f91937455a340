"""Ways to pick a student for a budget from one trained supernet: the search, and its controls."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from sklearn.linear_model import RidgeCV

from benchmarks.small_world import SPACE
from supernet.alpha import Alpha
from supernet.choice.programme import BUDGET_USES, Programme, candidates
from supernet.choice.surrogate import RIDGES, Surrogate, encode_architecture
from supernet.choice.trials import try_students
from supernet.space import Architecture

CANDIDATES, TEN, FEW, TRIALS = 16, 10, 3, 16


@dataclass(frozen=True, eq=False)
class Searched:
    """One trained supernet, what it thinks of every student, and alpha."""

    losses: Mapping[Architecture, float]  # with shared weights
    surrogate: Surrogate  # of these losses, fitted to as many students as train.py surveys
    surrogate_of_few: Surrogate  # to half as many
    surrogates: Mapping[int, Surrogate]  # of every supernet, this one among them, by seed
    alpha: Alpha
    separate: Mapping[float, Alpha]  # one for each budget, at the same cost together
    alone: Mapping[float, Alpha]  # one for each budget, each at half the cost
    problem: Programme
    macs: Mapping[Architecture, int]
    brief: Callable[[Architecture], float]  # loss after a brief training from scratch

    def ms(self, architecture: Architecture) -> float:
        """Predicted milliseconds."""
        return self.problem.table.predicted_ms(architecture)

    def feasible(self, target_ms: float) -> list[Architecture]:
        """All students within the budget."""
        return [a for a in self.losses if self.ms(a) <= target_ms]


Pick = Callable[[Searched, float, np.random.Generator], list[Architecture]]
# What the search split says of students trained from scratch; a pick asks only for a few.
Trainings = Mapping[Architecture, float]
PickTrained = Callable[[Searched, Trainings, float, np.random.Generator], list[Architecture]]


def filling(searched: Searched, target_ms: float) -> list[Architecture]:
    """Feasible students that use the budget as candidates do."""
    feasible = searched.feasible(target_ms)
    return next(
        filled
        for fill in BUDGET_USES
        if (filled := [a for a in feasible if searched.ms(a) >= fill * target_ms])
    )


def by_surrogate(searched: Searched, target_ms: float, draws: np.random.Generator) -> list:
    """Without trials: candidates from alpha, ranked by the surrogate."""
    return ranked(searched, searched.alpha, target_ms, draws)


def by_surrogate_of_few(searched: Searched, target_ms: float, draws: np.random.Generator) -> list:
    """The same with a surrogate fitted to half as many students."""
    found = derived(searched, searched.alpha, target_ms, draws)
    return [min(found, key=searched.surrogate_of_few.loss)]


def by_surrogates(searched: Searched, target_ms: float, draws: np.random.Generator) -> list:
    """The same with the mean of all supernets' surrogates."""
    found = derived(searched, searched.alpha, target_ms, draws)
    return [min(found, key=lambda a: sum(own.loss(a) for own in searched.surrogates.values()))]


def by_shared(searched: Searched, target_ms: float, draws: np.random.Generator) -> list:
    """Candidates from alpha, ranked by their own losses with shared weights."""
    found = derived(searched, searched.alpha, target_ms, draws)
    return [min(found, key=lambda a: searched.losses[a])]


def by_separate(searched: Searched, target_ms: float, draws: np.random.Generator) -> list:
    """The search with an alpha for each budget, trained for as many steps together."""
    return ranked(searched, searched.separate[target_ms], target_ms, draws)


def by_alone(searched: Searched, target_ms: float, draws: np.random.Generator) -> list:
    """The search with an alpha for each budget, each trained for half as many steps (FBNet)."""
    return ranked(searched, searched.alone[target_ms], target_ms, draws)


def ranked(
    searched: Searched, alpha: Alpha, target_ms: float, draws: np.random.Generator
) -> list[Architecture]:
    """Best of alpha's candidates by the surrogate."""
    return [min(derived(searched, alpha, target_ms, draws), key=searched.surrogate.loss)]


def derived(
    searched: Searched, alpha: Alpha, target_ms: float, draws: np.random.Generator
) -> list[Architecture]:
    """Alpha's candidates for a budget."""
    with torch.no_grad():
        log_p = alpha(target_ms)
    return candidates(searched.problem, log_p, target_ms, CANDIDATES, draws)


def by_trials(searched: Searched, target_ms: float, _: np.random.Generator) -> list:
    """The search as it is: students that fill the budget are tried; the best of them is taken."""
    draws = np.random.default_rng(0)  # of its own, so that what comes after draws as before
    found = derived(searched, searched.alpha, target_ms, draws)
    first, problem = min(found, key=searched.surrogate.loss), searched.problem
    trials = try_students(
        problem, searched.surrogate, first, target_ms, TRIALS, searched.brief, draws
    )
    return [min(trials.losses, key=trials.losses.__getitem__)]


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


def surrogate_alone(searched: Searched, target_ms: float, _: np.random.Generator) -> list:
    """The surrogate without alpha, solved exactly by the same programme (BINAS)."""
    problem, parts = searched.problem, [len(d.choices) for d in SPACE.decisions()]
    values = zip(SPACE.decisions(), (-searched.surrogate.losses).split(parts), strict=True)
    value = problem.of_existing_layers(problem.value_of({d.name: part for d, part in values}))
    found = problem.solve(value, 0.0, target_ms)
    return [] if found is None else [found]


def every_one_trained(
    searched: Searched, trainings: Trainings, target_ms: float, _: np.random.Generator
) -> list:
    """The yardstick: every feasible student trained once, the best kept."""
    return [max(searched.feasible(target_ms), key=trainings.__getitem__)]


def best_of_few_trained(
    searched: Searched, trainings: Trainings, target_ms: float, draws: np.random.Generator
) -> list:
    """Alpha and surrogate, their first few candidates trained, the best kept."""
    found = sorted(derived(searched, searched.alpha, target_ms, draws), key=searched.surrogate.loss)
    return [max(found[:FEW], key=trainings.__getitem__)]


def random_few_trained(
    searched: Searched, trainings: Trainings, target_ms: float, draws: np.random.Generator
) -> list:
    """As many random students that fill the budget trained, the best kept."""
    filled = filling(searched, target_ms)
    few = draws.choice(len(filled), min(FEW, len(filled)), replace=False)
    return [max((filled[i] for i in few), key=trainings.__getitem__)]


def by_corrected(
    searched: Searched, trainings: Trainings, target_ms: float, draws: np.random.Generator
) -> list:
    """Alpha and surrogate, corrected by the students trained for all other budgets."""
    others = [ms for ms in searched.separate if ms != target_ms]
    done = [a for ms in others for a in usual_pick(searched, ms)]
    expect = corrected(searched.surrogate, {a: trainings[a] for a in done})
    return [max(derived(searched, searched.alpha, target_ms, draws), key=expect)]


@cache
def usual_pick(searched: Searched, target_ms: float) -> list[Architecture]:
    """What the search picks with draws of its own."""
    return by_surrogate(searched, target_ms, np.random.default_rng(0))


def corrected(surrogate: Surrogate, trained: Trainings) -> Callable[[Architecture], float]:
    """Return what accuracy to expect: a line through the surrogate's losses, and a ridge on the
    rest that single choices explain."""
    losses = np.array([surrogate.loss(a) for a in trained])
    found = np.array(list(trained.values()))
    slope, base = np.polyfit(losses, found, 1)
    designs = np.stack([encode_architecture(surrogate.space, a).numpy() for a in trained])
    rest = RidgeCV(RIDGES).fit(designs, found - slope * losses - base)

    def expect(architecture: Architecture) -> float:
        design = encode_architecture(surrogate.space, architecture).numpy()
        own = rest.predict(design[None])[0]
        return float(slope * surrogate.loss(architecture) + base + own)

    return expect


PICKS: Mapping[str, Pick] = {
    f"search: {TRIALS} students tried": by_trials,
    "alpha, then surrogate": by_surrogate,
    "  surrogate of half as many": by_surrogate_of_few,
    "  mean of all supernets' surrogates": by_surrogates,
    "  an alpha for each budget, same cost": by_separate,
    "  an alpha for each budget, five times": by_alone,
    "alpha, then own loss with shared weights": by_shared,
    "surrogate alone, solved exactly (BINAS)": surrogate_alone,
    "shared weights alone, all feasible": shared_alone,
    "shared weights alone, filling": shared_filling,
    "best of ten random by shared weights": best_of_ten,
    "argmax of alpha": argmax_of_alpha,
    "most probable that fills, alpha alone": likeliest,
    "a random feasible student": any_feasible,
    "a random student that fills the budget": any_filling,
    "the largest feasible student (MACs)": largest,
}

PICKS_TRAINED: Mapping[str, PickTrained] = {
    "every feasible student trained once": every_one_trained,
    f"alpha, then surrogate, best of {FEW} trained": best_of_few_trained,
    f"best of {FEW} random trained": random_few_trained,
    "  corrected by trained students": by_corrected,
}
