"""Does the supernet see which student suits which teacher? One supernet a teacher and seed.

    python -m benchmarks.matrix_supernets --data PATH

Trains shared weights with every teacher of benchmarks.matrix, scores its 32 students with them, and
trains alpha for their latency. Every score is a line of benchmarks/results/matrix_supernets.csv,
and is not made again. What alpha prefers is left in folders for

    python -m export.report.compare runs/matrix/supernets/convnet-0 ...

For two cores run it twice: --part 0 2 and --part 1 2. What the scores say:
python -m benchmarks.matrix_sight
"""

from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import tyro

from base.errors import UserError
from base.files import write_json
from benchmarks import matrix
from benchmarks.csv_lines import append_lines, read_lines
from benchmarks.matrix_students import Timed
from benchmarks.matrix_teachers import TEACHERS, Answer, worlds_of
from benchmarks.provenance import provenance
from benchmarks.shared_search import (
    OneBudget,
    calibration_images,
    search_loss,
    trained_alpha,
    trained_weights,
)
from benchmarks.world import KD_LOSS, World, accuracy
from kd.evaluate import recalibrate
from supernet.alpha import preferences


@dataclass(frozen=True)
class Settings:
    """Which supernets are trained, and for how long."""

    data: str
    """Folder of CIFAR-10 images."""
    limit: int = 8000
    """Images to train and search with."""
    target: float = 1.0
    """Milliseconds of the students, for a batch of 32: those of benchmarks.matrix."""
    w_epochs: int = 12
    """As many as the students of the matrix."""
    alpha_steps: int = 300
    seeds: tuple[int, ...] = (0, 1, 2)
    part: tuple[int, int] = (0, 1)
    """Which part of how many is trained by this process."""
    run: Path = Path("runs/matrix")
    """Of benchmarks.matrix: its teachers, table and students."""
    out: Path = Path("benchmarks/results/matrix_supernets.csv")


def main(settings: Settings) -> None:
    """Train the supernets that are not done yet, and score the students with them."""
    shared = {name: getattr(settings, name) for name in ("data", "limit", "target", "run")}
    world, students, answers = matrix.opened(matrix.Settings(**shared))
    worlds = worlds_of(world, answers)
    facts = world.facts() | provenance("matrix_supernets", settings)
    write_json(settings.out.with_suffix(".json"), facts)
    part, parts = settings.part
    for seed, name in list(product(settings.seeds, TEACHERS))[part::parts]:
        lines = read_lines(settings.out)
        if any((line["teacher"], line["seed"]) == (name, str(seed)) for line in lines):
            continue
        own = searching(worlds[name], answers[name])
        scores = scored(settings, own, students, seed, settings.run / f"supernets/{name}-{seed}")
        known = {"teacher": name, "seed": seed}
        append_lines(settings.out, [known | {"number": i} | one for i, one in enumerate(scores)])


def searching(world: World, answer: Answer) -> World:
    """Return a world whose search split has its teacher's answers, too."""
    return replace(world, search=world.search.answered(answer))


def scored(
    settings: Settings, world: World, students: list[Timed], seed: int, folder: Path
) -> list[dict[str, float]]:
    """Train weights and alpha for students of one latency; return every student's scores."""
    problem = OneBudget(world.table, settings.target)
    supernet = trained_weights(world, problem, KD_LOSS, settings.w_epochs, seed, folder)
    steps, path = settings.alpha_steps, folder / "alpha.pt"
    alpha = trained_alpha(world, supernet, problem, KD_LOSS, steps, seed, path)
    liked = {"guide": world.teacher, "budgets": preferences(alpha, 2)}
    write_json(folder / "preferences.json", liked)
    images, found = calibration_images(world), []
    for architecture, _ in students:
        student = supernet.extract(architecture)
        recalibrate(student, images)
        loss, right = search_loss(student, world, KD_LOSS), accuracy(student, world.search)
        found.append({"search_loss": loss, "search_accuracy": right})
    return found


if __name__ == "__main__":
    try:
        main(tyro.cli(Settings))
    except UserError as error:
        raise SystemExit(f"matrix_supernets: {error}") from error
