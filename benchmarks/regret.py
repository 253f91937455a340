"""Is the student that a search picks the right one? Its regret against the truth, beside controls.

    python -m benchmarks.ground_truth --data PATH
    python -m benchmarks.regret --data PATH

For several supernets and ten budgets: the picked student's accuracy gap to the best feasible one
and its rank among them, by the accuracies of ground_truth. Beside the search stands what others do
with the same shared weights and table. Writes benchmarks/results/regret.json.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
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
    shared_loss,
    surveyed,
    trained_alpha,
    trained_weights,
)
from benchmarks.small_world import SPACE, architectures, small_world
from benchmarks.verdict import Truth, Verdict, ahead, summary
from benchmarks.ways_to_pick import PICKS, Searched
from benchmarks.world import KD_LOSS, World
from supernet.alpha import Alpha
from supernet.choice.programme import Programme, programme
from supernet.space import Architecture
from supernet.student import parameters_and_macs


@dataclass(frozen=True)
class Settings:
    """What is searched, and how often."""

    data: str
    """Folder of CIFAR-10 images."""
    limit: int = 8000
    w_epochs: int = 40
    budgets: int = 10
    seeds: tuple[int, ...] = (0, 1, 2)
    run: Path = Path("runs/small_world")
    truth: Path = Path("benchmarks/results/ground_truth.csv")
    out: Path = Path("benchmarks/results/regret.json")


def main(settings: Settings) -> None:
    """Search with every supernet; print and write mean regret, rank and broken budgets."""
    world = small_world(settings.data, settings.limit, settings.run)
    known = Truth(known_accuracies(settings.truth))
    problem = programme(world.table)
    budgets = np.geomspace(*problem.range_ms(), settings.budgets + 2)[1:-1].tolist()
    verdicts: dict[str, dict[int, list[Verdict]]] = {name: {} for name in PICKS}
    regrets: dict[str, dict[tuple[int, float], float]] = {name: {} for name in PICKS}
    taus = []
    for seed in settings.seeds:
        searched = search(settings, world, problem, budgets, seed)
        loss = [searched.losses[a] for a in architectures()]
        worth = [known.worth(a) for a in architectures()]
        taus.append(float(-kendalltau(loss, worth).statistic))
        draws = np.random.default_rng(seed)
        for target_ms, (name, pick) in product(budgets, PICKS.items()):
            picked = pick(searched, target_ms, draws)
            found = [judged(known, searched, a, target_ms) for a in picked]
            verdicts[name].setdefault(seed, []).extend(found)
            if not any(v.over for v in found):
                regrets[name][seed, target_ms] = float(np.mean([v.regret for v in found]))
    result = {name: summary(own) for name, own in verdicts.items()}
    first, *_ = PICKS
    for name, row in result.items():
        print(
            f"{name:40} regret {row['regret']:.2f} ± {row['regret_std']:.2f}, behind all trained "
            f"{row['behind']:.2f} ± {row['behind_std']:.2f} points, rank {row['rank']:.1%}, over "
            f"budget {row['over']:.0%}"
        )
        if name != first:
            row["search_ahead_by"], row["p"] = ahead(regrets[first], regrets[name])
            print(f"{'':40} search ahead by {row['search_ahead_by']:.2f}, p = {row['p']:.2g}")
    print(f"Kendall tau of shared loss and truth: {np.mean(taus):.3f} ± {np.std(taus):.3f}")
    facts = {"kendall_tau": taus, "budgets_ms": budgets, "ways": result}
    write_json(settings.out, provenance("regret", settings) | facts)


def known_accuracies(path: Path) -> dict[Architecture, np.ndarray]:
    """Read the truth; stop where students are missing."""
    known, every = truth(path), architectures()
    if missing := len(every) - len(known):
        raise SystemExit(f"{path}: {missing} students are not trained yet")
    return {a: np.array(known[number]) for number, a in enumerate(every)}


def judged(
    known: Truth, searched: Searched, architecture: Architecture, target_ms: float
) -> Verdict:
    """Judge one pick."""
    over = searched.ms(architecture) > target_ms
    return known.judge(architecture, searched.feasible(target_ms), over=over)


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
    surrogates = [surveyed(problem, score, n, seed) for n in (SURVEYED, SURVEYED // 2)]
    return Searched(losses, *surrogates, alpha, separate, alone, problem, macs)


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
