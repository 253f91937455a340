"""Is the student that a search picks the right one? Its regret against the truth, beside controls.

    python -m benchmarks.ground_truth --data PATH
    python -m benchmarks.regret --data PATH

For several supernets and ten budgets: the picked student's accuracy gap to the best feasible one
and its rank among them, by the accuracies of ground_truth. Beside the search stands what others do
with the same shared weights and table. Writes benchmarks/results/regret.json.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import tyro
from scipy.stats import kendalltau
from tqdm import tqdm

from base.errors import UserError
from base.files import read_json, write_json
from benchmarks.ground_truth import truth
from benchmarks.provenance import provenance
from benchmarks.shared_search import (
    ALPHA,
    SURVEYED,
    OneBudget,
    calibration_images,
    search_loss,
    shared_loss,
    surveyed,
    trained_alpha,
    trained_weights,
)
from benchmarks.small_world import BUDGETS, SPACE, architectures, budgets_ms, small_world
from benchmarks.verdict import Truth, Verdict, ahead, summary
from benchmarks.ways_to_pick import PICKS, PICKS_TRAINED, Searched
from benchmarks.world import KD_LOSS, World, trained_student
from supernet.alpha import Alpha
from supernet.choice.programme import Programme, programme
from supernet.space import Architecture
from supernet.student import parameters_and_macs

TRIAL_EPOCHS = 3


@dataclass(frozen=True)
class Settings:
    """What is searched, and how often."""

    data: str
    """Folder of CIFAR-10 images."""
    limit: int = 8000
    w_epochs: int = 40
    budgets: int = BUDGETS
    seeds: tuple[int, ...] = (0, 1, 2)
    run: Path = Path("runs/small_world")
    truth: Path = Path("benchmarks/results/ground_truth.csv")
    out: Path = Path("benchmarks/results/regret.json")


def main(settings: Settings) -> None:
    """Search with every supernet; print and write mean regret, rank and broken budgets."""
    world = small_world(settings.data, settings.limit, settings.run)
    known = known_accuracies(settings.truth)
    problem = programme(world.table)
    budgets = budgets_ms(problem, settings.budgets)
    supernets = {seed: search(settings, world, problem, budgets, seed) for seed in settings.seeds}
    together = {seed: own.surrogate for seed, own in supernets.items()}
    found = Verdicts()
    for seed, alone in supernets.items():
        searched = replace(alone, surrogates=together)
        for target_ms in tqdm(budgets, desc="picks", unit="budget"):
            for name, verdicts in judged_picks(known, searched, target_ms, seed):
                found.add(name, seed, target_ms, verdicts)
    worth = [known.worth(a) for a in architectures()]
    taus = [
        float(-kendalltau([own.losses[a] for a in architectures()], worth).statistic)
        for own in supernets.values()
    ]
    print(f"Kendall tau of shared loss and truth: {np.mean(taus):.3f} ± {np.std(taus):.3f}")
    facts = {"kendall_tau": taus, "budgets_ms": budgets, "ways": found.told()}
    write_json(settings.out, provenance("regret", settings) | facts)


class Verdicts:
    """The verdicts on every way to pick, by supernet and budget."""

    def __init__(self) -> None:
        self.verdicts: dict[str, dict[int, list[Verdict]]] = defaultdict(dict)
        self.behind: dict[str, dict[tuple[int, float], float]] = defaultdict(dict)

    def add(self, name: str, seed: int, target_ms: float, verdicts: list[Verdict]) -> None:
        """Keep what one way picked for one budget with one supernet."""
        self.verdicts[name].setdefault(seed, []).extend(verdicts)
        if not any(v.over for v in verdicts):
            self.behind[name][seed, target_ms] = float(np.mean([v.behind for v in verdicts]))

    def told(self) -> dict[str, dict[str, float]]:
        """Print means, and how far the search is ahead of every other way; return them."""
        result = {name: summary(own) for name, own in self.verdicts.items()}
        first, *_ = result
        for name, row in result.items():
            print(
                f"{name:40} regret {row['regret']:.2f} ± {row['regret_std']:.2f}, behind all "
                f"trained {row['behind']:.2f} ± {row['behind_std']:.2f} points, rank "
                f"{row['rank']:.1%}, over budget {row['over']:.0%}"
            )
            if name != first:
                row["search_ahead_by"], row["p"] = ahead(self.behind[first], self.behind[name])
                print(f"{'':40} search ahead by {row['search_ahead_by']:.2f}, p = {row['p']:.2g}")
        return result


def known_accuracies(path: Path) -> Truth:
    """Read the truth; stop where students are missing."""
    every = architectures()
    test, search = truth(path, "test_accuracy"), truth(path, "search_accuracy")
    if missing := len(every) - len(test):
        raise SystemExit(f"{path}: {missing} students are not trained yet")
    return Truth(
        {a: np.array(test[number]) for number, a in enumerate(every)},
        {a: np.array(search[number]) for number, a in enumerate(every)},
    )


def judged_picks(
    known: Truth, searched: Searched, target_ms: float, seed: int
) -> Iterator[tuple[str, list[Verdict]]]:
    """Pick in every way for one budget, and judge the picks."""
    draws, feasible = np.random.default_rng(seed), searched.feasible(target_ms)
    every = range(known.seeds)

    def judged(architecture: Architecture, used: Sequence[int]) -> Verdict:
        over = searched.ms(architecture) > target_ms
        return known.judge(architecture, feasible, used, over=over)

    for name, pick in PICKS.items():
        yield name, [judged(a, every) for a in pick(searched, target_ms, draws)]
    for name, pick_trained in PICKS_TRAINED.items():
        pick = partial(pick_trained, searched)
        by_seed = {used: pick(known.retrained(used), target_ms, draws) for used in every}
        yield name, [judged(a, [used]) for used, picked in by_seed.items() for a in picked]


def search(
    settings: Settings, world: World, problem: Programme, budgets: list[float], seed: int
) -> Searched:
    """Train one supernet and every alpha as train.py does, and score every student."""
    folder = settings.run / "regret" / str(seed)
    supernet = trained_weights(world, problem, KD_LOSS, settings.w_epochs, seed, folder)

    def alpha_of(problem: Programme | OneBudget, steps: int, name: str) -> Alpha:
        path = folder / f"alpha_{name}.pt"
        return trained_alpha(world, supernet, problem, KD_LOSS, steps, seed, path)

    ones = {target_ms: OneBudget(world.table, target_ms) for target_ms in budgets}
    few, many = ALPHA.alpha_steps // len(budgets), ALPHA.alpha_steps // 2
    alpha = alpha_of(problem, ALPHA.alpha_steps, "of_all")
    separate = {ms: alpha_of(one, few, f"few_{ms:.3f}") for ms, one in ones.items()}
    alone = {ms: alpha_of(one, many, f"many_{ms:.3f}") for ms, one in ones.items()}
    images = calibration_images(world)
    score = remembered(
        folder / "losses.json", partial(shared_loss, supernet, world, KD_LOSS, images)
    )
    losses = {a: score(a) for a in tqdm(architectures(), desc="scores", unit="student")}
    macs = {a: parameters_and_macs(SPACE, a)[1] for a in losses}
    surrogate, of_few = (surveyed(problem, score, n, seed) for n in (SURVEYED, SURVEYED // 2))
    own = {seed: surrogate}
    brief = remembered(folder / "trials.json", partial(brief_loss, world, seed))
    return Searched(losses, surrogate, of_few, own, alpha, separate, alone, problem, macs, brief)


def brief_loss(world: World, seed: int, architecture: Architecture) -> float:
    """Loss on the search split after a brief training from scratch."""
    student = trained_student(world, architecture, KD_LOSS, TRIAL_EPOCHS, seed)
    return search_loss(student, world, KD_LOSS)


def remembered(path: Path, measure: Callable[[Architecture], float]) -> Callable:
    """Call `measure` once for an architecture; what it returned is kept in a file."""
    known = read_json(path) if path.exists() else {}

    def recall(architecture: Architecture) -> float:
        number = str(architectures().index(architecture))
        if number not in known:
            known[number] = measure(architecture)
            write_json(path, known)
        return known[number]

    return recall


if __name__ == "__main__":
    try:
        main(tyro.cli(Settings))
    except UserError as error:
        raise SystemExit(f"regret: {error}") from error
