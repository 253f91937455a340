"""Which distance to the teacher teaches best? One student, from scratch, on CIFAR-10 images.

    python -m benchmarks.distances --data PATH

The largest student of the small world learns from labels and with every distance, over several
seeds. The search split decides, the test split is only reported. Every finished training is a line
of benchmarks/results/distances.csv, and is not done again.
"""

import csv
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import tyro

from benchmarks.ground_truth import KD_WEIGHT, accuracy
from benchmarks.provenance import provenance
from benchmarks.small_world import BATCH, SPACE, World, small_world
from export.checkpoint import NoCheckpoint
from export.files import write_json
from kd.fit import FitSettings, fit
from kd.loss import label_loss, loss_of
from supernet.student import Student, parameters_and_macs

# (distance, kd_temperature): those of the papers, and 4, the default.
WAYS = (
    *(("labels", 1.0), ("kl", 4.0), ("dkd", 4.0), ("dist", 1.0), ("alpha_divergence", 1.0)),
    *(("kl", 1.0), ("dist", 4.0), ("alpha_divergence", 4.0)),
)
FIELDS = ("distance", "kd_temperature", "seed", "search_accuracy", "test_accuracy")


@dataclass(frozen=True)
class Settings:
    """What is trained, and on what."""

    data: str
    """Folder of CIFAR-10 images."""
    limit: int = 8000
    """Images to train and search with, and at most as many test images."""
    epochs: int = 20
    seeds: tuple[int, ...] = (0, 1, 2)
    run: Path = Path("runs/small_world")
    out: Path = Path("benchmarks/results/distances.csv")


def main(settings: Settings) -> None:
    """Train what is not done yet, and print mean and standard deviation of every way."""
    world = small_world(settings.data, settings.limit, settings.run)
    params, macs = parameters_and_macs(SPACE, SPACE.largest())
    facts = {
        "images": [len(split.labels) for split in (world.train, world.search, world.test)],
        "teacher": world.teacher,
        "student": {"params": params, "macs": macs},
        "kd_weight": KD_WEIGHT,
    }
    write_json(settings.out.with_suffix(".json"), provenance("distances", settings) | facts)
    for distance, temperature in WAYS:
        for seed in settings.seeds:
            if (distance, str(temperature), str(seed)) in done(settings.out):
                continue
            accuracies = trained(settings, world, distance, temperature, seed)
            append(settings.out, (distance, temperature, seed, *accuracies))
    report(settings.out)


def trained(
    settings: Settings, world: World, distance: str, temperature: float, seed: int
) -> tuple[float, float]:
    """Accuracy on the search and the test split of a student trained from scratch."""
    torch.manual_seed(seed)
    model = Student(SPACE, SPACE.largest())
    loss = label_loss
    if distance != "labels":
        loss = loss_of("kd", distance, temperature, KD_WEIGHT)
    fit(
        model,
        partial(world.train.endless, BATCH, seed),
        loss,
        FitSettings(settings.epochs),
        len(world.train.labels) // BATCH,
        f"{distance} {temperature:g}, seed {seed}",
        lambda *_, **__: None,
        NoCheckpoint(),
    )
    return accuracy(model, world.search), accuracy(model, world.test)


def done(path: Path) -> set[tuple[str, str, str]]:
    """Which trainings are in the file."""
    if not path.exists():
        return set()
    with path.open(newline="") as file:
        return {(r["distance"], r["kd_temperature"], r["seed"]) for r in csv.DictReader(file)}


def append(path: Path, row: tuple) -> None:
    """Add a line, under a header in a new file."""
    begins = not path.exists()
    with path.open("a", newline="") as file:
        csv.writer(file).writerows([FIELDS, row] if begins else [row])


def report(path: Path) -> None:
    """Print mean ± standard deviation over the seeds."""
    found = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            shares = float(row["search_accuracy"]), float(row["test_accuracy"])
            found[row["distance"], row["kd_temperature"]].append(shares)
    for (distance, temperature), shares in found.items():
        mean, std = np.mean(shares, axis=0), np.std(shares, axis=0, ddof=1)
        print(
            f"{distance:17} T {float(temperature):g}  search {mean[0]:.2%} ± {std[0]:.2%}"
            f"  test {mean[1]:.2%} ± {std[1]:.2%}  ({len(shares)} seeds)"
        )


if __name__ == "__main__":
    main(tyro.cli(Settings))
