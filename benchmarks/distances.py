"""Which distance to the teacher teaches best? One student, from scratch, on CIFAR-10 images.

    python -m benchmarks.cifar10 --data PATH --stage teacher
    python -m benchmarks.distances --data PATH

The same student learns from labels and with every distance, over several seeds. The search split
decides, the test split is only reported. Every finished training is a line of
benchmarks/results/distances.csv, and is not done again.
"""

import csv
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import tyro

from benchmarks.cifar10 import RESOLUTION, TEACHER
from benchmarks.provenance import provenance
from export.checkpoint import NoCheckpoint
from export.files import write_json
from kd.config import TrainConfig
from kd.data import Data, load_data
from kd.evaluate import accuracy, predict
from kd.fit import FitSettings, fit
from kd.loss import loss_of
from kd.prepare import Teaching, given_teacher, prepare_outputs
from kd.targets import endless
from supernet.presets import preset_space
from supernet.space import Architecture
from supernet.student import Student, parameters_and_macs

# (distance, kd_temperature): those of the papers, and 4, the default.
WAYS = (
    *(("labels", 1.0), ("kl", 4.0), ("dkd", 4.0), ("dist", 1.0), ("alpha_divergence", 1.0)),
    *(("kl", 1.0), ("dist", 4.0), ("alpha_divergence", 4.0)),
)
KD_WEIGHT = 0.9
FIELDS = ("distance", "kd_temperature", "seed", "search_accuracy", "test_accuracy")


@dataclass(frozen=True)
class Settings:
    """What is trained, and on what."""

    data: str
    """Folder of CIFAR-10 images."""
    limit: int = 5000
    epochs: int = 10
    views: int = 5
    seeds: tuple[int, ...] = (0, 1, 2)
    macs: float = 8e6
    """About so many multiply-accumulates the student has."""
    teacher: Path = Path("runs/benchmark/teacher/teacher.safetensors")
    """Weights that benchmarks.cifar10 leaves."""
    run: Path = Path("runs/distances")
    """Where the teacher's outputs are kept."""
    out: Path = Path("benchmarks/results/distances.csv")


def main(settings: Settings) -> None:
    """Train what is not done yet, and print mean and standard deviation of every way."""
    config = TrainConfig(
        preset="cifar10",
        data=settings.data,
        run=settings.run,
        teacher=(TEACHER,),
        teacher_checkpoint=(settings.teacher,),
        augment="crop_flip",
        search_fraction=0.2,
        views=settings.views,
        limit=settings.limit,
        precision="bf16",
    )
    data, device = load_data(config.data_settings(RESOLUTION)), torch.device("cpu")
    teacher = given_teacher(config, data, device)
    taught = prepare_outputs(
        config, teacher.fingerprint, lambda: teacher.model, data, settings.run / "targets"
    )
    student = architecture(settings)
    parameters, macs = parameters_and_macs(preset_space("cifar10", len(data.classes)), student)
    facts = {
        "images": [len(data.train), len(data.search), len(data.test)],
        "teacher": str(teacher.check),
        "student": {"architecture": student.to_json(), "params": parameters, "macs": macs},
        "kd_weight": KD_WEIGHT,
    }
    write_json(settings.out.with_suffix(".json"), provenance("distances", settings) | facts)
    for distance, temperature in WAYS:
        for seed in settings.seeds:
            if (distance, str(temperature), str(seed)) in done(settings.out):
                continue
            accuracies = trained(settings, data, taught, student, distance, temperature, seed)
            append(settings.out, (distance, temperature, seed, *accuracies))
    report(settings.out)


def architecture(settings: Settings) -> Architecture:
    """The random architecture whose cost is nearest to what is asked."""
    space, draws = preset_space("cifar10", 10), np.random.default_rng(0)
    drawn = [space.random(draws) for _ in range(200)]
    return min(drawn, key=lambda a: abs(parameters_and_macs(space, a)[1] / settings.macs - 1))


def trained(
    settings: Settings,
    data: Data,
    taught: Teaching,
    student: Architecture,
    distance: str,
    temperature: float,
    seed: int,
) -> tuple[float, float]:
    """Accuracy on the search and the test split of a student trained from scratch."""
    torch.manual_seed(seed)
    model = Student(preset_space("cifar10", len(data.classes)), student)
    batch = 128
    learns_from = "labels" if distance == "labels" else "kd"
    loss = loss_of(
        learns_from, "kl" if learns_from == "labels" else distance, temperature, KD_WEIGHT
    )
    fit(
        model,
        partial(endless, data.train, taught.train, settings.views, batch, seed, 0),
        loss,
        FitSettings(settings.epochs),
        len(data.train) // batch,
        f"{distance} {temperature:g}, seed {seed}",
        lambda *_, **__: None,
        NoCheckpoint(),
    )
    splits = (data.search, data.test)
    return tuple(accuracy(*predict(model, split.view(None), batch)) for split in splits)


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
