"""Do supernets see what benchmarks.matrix sees: which of 32 students suits which teacher?

    python -m benchmarks.matrix_sight

Reads benchmarks/results/matrix.csv and matrix_supernets.csv; prints, and writes matrix_sight.json
and .png beside them. Nothing is trained for it: the students that a supernet chooses were trained
for the matrix.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import reduce
from itertools import permutations, product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import tyro
from scipy.stats import kendalltau

from base.errors import UserError
from base.files import write_json
from benchmarks import matrix_analysis
from benchmarks.csv_lines import read_lines
from benchmarks.matrix_statistics import Points, centred, spread_alike
from benchmarks.matrix_students import KINDS
from benchmarks.matrix_teachers import TEACHERS
from benchmarks.provenance import provenance

INKS = ("white", "black")  # on dark and on light colours
BEST = 4  # students of a supernet that are looked at beside its first choice
TAU, ALIKE = "Kendall tau with trained students", "correlation of teacher × student, spread alike"
FIRST, FIRSTS = "accuracy of the first choice, %", f"accuracy of the first {BEST}, %"
# What every supernet is worth for every teacher: [teacher it learned from, seed, teacher].
Worth = np.ndarray


@dataclass(frozen=True)
class Settings:
    """Which lines are read."""

    trained: Path = Path("benchmarks/results/matrix.csv")
    supernets: Path = Path("benchmarks/results/matrix_supernets.csv")
    out: Path = Path("benchmarks/results/matrix_sight.json")
    seeds: tuple[int, ...] = (0, 1, 2)


@dataclass(frozen=True)
class Seen:
    """What supernets are worth for their own teachers, and for others.

    `ahead` is own above other by seed. p is the share of exchanges of a seed's supernets among the
    teachers that are worth as much as no exchange.
    """

    own: float
    other: float
    ahead: list[float]
    p: float


def main(settings: Settings) -> None:
    """Print how well supernets see, write and draw it."""
    of_trained = matrix_analysis.Settings(settings.trained, seeds=settings.seeds)
    trained = matrix_analysis.read_points(of_trained, "test_accuracy", TEACHERS)
    shared = read_scores(settings)
    worths = {
        TAU: taus(shared, trained),
        ALIKE: correlations(spread_alike(shared), spread_alike(trained)),
        FIRST: choices(shared, trained, 1),
        FIRSTS: choices(shared, trained, BEST),
    }
    found: dict[str, object] = {name: asdict(seen(worth)) for name, worth in worths.items()}
    found["tau of supernets, rows, and teachers"] = worths[TAU].mean(axis=1).tolist()
    found["any student, %"] = float(trained.mean())
    found["best student by the matrix, %"] = best_by_matrix(trained)
    write_json(settings.out, found | provenance("matrix_sight", settings))
    print("\n".join(told(found)))
    draw(settings.out.with_suffix(".png"), worths[TAU].mean(axis=1), shared, trained)


def read_scores(settings: Settings) -> Points:
    """Return minus the search loss with shared weights, [S, T, R]; `UserError` if one is missing.

    The loss is finer than accuracy, and is what train.py's survey reads.
    """
    known = {
        (int(line["number"]), line["teacher"], int(line["seed"])): -float(line["search_loss"])
        for line in read_lines(settings.supernets)
    }
    places = list(product(range(len(KINDS)), TEACHERS, settings.seeds))
    if missing := [place for place in places if place not in known]:
        raise UserError(f"{settings.supernets}: {len(missing)} scores are missing: {missing[0]}")
    shape = len(KINDS), len(TEACHERS), len(settings.seeds)
    return np.array([known[place] for place in places]).reshape(shape)


def seen(worth: Worth) -> Seen:
    """Compare own teachers with others, and with every exchange (an exact permutation test).

    Students of a supernet share its weights, so whole supernets are exchanged, never scores.
    """
    teachers, seeds, _ = worth.shape
    orders = np.array(list(permutations(range(teachers))))  # begins with no exchange
    of_seeds = [worth[orders, r, np.arange(teachers)].mean(axis=1) for r in range(seeds)]
    exchanged = reduce(np.add.outer, of_seeds).ravel() / seeds
    own = worth[np.arange(teachers), :, np.arange(teachers)].mean(axis=0)
    other = (worth.mean(axis=(0, 2)) * teachers - own) / (teachers - 1)
    p = float(np.mean(exchanged >= exchanged[0] - 1e-12))
    return Seen(float(own.mean()), float(other.mean()), (own - other).tolist(), p)


def taus(shared: Points, trained: Points) -> Worth:
    """Return Kendall's tau of every supernet's scores with every teacher's trained students."""
    truth = trained.mean(axis=2)
    _, teachers, seeds = shared.shape
    found = [
        kendalltau(shared[:, a, r], truth[:, b]).statistic
        for a, r, b in product(range(teachers), range(seeds), range(teachers))
    ]
    return np.array(found).reshape(teachers, seeds, teachers)


