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
    behind: float  # behind the best that training all of them once finds, on the other seeds
    rank: float  # share of the feasible students that are better
    over: bool  # whether it is over its budget


@dataclass(frozen=True)
class Truth:
    """Test accuracies of students, each trained with every seed."""

    accuracies: Mapping[Architecture, np.ndarray]  # [S]

    def worth(self, architecture: Architecture) -> float:
        """Mean accuracy over the seeds."""
        return float(self.accuracies[architecture].mean())

    def judge(
        self, picked: Architecture, feasible: Sequence[Architecture], *, over: bool
    ) -> Verdict:
        """Compare a pick with all feasible students.

        The best of many noisy means is flattered by chance, and so is every regret made worse.
        `behind` is not: one seed chooses the best, the others say what it and the pick are worth.
        """
        all_of_them = np.array([self.accuracies[a] for a in feasible])
        own, means = self.accuracies[picked], all_of_them.mean(axis=1)
        seeds = range(len(own))
        apart = [np.delete(all_of_them[all_of_them[:, s].argmax()] - own, s).mean() for s in seeds]
        regret, behind = means.max() - own.mean(), float(np.mean(apart))
        return Verdict(100 * regret, 100 * behind, float(np.mean(means > own.mean())), over)


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
