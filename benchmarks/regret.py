"""Is the student that a search picks the right one? Its regret against the truth, beside controls.

    python -m benchmarks.ground_truth --data PATH
    python -m benchmarks.regret --data PATH

For several supernets and ten budgets: the picked student's accuracy gap to the best feasible one
and its rank among them, by the accuracies of ground_truth. Beside the search stands what others do
with the same shared weights and table. Writes benchmarks/results/regret.json.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import tyro
from scipy.stats import kendalltau
from torch import Tensor
from tqdm import tqdm

from benchmarks.ground_truth import KD_TEMPERATURE, KD_WEIGHT, truth
from benchmarks.provenance import provenance
from benchmarks.small_world import BATCH, SPACE, World, architectures, small_world
from benchmarks.ways_to_pick import PICKS, Searched
from export.checkpoint import NoCheckpoint
from export.errors import UserError
from export.files import write_json
from kd.evaluate import recalibrate
from kd.loss import kd_loss
from supernet.alpha import Alpha
from supernet.alpha_training import AlphaSettings, train_alpha
from supernet.derive import Programme, programme
from supernet.latency import LatencyTable
from supernet.sampling import fair_sampler
from supernet.space import Architecture
from supernet.steps import Loss
from supernet.student import parameters_and_macs
from supernet.supernet import Supernet
from supernet.w_training import WSettings, train_w

ALPHA = AlphaSettings(
    alpha_steps=800,
    alpha_learning_rate=0.05,
    multiplier_rate=0.05,
    tau_start=5.0,
    tau_end=0.5,
    knots=6,
    precision="fp32",
    seed=0,
)


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
    known = truth(settings.truth)
    every = architectures()
    if missing := len(every) - len(known):
        raise SystemExit(f"{settings.truth}: {missing} students are not trained yet")
    worth = {a: float(np.mean(known[number])) for number, a in enumerate(every)}
    problem = programme(world.table)
    fastest_ms, slowest_ms = problem.range_ms()
    budgets = np.geomspace(fastest_ms, slowest_ms, settings.budgets + 2)[1:-1].tolist()
    found: dict[str, list[tuple[float, float, bool]]] = {name: [] for name in PICKS}
    taus = []
    for seed in settings.seeds:
        searched = search(settings, world, problem, budgets, seed)
        loss = [searched.losses[a] for a in every]
        taus.append(float(kendalltau(loss, [-worth[a] for a in every]).statistic))
        draws = np.random.default_rng(seed)
        for target_ms in budgets:
            for name, pick in PICKS.items():
                picked = pick(searched, target_ms, draws)
                found[name] += [judged(worth, searched, a, target_ms) for a in picked]
    result = {name: summary(judgements) for name, judgements in found.items()}
    for name, row in result.items():
        print(
            f"{name:40} regret {row['regret']:.2f} ± {row['regret_std']:.2f} points, rank within "
            f"best {row['rank']:.0%}, over budget {row['over']:.0%}"
        )
    print(f"Kendall tau of shared loss and truth: {np.mean(taus):.3f} ± {np.std(taus):.3f}")
    facts = {"kendall_tau": taus, "budgets_ms": budgets, "ways": result}
    write_json(settings.out, provenance("regret", settings) | facts)


def search(
    settings: Settings, world: World, problem: Programme, budgets: list[float], seed: int
) -> Searched:
    """Train one supernet as train.py does, then alpha, and score every student."""
    torch.manual_seed(seed)
    supernet = Supernet(SPACE).to(memory_format=torch.channels_last)
    loss = partial(kd_loss, kd_temperature=KD_TEMPERATURE, kd_weight=KD_WEIGHT)
    steps = settings.w_epochs * (len(world.train.labels) // BATCH)
    sampler = fair_sampler(world.table, *problem.range_ms())
    w = WSettings(w_learning_rate=0.2, weight_decay=1e-4, precision="fp32", seed=seed)
    batches = partial(world.train.endless, BATCH, seed)
    train_w(supernet, sampler, steps, batches, loss, w, quiet, NoCheckpoint())

    def alpha_of(problem: Programme | OneBudget, steps: int, knots: int) -> Alpha:
        batches = partial(world.search.endless, BATCH, seed)
        own = replace(ALPHA, alpha_steps=steps, knots=knots, seed=seed)
        return train_alpha(supernet, problem, batches, loss, own, quiet, NoCheckpoint())

    alpha = alpha_of(problem, ALPHA.alpha_steps, ALPHA.knots)
    ones = {target_ms: OneBudget(world.table, target_ms) for target_ms in budgets}
    few = ALPHA.alpha_steps // len(budgets)
    separate = {target_ms: alpha_of(one, few, 2) for target_ms, one in ones.items()}
    alone = {target_ms: alpha_of(one, ALPHA.alpha_steps, 2) for target_ms, one in ones.items()}
    images = [b.images for b in islice(world.train.epoch(-1, 256), 4)]
    scored = {
        a: shared_loss(supernet, a, images, world, loss)
        for a in tqdm(architectures(), desc="scores", unit="student")
    }
    macs = {a: parameters_and_macs(SPACE, a)[1] for a in scored}
    return Searched(scored, alpha, separate, alone, problem, macs)


@dataclass(frozen=True)
class OneBudget:
    """What train_alpha asks of a programme, for an alpha that knows one budget (FBNet)."""

    table: LatencyTable
    target_ms: float

    def range_ms(self) -> tuple[float, float]:
        """The budget, as the narrowest range."""
        return 0.999 * self.target_ms, 1.001 * self.target_ms


def quiet(*_: object, **__: float) -> None:
    """Keep nothing."""


@torch.no_grad()
def shared_loss(
    supernet: Supernet, architecture: Architecture, images: list[Tensor], world: World, loss: Loss
) -> float:
    """KD loss on the search split with shared weights and recalibrated BatchNorm."""
    student = supernet.extract(architecture)
    recalibrate(student, images)
    student.eval()
    losses = [
        (loss(student(batch.images), batch).item(), len(batch.labels))
        for batch in world.search.epoch(-1, 500)
    ]
    return sum(value * count for value, count in losses) / sum(count for _, count in losses)


def judged(
    worth: Mapping[Architecture, float],
    searched: Searched,
    architecture: Architecture,
    target_ms: float,
) -> tuple[float, float, bool]:
    """(regret in points, share of feasible students that are better, whether it is over budget)."""
    feasible = np.array([worth[a] for a in searched.feasible(target_ms)])
    own = worth[architecture]
    over = searched.ms(architecture) > target_ms
    return 100 * (feasible.max() - own), float(np.mean(feasible > own)), over


def summary(judgements: list[tuple[float, float, bool]]) -> dict[str, float]:
    """Means over supernets and budgets; a pick over its budget counts only as such."""
    kept = [one for one in judgements if not one[2]]
    regrets, ranks = np.array([one[:2] for one in kept]).T if kept else (np.array([np.nan]),) * 2
    return {
        "regret": float(regrets.mean()),
        "regret_std": float(regrets.std()),
        "rank": float(ranks.mean()),
        "over": float(np.mean([one[2] for one in judgements])),
        "picks": len(judgements),
    }


if __name__ == "__main__":
    try:
        main(tyro.cli(Settings))
    except UserError as error:
        raise SystemExit(f"regret: {error}") from error
