"""Compare the architectures that runs prefer, within and between teachers.

    python -m export.report.compare runs/a1 runs/a2 runs/b1 runs/b2 --out compare.png

Every run of train.py leaves the probability of each choice at several budgets. Two runs are as far
apart as their decisions are, by the mean Jensen-Shannon distance (base 2: 0 the same, 1 disjoint).
Runs of one teacher (with other seeds) say how far apart chance puts them; a permutation test of
the runs' teachers says how rarely chance alone would part the teachers so far.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import tyro
from scipy.spatial.distance import jensenshannon
from scipy.stats import permutation_test
from tyro.conf import Positional

from base.errors import UserError
from base.exit_status import run_script
from base.files import first_difference, read_json
from export.report.figures import choices_figure
from export.report.page import table_text

MOST_PERMUTATIONS = 10_000
SHOWN = 10

# Probability of each choice, by decision and choice, at one budget.
Preferences = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Settings:
    """Runs to compare."""

    runs: Positional[tuple[Path, ...]]
    """Folders that train.py made, of one space: two or more for each of two or more teachers."""
    out: Path = Path("compare.png")
    """Picture of what each teacher prefers."""
    seed: int = 0
    """Of the permutations, where there are too many to try all."""


@dataclass(frozen=True)
class Run:
    """What a run prefers, at each of its budgets, and its guide."""

    guide: str
    budgets: list[Preferences]


def main(settings: Settings) -> None:
    """Print within, between and p, and the decisions that differ most; draw the preferences."""
    runs = [read_run(folder) for folder in settings.runs]
    check_comparable(runs, settings.runs)
    guides = [run.guide for run in runs]
    apart = distances(runs)
    within, between = within_between(apart, guides)
    p, least = permutation_p(apart, guides, np.random.default_rng(settings.seed))
    rows = [
        *((guide, f"{guides.count(guide)} runs") for guide in dict.fromkeys(guides)),
        ("within a teacher", f"{within:.3f} (mean Jensen-Shannon distance of two runs)"),
        ("between teachers", f"{between:.3f}"),
        ("p", f"{p:.3g} by permutation ({least:.2g} is the least that so few runs can show)"),
    ]
    print(f"{table_text(rows)}\n\n{table_text(list(most_different(runs)))}")
    middle = {guide: mean_preferences(runs, guide) for guide in dict.fromkeys(guides)}
    named = {
        f"{name}\n{guide}": choices
        for name in next(iter(middle.values()))
        for guide, preferences in middle.items()
        for choices in [preferences[name]]
    }
    choices_figure(settings.out, named)
    print(f"\n{settings.out}")


def read_run(folder: Path) -> Run:
    """Read a run's preferences and guide; raise `UserError` when it has none."""
    facts = read_json(folder / "preferences.json")
    try:
        guide = str(facts["guide"])
        budgets = [
            {name: {c: float(q) for c, q in choices.items()} for name, choices in one.items()}
            for one in facts["budgets"]
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{folder}: damaged preferences.json ({error}); train again") from error
    return Run(guide, budgets)


def check_comparable(runs: Sequence[Run], folders: Sequence[Path]) -> None:
    """Raise `UserError` for runs of different spaces, or too few of them."""
    first = [{name: list(choices) for name, choices in one.items()} for one in runs[0].budgets]
    for run, folder in zip(runs[1:], folders[1:], strict=True):
        own = [{name: list(choices) for name, choices in one.items()} for one in run.budgets]
        if difference := first_difference(own, first):
            raise UserError(f"{folder}: of another space than {folders[0]}: {difference}")
    guides = [run.guide for run in runs]
    few = [guide for guide in dict.fromkeys(guides) if guides.count(guide) < 2]
    if len(set(guides)) < 2 or few:
        found = ", ".join(f"{guides.count(guide)} of {guide}" for guide in dict.fromkeys(guides))
        raise UserError(f"{found}: expected two or more runs of each of two or more teachers")


def distance(a: Run, b: Run) -> float:
    """Return the mean Jensen-Shannon distance of two runs over budgets and decisions, in [0, 1]."""
    return float(np.mean([list(by_decision(*pair).values()) for pair in _budgets(a, b)]))


def by_decision(a: Preferences, b: Preferences) -> dict[str, float]:
    """Return the Jensen-Shannon distance of every decision (Lin 1991; Endres & Schindelin 2003)."""
    return {
        name: float(jensenshannon(list(a[name].values()), list(b[name].values()), base=2))
        for name in a
    }


def _budgets(a: Run, b: Run) -> Iterator[tuple[Preferences, Preferences]]:
    return zip(a.budgets, b.budgets, strict=True)


def distances(runs: Sequence[Run]) -> np.ndarray:
    """Return the distances of all runs from each other, [N, N]."""
    apart = np.zeros((len(runs), len(runs)))
    for i, j in combinations(range(len(runs)), 2):
        apart[i, j] = apart[j, i] = distance(runs[i], runs[j])
    return apart


def within_between(apart: np.ndarray, guides: Sequence[str]) -> tuple[float, float]:
    """Return the mean distance of runs of one teacher, and of two teachers; `apart` is [N, N]."""
    same, other = [], []
    for i, j in combinations(range(len(guides)), 2):
        (same if guides[i] == guides[j] else other).append(apart[i, j])
    return float(np.mean(same)), float(np.mean(other))


def permutation_p(
    apart: np.ndarray, guides: Sequence[str], generator: np.random.Generator
) -> tuple[float, float]:
    """Return p and the least p that so few runs can show.

    p is the share of the ways to deal the teachers to the runs that part them as far or farther
    (Anderson 2001, PERMANOVA): all ways where there are few, random ones otherwise.
    """
    numbers = np.unique(guides, return_inverse=True)[1]

    def gap(dealt: np.ndarray) -> float:
        within, between = within_between(apart, dealt.tolist())
        return between - within

    test = permutation_test(
        (numbers,),
        gap,
        permutation_type="pairings",
        alternative="greater",
        n_resamples=MOST_PERMUTATIONS,
        vectorized=False,
        rng=generator,
    )
    farthest = test.null_distribution >= test.null_distribution.max() - 1e-9
    return float(test.pvalue), float(farthest.mean())


def mean_preferences(runs: Sequence[Run], guide: str) -> Preferences:
    """Return the mean probabilities over the runs of one teacher and all budgets."""
    own = [preferences for run in runs if run.guide == guide for preferences in run.budgets]
    return {
        name: {c: float(np.mean([one[name][c] for one in own])) for c in choices}
        for name, choices in own[0].items()
    }


def most_different(runs: Sequence[Run]) -> Iterator[tuple[str, str]]:
    """Say what each teacher prefers where they differ most."""
    guides = list(dict.fromkeys(run.guide for run in runs))
    means = {guide: mean_preferences(runs, guide) for guide in guides}
    pairs = list(combinations(guides, 2))
    apart = {
        name: float(np.mean([by_decision(means[a], means[b])[name] for a, b in pairs]))
        for name in means[guides[0]]
    }
    for name in sorted(apart, key=lambda n: -apart[n])[:SHOWN]:
        prefers = "; ".join(f"{guide}: {_choices(means[guide][name])}" for guide in guides)
        yield name, f"{apart[name]:.3f}  {prefers}"


def _choices(choices: dict[str, float]) -> str:
    return ", ".join(f"{choice} {p:.0%}" for choice, p in choices.items())


if __name__ == "__main__":
    run_script("export.report.compare", lambda: main(tyro.cli(Settings)), "run it again")
