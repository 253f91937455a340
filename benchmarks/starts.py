"""How much cheaper is a student that starts from its slice of the shared weights?

    python -m benchmarks.rivals --data PATH --w-epochs 64 --networks searched --epochs 12
    python -m benchmarks.starts --data PATH

The searched students of one budget are trained for several numbers of epochs: from scratch, from
their slices of the shared weights, and from these at a lower learning rate; same images, teacher,
optimiser and seeds. Every training is a line of benchmarks/results/starts.csv, and is not done
again.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import tyro
from torch import nn

from base.errors import UserError
from base.files import write_json
from benchmarks.akd import SPACE
from benchmarks.csv_lines import append_lines, read_lines
from benchmarks.differences import difference, mean_std
from benchmarks.provenance import provenance
from benchmarks.rivals import Settings as RivalSettings
from benchmarks.rivals import picks
from benchmarks.shared_search import SEARCHED, calibration_images, trained_weights
from benchmarks.world import KD_LOSS, World, accuracy, open_world, trained_network
from kd.evaluate import recalibrate
from kd.fit import FitSettings
from supernet.choice.programme import programme
from supernet.space import Architecture
from supernet.student import Student
from supernet.supernet import Supernet

SCRATCH, SHARED = "scratch", "shared"
LOWER = 0.3  # of the usual learning rate
WAYS = {SCRATCH: 1.0, SHARED: 1.0, f"{SHARED}, {LOWER} of the rate": LOWER}


@dataclass(frozen=True)
class Settings:
    """What is trained, and how often."""

    data: str
    """Folder of CIFAR-10 images."""
    limit: int = 8000
    budget: float = 1.0
    """Milliseconds for a batch of 32."""
    w_epochs: int = 64
    searched_epochs: int = 12
    """Of the trainings that the searched students were tried for."""
    epochs: tuple[int, ...] = (5, 10, 20, 40)
    seeds: tuple[int, ...] = (0, 1, 2)
    run: Path = Path("runs/rivals")
    """Where benchmarks.rivals has left its teacher, shared weights and students."""
    out: Path = Path("benchmarks/results/starts.csv")


def main(settings: Settings) -> None:
    """Train what is not done yet, and compare."""
    world = open_world(settings.data, settings.limit, settings.run, SPACE)
    asked = RivalSettings(settings.data, budgets=(settings.budget,), run=settings.run)
    for seed in settings.seeds:
        folder = settings.run / f"searched-{seed}"
        own = (world, programme(world.table), KD_LOSS, settings.w_epochs, seed, folder)
        supernet = trained_weights(*own)
        searched = picks(asked, world, settings.searched_epochs, seed)[SEARCHED, settings.budget]
        for epochs, way in product(settings.epochs, WAYS):
            line = {"way": way, "epochs": epochs, "seed": seed}
            train(settings.out, world, supernet, searched, line)
    lines = read_lines(settings.out)
    facts = world.facts() | provenance("starts", settings)
    write_json(settings.out.with_suffix(".json"), facts)
    report(lines)


def train(
    out: Path, world: World, supernet: Supernet, student: Architecture, own: Mapping[str, object]
) -> None:
    """Train a student in one way and add its line, unless it is there."""
    line = {name: str(value) for name, value in own.items()}
    if any(line.items() <= known.items() for known in read_lines(out)):
        return

    def build() -> nn.Module:
        if own["way"] == SCRATCH:
            return Student(SPACE, student)
        found = supernet.extract(student)
        recalibrate(found, calibration_images(world))
        return found

    rate = FitSettings.learning_rate * WAYS[own["way"]]
    trained = trained_network(world, build, KD_LOSS, own["epochs"], own["seed"], rate)
    found = {"test_accuracy": accuracy(trained, world.test)}
    append_lines(out, [line | found | {"network": json.dumps(student.to_json())}])


def report(lines: Sequence[Mapping[str, str]]) -> None:
    """Print every way and length, and how many epochs from scratch would do as well."""
    points: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
    for line in lines:
        place = line["way"], int(line["epochs"])
        points[place][line["seed"]] = 100 * float(line["test_accuracy"])
    lengths = sorted({epochs for _, epochs in points})
    scratch = [np.mean(list(points[SCRATCH, epochs].values())) for epochs in lengths]
    for (way, epochs), own in sorted(points.items()):
        told = f"{way:24} {epochs:3} epochs {mean_std(list(own.values()))} %"
        if way != SCRATCH:
            usual = points[SCRATCH, epochs]
            both = sorted(own.keys() & usual.keys())
            if len(both) > 1:
                pairs = [own[seed] for seed in both], [usual[seed] for seed in both]
                told += f", ahead of scratch by {difference(*pairs)}"
            told += f"; {as_good(np.mean(list(own.values())), lengths, scratch)}"
        print(told)


def as_good(points: float, lengths: Sequence[int], scratch: Sequence[float]) -> str:
    """Say how many epochs from scratch come to so many points, between those that were tried."""
    if not scratch[0] <= points <= scratch[-1]:
        bound = f"fewer than {lengths[0]}" if points < scratch[0] else f"more than {lengths[-1]}"
        return f"as good as {bound} from scratch"
    epochs = np.exp(np.interp(points, np.maximum.accumulate(scratch), np.log(lengths)))
    return f"as good as {epochs:.0f} from scratch"


if __name__ == "__main__":
    try:
        main(tyro.cli(Settings))
    except UserError as error:
        raise SystemExit(f"starts: {error}") from error