def correlations(shared: Points, trained: Points) -> Worth:
    """Correlate what depends on the teacher: with shared weights, and after training."""
    own, truth = centred(shared), centred(trained).mean(axis=2, keepdims=True)
    own, truth = (rest - rest.mean(axis=0) for rest in (own, truth))
    own, truth = (rest / np.linalg.norm(rest, axis=0) for rest in (own, truth))
    return np.einsum("sar,sb->arb", own, truth[..., 0])


def choices(shared: Points, trained: Points, count: int) -> Worth:
    """Return the mean test accuracy, with every teacher, of each supernet's best students."""
    best = np.argsort(-shared, axis=0)[:count]
    return trained.mean(axis=2)[best].mean(axis=0)


def best_by_matrix(trained: Points) -> float:
    """Return the mean accuracy of the best student for each teacher; the seed left out judges."""
    _, teachers, seeds = trained.shape
    found = []
    for t, r in product(range(teachers), range(seeds)):
        best = np.delete(trained[:, t], r, axis=1).mean(axis=1).argmax()
        found.append(trained[best, t, r])
    return float(np.mean(found))


def told(found: dict) -> Iterator[str]:
    """Say in words what was found."""
    for name in (TAU, ALIKE, FIRST, FIRSTS):
        own = found[name]
        yield (
            f"{name}: own teacher {own['own']:.3f}, others {own['other']:.3f}; ahead by "
            f"{np.round(own['ahead'], 3)} by seed, p = {own['p']:.4f}"
        )
    for name in ("any student, %", "best student by the matrix, %"):
        yield f"{name}: {found[name]:.2f}"


def draw(path: Path, tau: np.ndarray, shared: Points, trained: Points) -> None:
    """Draw tau of supernets and teachers, and what depends on the teacher, seen and trained."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.8))
    shown, middle = left.imshow(tau, cmap="viridis"), (tau.min() + tau.max()) / 2
    for (a, b), value in np.ndenumerate(tau):
        left.text(b, a, f"{value:.2f}", ha="center", va="center", color=INKS[bool(value > middle)])
    for set_ticks in (left.set_xticks, left.set_yticks):
        set_ticks(range(len(TEACHERS)), TEACHERS)
    left.set(title="Kendall tau, mean of seeds", xlabel="teacher of the trained students")
    left.set_ylabel("teacher of the supernet")
    figure.colorbar(shown, ax=left)
    own, truth = (centred(spread_alike(points)).mean(axis=2) for points in (shared, trained))
    for i, name in enumerate(TEACHERS):
        right.scatter(own[:, i], truth[:, i], s=16, label=name)
    right.axhline(0, color="black", linewidth=0.8)
    right.axvline(0, color="black", linewidth=0.8)
    right.set(title="teacher × student, spread alike", xlabel="with shared weights, -loss")
    right.set_ylabel("after training, points of accuracy")
    right.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    try:
        main(tyro.cli(Settings))
    except UserError as error:
        raise SystemExit(f"matrix_sight: {error}") from error
