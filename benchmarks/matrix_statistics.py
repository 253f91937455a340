"""What accuracies of students, trained by several teachers and seeds, say of these three."""

from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
from scipy.stats import f as f_distribution
from scipy.stats import kendalltau

from benchmarks.matrix_students import KINDS

PERMUTATIONS, RESAMPLES = 4999, 1000
INTERVAL = (0.025, 0.975)
# Points of test accuracy of every student, with every teacher, by every seed: [S, T, R].
Points = np.ndarray


@dataclass(frozen=True)
class Interaction:
    """How much a student's worth depends on the teacher; deviations in points of test accuracy.

    `deviation` is that of teacher × student, `interval` its 95 %, `seeds` that of two trainings of
    a student with a teacher, `students` that of students' means. `share` is of the variance of a
    single training, the teachers' own differences left out.
    """

    deviation: float
    interval: tuple[float, float]
    share: float
    seeds: float
    students: float
    p: float


def interaction(points: Points, draws: np.random.Generator) -> Interaction:
    """Part the variance of accuracies [S, T, R] by students, teachers and seeds.

    Trainings of one student and seed begin with the same weights and see the same images in the
    same order, so these blocks are compared within. If nothing depends on the teacher, teachers can
    be exchanged inside a block: p is the share of such exchanges whose ratio of variances is as
    large (a permutation test). The interval comes from students drawn again (bootstrap).
    """
    rest = centred(points)
    own, noise = sums_of_squares(rest)
    every = np.broadcast_to(rest, (PERMUTATIONS, *rest.shape))
    exchanged = (sums_of_squares(centred(one)) for one in draws.permuted(every, axis=2))
    ratio, shape = variance_ratio(own, noise, rest.shape), rest.shape
    at_least = sum(variance_ratio(*sums, shape) >= ratio for sums in exchanged)
    picked = draws.integers(len(rest), size=(RESAMPLES, len(rest)))
    again = [variance(own[rows], noise[rows], shape) for rows in picked]
    error = noise.sum() / (shape[0] * (shape[1] - 1) * (shape[2] - 1))
    students = np.var(points.mean(axis=(1, 2)), ddof=1)
    single = np.mean(np.var(points, axis=0, ddof=1))
    low, high = np.quantile(again, INTERVAL)
    return Interaction(
        root(variance(own, noise, shape)),
        (root(low), root(high)),
        max(0.0, variance(own, noise, shape)) / single,
        root(error),
        root(students),
        (1 + at_least) / (1 + PERMUTATIONS),
    )


def centred(points: Points) -> Points:
    """Take away the mean of every student and seed, then that of every teacher."""
    rest = points - points.mean(axis=1, keepdims=True)
    return rest - rest.mean(axis=(0, 2), keepdims=True)


def sums_of_squares(rest: Points) -> tuple[np.ndarray, np.ndarray]:
    """Return for every student [S] the squares of teacher × student, and of seeds beside it."""
    cells = rest.mean(axis=2, keepdims=True)
    own = rest.shape[2] * (cells**2).sum(axis=(1, 2))
    return own, ((rest - cells) ** 2).sum(axis=(1, 2))


def variance_ratio(own: np.ndarray, noise: np.ndarray, shape: tuple[int, ...]) -> float:
    """Return the mean square of teacher × student divided by that of seeds (F)."""
    students, _, seeds = shape
    return (own.sum() / (students - 1)) / (noise.sum() / (students * (seeds - 1)))


def variance(own: np.ndarray, noise: np.ndarray, shape: tuple[int, ...]) -> float:
    """Return the variance of teacher × student, free of what seeds add to it; by chance below 0."""
    students, teachers, seeds = shape
    mean_square = own.sum() / ((students - 1) * (teachers - 1))
    return (mean_square - noise.sum() / (students * (teachers - 1) * (seeds - 1))) / seeds


def root(value: float) -> float:
    """Return the deviation of a variance, 0 where it is below."""
    return float(np.sqrt(max(0.0, value)))


def order(points: Points, draws: np.random.Generator) -> dict[str, object]:
    """Compare Kendall's tau of two teachers' columns with that of two seeds of one column.

    Both are of single trainings with different seeds, so both hold the same noise. The interval of
    their difference comes from students drawn again.
    """
    seeds, teachers = mean_taus(points)
    picked = draws.integers(len(points), size=(RESAMPLES // 10, len(points)))
    apart = [np.subtract(*mean_taus(points[rows])) for rows in picked]
    told = {"tau_of_seeds": seeds, "tau_of_teachers": teachers}
    return told | {
        "difference": seeds - teachers,
        "interval": np.quantile(apart, INTERVAL).tolist(),
    }


def mean_taus(points: Points) -> tuple[float, float]:
    """Return the mean tau between seeds of one teacher, and between teachers of other seeds."""
    _, teachers, seeds = points.shape
    found: dict[bool, list[float]] = {True: [], False: []}
    for (a, b), (i, j) in product(
        product(range(teachers), repeat=2), permutations(range(seeds), 2)
    ):
        if a < b or (a == b and i < j):
            found[a == b].append(kendalltau(points[:, a, i], points[:, b, j]).statistic)
    return float(np.mean(found[True])), float(np.mean(found[False]))


def decisions(points: Points) -> dict[str, dict[str, object]]:
    """Return what each decision is worth with every teacher, and p that teachers agree on it.

    The worth is the mean of the students with it above those without, in points: mean and deviation
    over seeds. p is of an analysis of variance over teachers within seeds.
    """
    found = {}
    for name in KINDS[0].signs():
        signs = np.array([kind.signs()[name] for kind in KINDS])
        worth = points[signs > 0].mean(axis=0) - points[signs < 0].mean(axis=0)
        found[name] = {
            "worth": worth.mean(axis=1).tolist(),
            "deviation": worth.std(axis=1, ddof=1).tolist(),
            "p": differing_p(worth),
        }
    return found


def differing_p(worth: np.ndarray) -> float:
    """Return p that rows [T, R] have one mean, columns being blocks (an analysis of variance)."""
    rows, blocks = worth.shape
    rest = worth - worth.mean(axis=0)
    own = blocks * (rest.mean(axis=1) ** 2).sum() / (rows - 1)
    freedom = (rows - 1) * (blocks - 1)
    noise = ((rest - rest.mean(axis=1, keepdims=True)) ** 2).sum() / freedom
    return float(f_distribution.sf(own / noise, rows - 1, freedom))


def own_choice(points: Points) -> list[float]:
    """Return by how much a teacher's best student is better with it than another teacher's best.

    The best are chosen by the mean of all seeds but one, and compared on that one: in points, the
    mean over teachers for every seed left out (AKD's claim, without the search).
    """
    _, teachers, seeds = points.shape
    found = []
    for seed in range(seeds):
        best = np.delete(points, seed, axis=2).mean(axis=2).argmax(axis=0)
        gains = [
            points[best[own], own, seed] - points[best[other], own, seed]
            for own, other in permutations(range(teachers), 2)
        ]
        found.append(float(np.mean(gains)))
    return found


def spread_alike(points: Points) -> Points:
    """Bring students as far apart with every teacher as they are in the mean of teachers.

    A poor teacher's students lie closer together, which is an interaction, too, but one that leaves
    their order as it is. What is seen after this is not that.
    """
    deviations = points.mean(axis=2).std(axis=0, ddof=1)
    return points * (deviations.mean() / deviations)[:, None]
