"""What the trainings of benchmarks.matrix say: does the best student depend on the teacher?

    python -m benchmarks.matrix_analysis --seeds 0 1

Reads benchmarks/results/matrix.csv; prints, and writes matrix_analysis.json and .png beside it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import tyro

from base.errors import UserError
from base.files import write_json
from benchmarks.csv_lines import read_lines
from benchmarks.matrix_statistics import (
    Points,
    centred,
    decisions,
    interaction,
    order,
    own_choice,
    spread_alike,
)
from benchmarks.matrix_students import KINDS
from benchmarks.matrix_teachers import CONTROLS, TEACHERS
from benchmarks.provenance import provenance


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
