"""What is every student worth? All of a small space, each trained from scratch with KD.

    python -m benchmarks.ground_truth --data PATH

Every finished training is a line of benchmarks/results/ground_truth.csv, and is not done again. For
two cores, run it twice: --part 0 2 and --part 1 2. Says how much architectures differ beside seeds.
"""

import csv
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import nn

from benchmarks.provenance import provenance
from benchmarks.small_world import BATCH, SPACE, Images, World, architectures, small_world
from export.checkpoint import NoCheckpoint
from export.files import write_json
from kd.fit import FitSettings, fit
from kd.loss import kd_loss
from supernet.space import Architecture
from supernet.student import Student, parameters_and_macs

KD_TEMPERATURE, KD_WEIGHT = 4.0, 0.9
FIELDS = ("number", "seed", "test_accuracy", "search_accuracy", "params", "macs", "predicted_ms")


@dataclass(frozen=True)
class Settings:
    """What is trained, and on what."""

    data: str
    """Folder of CIFAR-10 images."""
    limit: int = 8000
    """Images to train and search with, and at most as many test images."""
    epochs: int = 10
    seeds: tuple[int, ...] = (0, 1)
    part: tuple[int, int] = (0, 1)
    """Which part of how many is trained by this process."""
    run: Path = Path("runs/small_world")
    out: Path = Path("benchmarks/results/ground_truth.csv")


def main(settings: Settings) -> None:
    """Train what is not done yet."""
    world = small_world(settings.data, settings.limit, settings.run)
    facts = {"teacher": world.teacher, "students": len(architectures())}
    images = [len(split.labels) for split in (world.train, world.search, world.test)]
    facts |= {"images": images, "table": dict(world.table.provenance)}
    write_json(settings.out.with_suffix(".json"), provenance("ground_truth", settings) | facts)
    part, parts = settings.part
    for seed in settings.seeds:
        for number, architecture in list(enumerate(architectures()))[part::parts]:
            if (number, seed) in {(int(r["number"]), int(r["seed"])) for r in rows(settings.out)}:
                continue
            append(settings.out, (number, seed, *worth(settings, world, architecture, seed)))
    print(spread(settings.out))


def worth(
    settings: Settings, world: World, architecture: Architecture, seed: int
) -> tuple[float, float, int, int, float]:
    """Train one student; return accuracies on the test and the search split, and its size."""
    torch.manual_seed(seed)
    student = Student(SPACE, architecture)
    fit(
        student,
        partial(world.train.endless, BATCH, seed),
        partial(kd_loss, kd_temperature=KD_TEMPERATURE, kd_weight=KD_WEIGHT),
        FitSettings(settings.epochs),
        len(world.train.labels) // BATCH,
        f"student, seed {seed}",
        lambda *_, **__: None,
        NoCheckpoint(),
    )
    accuracies = (accuracy(student, world.test), accuracy(student, world.search))
    size = parameters_and_macs(SPACE, architecture)
    return *accuracies, *size, world.table.predicted_ms(architecture)


@torch.no_grad()
def accuracy(student: nn.Module, split: Images) -> float:
    """Share of a split's plain images that are told right."""
    student.eval()
    right = [
        (student(batch.images).argmax(1) == batch.labels.argmax(1)).float()
        for batch in split.epoch(-1, 500)
    ]
    return torch.cat(right).mean().item()


def rows(path: Path) -> list[dict[str, str]]:
    """Return the lines that are done."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append(path: Path, row: tuple) -> None:
    """Add a line, under a header in a new file."""
    begins = not path.exists()
    with path.open("a", newline="") as file:
        csv.writer(file).writerows([FIELDS, row] if begins else [row])


def truth(path: Path) -> dict[int, list[float]]:
    """Return test accuracies over the seeds, by the architecture's number."""
    found = defaultdict(list)
    for row in rows(path):
        found[int(row["number"])].append(float(row["test_accuracy"]))
    return dict(found)


def spread(path: Path) -> str:
    """Say how much architectures differ, and how much seeds do: standard deviations in points."""
    found = [values for values in truth(path).values() if len(values) > 1]
    if len(found) < 2:
        return "too few students to compare"
    seeds = 100 * float(np.sqrt(np.mean([np.var(values, ddof=1) for values in found])))
    # The mean over seeds still holds a part of their variance.
    total = 100**2 * np.var([np.mean(values) for values in found], ddof=1)
    share = seeds**2 / np.mean([len(values) for values in found])
    between = float(np.sqrt(max(0.0, total - share)))
    best = max(found, key=np.mean)
    return (
        f"{len(found)} students, best {np.mean(best):.2%}: between architectures {between:.2f} "
        f"points, between seeds {seeds:.2f}, ratio {between / seeds:.2f}"
    )


if __name__ == "__main__":
    main(tyro.cli(Settings))
