"""What the trainings of benchmarks.matrix say: does the best student depend on the teacher?

    python -m benchmarks.matrix_analysis --seeds 0 1

Reads benchmarks/results/matrix.csv; prints, and writes matrix_analysis.json and .png beside it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, permutations, product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import tyro
from scipy.stats import f as f_distribution
from scipy.stats import kendalltau

from base.errors import UserError
from base.files import write_json
from benchmarks.csv_lines import read_lines
from benchmarks.matrix_students import KINDS
from benchmarks.matrix_teachers import CONTROLS, TEACHERS
from benchmarks.provenance import provenance

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


@dataclass(frozen=True)
class Settings:
    """Which trainings are read."""

    out: Path = Path("benchmarks/results/matrix.csv")
    kd_weight: float = 0.9
    seeds: tuple[int, ...] = (0, 1, 2)


def main(settings: Settings) -> None:
    """Print what the trainings say, write and draw it."""
    found: dict[str, object] = {}
    for title, columns in (("teachers", TEACHERS), ("teachers and controls", TEACHERS + CONTROLS)):
        points, draws = read_points(settings, "test_accuracy", columns), np.random.default_rng(0)
        own = {"interaction": asdict(interaction(points, draws)), "order": order(points, draws)}
        own |= {"decisions": decisions(points), "own_choice": own_choice(points)}
        found[title] = {"columns": columns, **own, "means": points.mean(axis=(0, 2)).tolist()}
    points = read_points(settings, "test_accuracy", TEACHERS)
    found["spread alike"] = asdict(interaction(spread_alike(points), np.random.default_rng(0)))
    found["pairs"] = {
        f"{TEACHERS[a]}, {TEACHERS[b]}": asdict(
            interaction(points[:, [a, b]], np.random.default_rng(0))
        )
        for a, b in combinations(range(len(TEACHERS)), 2)
    }
    found["agreement"] = {
        name: read_points(settings, f"as {name}", TEACHERS).mean(axis=(0, 2)).tolist()
        for name in TEACHERS
    }
    changed = {name: read_points(settings, name, TEACHERS) for name in ("shifted", "blurred")}
    found |= {n: asdict(interaction(own, np.random.default_rng(0))) for n, own in changed.items()}
    path = settings.out.with_name(f"{settings.out.stem}_analysis.json")
    write_json(path, found | provenance("matrix_analysis", settings))
    print("\n".join(told(found)))
    draw(path.with_suffix(".png"), read_points(settings, "test_accuracy", TEACHERS + CONTROLS))


def read_points(settings: Settings, column: str, learnt_from: Sequence[str]) -> Points:
    """Return a column of the lines in percent; raise `UserError` where one is missing."""
    known = {}
    for line in read_lines(settings.out):
        if float(line["kd_weight"]) == settings.kd_weight:
            place = int(line["number"]), line["learns_from"], int(line["seed"])
            known[place] = 100 * float(line[column])
    places = list(product(range(len(KINDS)), learnt_from, settings.seeds))
    if missing := [place for place in places if place not in known]:
        raise UserError(f"{settings.out}: {len(missing)} trainings are missing, as {missing[0]}")
    shape = len(KINDS), len(learnt_from), len(settings.seeds)
    return np.array([known[place] for place in places]).reshape(shape)


def told(found: dict) -> Iterator[str]:
    """Say in words what was found."""
    for title in ("teachers", "teachers and controls"):
        own, tau = found[title]["interaction"], found[title]["order"]
        yield f"{title}: {named(found[title]['columns'], found[title]['means'])} %"
        yield f"  teacher × student {in_words(own)}"
        yield (
            f"  Kendall tau of two seeds {tau['tau_of_seeds']:.3f}, of two teachers "
            f"{tau['tau_of_teachers']:.3f}, apart by {tau['difference']:.3f} ({tau['interval']})"
        )
        gains = np.round(found[title]["own_choice"], 2)
        yield f"  a teacher's own best student is better by {gains} points, by seed left out"
        for name, one in found[title]["decisions"].items():
            yield f"  {name:9} worth {np.round(one['worth'], 2)} points, p = {one['p']:.3f}"
    for name, shares in found["agreement"].items():
        yield f"agreement with {name}: {named(TEACHERS, shares)} %"
    for name in ("spread alike", "shifted", "blurred"):
        yield f"{name}: teacher × student {in_words(found[name])}"
    for name, own in found["pairs"].items():
        yield f"{name}: teacher × student {in_words(own)}"


def in_words(own: dict) -> str:
    """Say an interaction."""
    low, high = own["interval"]
    return (
        f"{own['deviation']:.2f} points ({low:.2f} to {high:.2f}), {own['share']:.1%} of a "
        f"training's variance, p = {own['p']:.4f}; seeds {own['seeds']:.2f}, students "
        f"{own['students']:.2f} points"
    )


def named(names: Sequence[str], values: Sequence[float]) -> str:
    """Say numbers with their names."""
    return ", ".join(f"{name} {value:.2f}" for name, value in zip(names, values, strict=True))


def draw(path: Path, points: Points) -> None:
    """Draw what is left of every student with every teacher, and what decisions are worth."""
    names = TEACHERS + CONTROLS
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 6), width_ratios=(1, 1.4))
    rest = centred(points).mean(axis=2)
    rows = np.argsort(-points.mean(axis=(1, 2)))
    largest = np.abs(rest).max()
    shown = left.imshow(rest[rows], cmap="RdBu", vmin=-largest, vmax=largest, aspect="auto")
    left.set(title="teacher × student, points", ylabel="students, the best on top")
    left.set_xticks(range(len(names)), names, rotation=45, ha="right")
    left.axvline(len(TEACHERS) - 0.5, color="black")
    figure.colorbar(shown, ax=left)
    worth = decisions(points)
    wide = 0.8 / len(names)
    for i, name in enumerate(names):
        heights, errors = ([one[k][i] for one in worth.values()] for k in ("worth", "deviation"))
        places = np.arange(len(worth)) + (i - (len(names) - 1) / 2) * wide
        colour = f"C{i}" if name in TEACHERS else str(0.3 + 0.2 * (i - len(TEACHERS)))
        right.bar(places, heights, wide, yerr=errors, label=name, color=colour)
    right.set_xticks(range(len(worth)), worth)
    right.set(title="worth of a decision at equal latency, points of test accuracy")
    right.axhline(0, color="black", linewidth=0.8)
    right.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    try:
        main(tyro.cli(Settings))
    except UserError as error:
        raise SystemExit(f"matrix_analysis: {error}") from error
