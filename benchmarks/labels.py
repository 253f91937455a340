"""What is a teacher worth, beside labels that see new views of the images in every epoch?

    python -m benchmarks.labels --data PATH

One student is trained from scratch with KD, on a teacher's answers to a few stored views; with
labels on the same views; and with labels on new views in every epoch, which need no storage: that
is the control of search.py. Same images, optimiser and seeds. Every training is a line of
benchmarks/results/labels.csv, and is not done again.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import tyro

from base.errors import UserError
from base.files import write_json
from benchmarks.akd import SPACE
from benchmarks.csv_lines import append_lines, read_lines
from benchmarks.differences import difference, mean_std
from benchmarks.provenance import provenance
from benchmarks.world import (
    KD_LOSS,
    VIEWS,
    World,
    accuracy,
    open_world,
    trained_student,
    with_new_views,
    world_config,
)
from kd.loss import label_loss

KD, STORED, NEW = "KD", "labels, stored views", "labels, new views"


@dataclass(frozen=True)
class Settings:
    """What is trained, and how often."""

    data: str
    """Folder of CIFAR-10 images."""
    limit: int = 8000
    epochs: tuple[int, ...] = (12, 48)
    seeds: tuple[int, ...] = (0, 1, 2)
    run: Path = Path("runs/rivals")
    """Where benchmarks.rivals has left its teacher."""
    out: Path = Path("benchmarks/results/labels.csv")


def main(settings: Settings) -> None:
    """Train what is not done yet, and compare."""
    world = open_world(settings.data, settings.limit, settings.run, SPACE)
    config = world_config(settings.data, settings.limit, settings.run)
    new = partial(with_new_views, world, config)
    for seed, epochs, way in product(settings.seeds, settings.epochs, (KD, STORED, NEW)):
        shown = partial(new, epochs) if way == NEW else lambda: world
        train(settings.out, shown, way, epochs, seed)
    facts = world.facts() | {"views": VIEWS, "student": SPACE.middle().to_json()}
    write_json(settings.out.with_suffix(".json"), facts | provenance("labels", settings))
    report(settings)


def train(out: Path, shown: Callable[[], World], way: str, epochs: int, seed: int) -> None:
    """Train the middle student of the space in one way and add its line, unless it is there."""
    line = {"way": way, "epochs": str(epochs), "seed": str(seed)}
    if any(line.items() <= known.items() for known in read_lines(out)):
        return
    loss = KD_LOSS if way == KD else label_loss
    world = shown()
    student = trained_student(world, SPACE.middle(), loss, epochs, seed)
    append_lines(out, [line | {"test_accuracy": accuracy(student, world.test)}])


def report(settings: Settings) -> None:
    """Print mean ± standard deviation in points, and by how much KD is ahead."""
    points: dict[tuple[int, str], dict[str, float]] = defaultdict(dict)
    for line in read_lines(settings.out):
        place = int(line["epochs"]), line["way"]
        points[place][line["seed"]] = 100 * float(line["test_accuracy"])
    for (epochs, way), own in sorted(points.items()):
        told, kd = (
            f"{epochs:3} epochs {way:22} {mean_std(list(own.values()))} %",
            points[epochs, KD],
        )
        both = sorted(own.keys() & kd.keys())
        if way != KD and len(both) > 1:
            pairs = [kd[seed] for seed in both], [own[seed] for seed in both]
            told += f", KD ahead by {difference(*pairs)}"
        print(told)


if __name__ == "__main__":
    try:
        main(tyro.cli(Settings))
    except UserError as error:
        raise SystemExit(f"labels: {error}") from error
