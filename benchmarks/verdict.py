"""A picked student against the truth: every feasible student, trained from scratch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import ttest_rel

from supernet.space import Architecture


@dataclass(frozen=True)
class Verdict:
    """What a pick for one budget is worth, in points of test accuracy."""

    regret: float  # behind the best feasible student, by the mean over the truth's seeds
    behind: float  # behind the student that training all of them once finds, on the other seeds
    rank: float  # share of the feasible students that are better
    over: bool  # whether it is over its budget


@dataclass(frozen=True)
class Truth:
    """Accuracies of students on two splits, trained with every seed; the best have more seeds.

    `test` and `search` hold them by seed [S]; the first `seeds` of them every student has.
    """

    test: Mapping[Architecture, np.ndarray]
    search: Mapping[Architecture, np.ndarray]

    @property
    def seeds(self) -> int:
        """How many seeds every student has been trained with."""
        return min(map(len, self.test.values()))

    def worth(self, architecture: Architecture) -> float:
        """Mean test accuracy over the seeds."""
        return float(self.test[architecture].mean())

    def retrained(self, seed: int) -> dict[Architecture, float]:
        """Return what the search split says of every student's training with one seed."""
        return {a: float(own[seed]) for a, own in self.search.items()}

    def judge(
        self,
        picked: Architecture,
        feasible: Sequence[Architecture],
        used: Sequence[int],
        *,
        over: bool,
    ) -> Verdict:
        """Compare a pick with all feasible students.

        The best of many noisy means is flattered by chance, and so is every regret made worse.
        `behind` is not: one seed chooses the best by the search split, the others say what it and
        the pick are worth. `used` are the seeds that may choose: for a pick that has seen the
        trainings of a seed, that one alone.
        """
        worth = np.array([self.worth(a) for a in feasible])
        own = self.worth(picked)
        apart = []
        for seed in used:
            chosen = max(feasible, key=self.retrained(seed).__getitem__)
            apart.append(self._on_others(chosen, seed) - self._on_others(picked, seed))
        regret, behind = worth.max() - own, float(np.mean(apart))
        return Verdict(100 * regret, 100 * behind, float(np.mean(worth > own)), over)

    def _on_others(self, architecture: Architecture, seed: int) -> float:
        return float(np.delete(self.test[architecture], seed).mean())


def summary(verdicts: Mapping[int, Sequence[Verdict]]) -> dict[str, float]:
    """Means over budgets, with their standard deviation over supernets, by seed.

    A pick over its budget counts only as such.
    """
    found: dict[str, float] = {}
    for name in ("regret", "behind", "rank"):
        means = [
            np.mean([getattr(v, name) for v in own if not v.over] or [np.nan])
            for own in verdicts.values()
        ]
        found |= {name: float(np.mean(means)), f"{name}_std": float(np.std(means, ddof=1))}
    return found | {"over": float(np.mean([v.over for own in verdicts.values() for v in own]))}


def ahead(
    a: Mapping[tuple[int, float], float], b: Mapping[tuple[int, float], float]
) -> tuple[float, float]:
    """(mean of b - a, p of a paired t-test) over what both have: how far regret a is below b."""
    places = sorted(a.keys() & b.keys())
    pairs = np.array([(a[place], b[place]) for place in places])
    return float(np.mean(pairs[:, 1] - pairs[:, 0])), float(ttest_rel(*pairs.T).pvalue)
