"""A few different students of a budget, each trained briefly from scratch, and what is taken then.

The search's own candidates resemble each other, and share what the shared weights misjudge. So each
student to be tried is the best by what may be true (Thompson sampling, 1933): a draw from what is
believed of the choices, solved by the integer programme. What it comes to is learned from.
"""

import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from base.processes import from_main_process
from supernet.choice.belief import FEWEST, Belief, believed_at_first
from supernet.choice.pick import Proposal
from supernet.choice.programme import BUDGET_USES, Programme
from supernet.choice.surrogate import Surrogate
from supernet.latency_table import LatencyTable
from supernet.sampling import fair_sampler
from supernet.space import Architecture

# Draws go this share of the way from what is expected to what may be: of so few students some must
# be better than what is known.
SPREAD = 0.3
# Where a draw gives a student that is known, the next goes further.
LEAST_SPREAD, WIDER, REDRAWS = 0.05, 1.3, 20
RANDOM = 200  # random students, which say how much students differ
OTHERS = 4  # that are proposed beside those that were tried
# Those tried need not use the budget quite as others do, of which nothing but that is known.
TRIED_USE = 0.95
USES = (TRIED_USE, *(use for use in BUDGET_USES if use < TRIED_USE))

Train = Callable[[Architecture], float]


@dataclass(frozen=True, eq=False)
class Trials:
    """Losses of the students that were tried, in their order, and what is believed of others."""

    problem: Programme
    losses: Mapping[Architecture, float]
    belief: Belief

    def loss(self, architecture: Architecture) -> float:
        """Return what a student came to, or, where it was not tried, what it is hardly above.

        Of a few trials nothing is learned, and others are expected to be worse than any.
        """
        if architecture in self.losses:
            return self.losses[architecture]
        mean, deviation = self.belief.loss(architecture)
        return mean + 2 * deviation if len(self.losses) >= FEWEST else math.inf

    def propose(self, budget_ms: float) -> list[Architecture]:
        """Return those tried that are predicted to use a budget best, and a few of all others."""
        predicted = {a: self.problem.table.predicted_ms(a) for a in self.losses}
        within = {a: ms for a, ms in predicted.items() if ms <= budget_ms}
        using = ([a for a, ms in within.items() if ms >= use * budget_ms] for use in USES)
        found = next(filter(None, using), [])
        draws = np.random.default_rng(0)
        for _ in range(OTHERS):
            known = {*self.losses, *found}
            other = next_student(self.problem, self.belief, budget_ms, known, 0.0, draws)
            found += [other] if other else []
        return found


def after_trials(
    problem: Programme,
    surrogate: Surrogate,
    own: Proposal,
    count: int,
    seed: int,
    train: Train,
) -> Proposal:
    """Try students; return a proposal of them in place of the search's `own`."""
    if not (found := own.propose(own.asked_ms)):
        return own
    first, draws = min(found, key=own.expect), np.random.default_rng(seed)
    trials = try_students(problem, surrogate, first, own.asked_ms, count, train, draws)
    return Proposal(trials.propose, own.asked_ms, trials.loss, TRIED_USE)


def try_students(
    problem: Programme,
    surrogate: Surrogate,
    first: Architecture,
    budget_ms: float,
    count: int,
    train: Train,
    draws: np.random.Generator,
) -> Trials:
    """Train `count` students that fill a budget, or as many as there are.

    `train` gives a student's loss on images that it has not learned from. `first` is the search's
    own, the next are the best by draws from what the surrogate makes believe.
    """
    fair = fair_sampler(problem.table, *problem.range_ms()).at(budget_ms)
    at_first = believed_at_first(surrogate, [fair.draw(draws) for _ in range(RANDOM)])
    losses, belief = {first: train(first)}, at_first
    while len(losses) < count:
        spread = SPREAD if len(losses) >= FEWEST else 1.0
        choose = partial(next_student, problem, belief, budget_ms, losses, spread, draws)
        student = from_main_process(choose)  # unlike machines may round otherwise
        if student is None:
            break
        losses[student] = train(student)
        belief = at_first.after(losses)
    return Trials(problem, losses, belief)


def next_student(
    problem: Programme,
    belief: Belief,
    budget_ms: float,
    known: Collection[Architecture],
    spread: float,
    draws: np.random.Generator,
) -> Architecture | None:
    """Return the best student by a draw from `belief` that is not `known`, if one is found."""
    for _ in range(REDRAWS):
        found = best_student(problem, belief.drawn(spread, draws), budget_ms)
        if found not in known:
            return found
        spread = max(WIDER * spread, LEAST_SPREAD)
    return None


def best_student(problem: Programme, losses: np.ndarray, budget_ms: float) -> Architecture | None:
    """Return the student that fills a budget whose choices' losses [P] are least in sum, exactly.

    None where no student is within the budget.
    """
    value = problem.of_existing_layers(-losses)
    solved = (problem.solve(value, fill * budget_ms, budget_ms) for fill in BUDGET_USES)
    return next((student for student in solved if student is not None), None)


def trial_facts(
    table: LatencyTable, scores: Mapping[str, tuple[float, float]], quality: str
) -> list[dict[str, object]]:
    """Say of every student that was tried, by its JSON form, its latency, loss and `quality`."""
    found = []
    for form, (loss, value) in scores.items():
        architecture = Architecture.from_json(json.loads(form))
        ms = table.predicted_ms(architecture)
        # JSON has no infinity, which is what a training comes to that diverged.
        told = {"predicted_ms": ms, "loss": loss if math.isfinite(loss) else None}
        told |= {quality: value}
        found.append({"architecture": architecture.to_json(), **told})
    return found
