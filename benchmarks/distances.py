"""Which distance to the teacher teaches best? One student, from scratch, on CIFAR-10 images.

    python -m benchmarks.distances --data PATH

The largest student of the small world learns from labels and with every distance, over several
seeds. The search split decides, the test split is only reported. Every finished training is a line
of benchmarks/results/distances.csv, and is not done again.
"""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from base.files import write_json
from benchmarks.csv_lines import append_lines, read_lines
from benchmarks.provenance import provenance
from benchmarks.small_world import SPACE, small_world
from benchmarks.world import KD_LOSS, accuracy, trained_student
from kd.loss import label_loss, loss_of
from supernet.student import parameters_and_macs

KD_WEIGHT = KD_LOSS.keywords["kd_weight"]
# (distance, kd_temperature): those of the papers, and 4, the default.
WAYS = (
    *(("labels", 1.0), ("kl", 4.0), ("dkd", 4.0), ("dist", 1.0), ("alpha_divergence", 1.0)),
    *(("kl", 1.0), ("dist", 4.0), ("alpha_divergence", 4.0)),
)


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
    facts = {"student": {"params": params, "macs": macs}, "kd_weight": KD_WEIGHT}
    facts |= provenance("distances", settings) | world.facts()
    write_json(settings.out.with_suffix(".json"), facts)
    for distance, temperature in WAYS:
        loss = label_loss
        if distance != "labels":
            loss = loss_of("kd", distance, temperature, KD_WEIGHT)
        for seed in settings.seeds:
            if (distance, str(temperature), str(seed)) in done(settings.out):
                continue
            student = trained_student(world, SPACE.largest(), loss, settings.epochs, seed)
            line = {
                "distance": distance,
                "kd_temperature": temperature,
                "seed": seed,
                "search_accuracy": accuracy(student, world.search),
                "test_accuracy": accuracy(student, world.test),
            }
            append_lines(settings.out, [line])
    report(settings.out)


def done(path: Path) -> set[tuple[str, str, str]]:
    """Which trainings are in the file."""
    return {(r["distance"], r["kd_temperature"], r["seed"]) for r in read_lines(path)}


def report(path: Path) -> None:
    """Print mean ± standard deviation over the seeds."""
    found = defaultdict(list)
    for row in read_lines(path):
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
