"""What is every student worth? All of a small space, each trained from scratch with KD.

    python -m benchmarks.ground_truth --data PATH

Every finished training is a line of benchmarks/results/ground_truth.csv, and is not done again. For
two cores, run it twice: --part 0 2 and --part 1 2. Says how much architectures differ beside seeds.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import tyro

from base.files import write_json
from benchmarks.csv_lines import append_lines, read_lines
from benchmarks.provenance import provenance
from benchmarks.small_world import BUDGETS, SPACE, architectures, budgets_ms, small_world
from benchmarks.world import KD_LOSS, World, accuracy, trained_student
from supernet.choice.programme import programme
from supernet.student import parameters_and_macs


@dataclass(frozen=True)
class Settings:
    """What is trained, and on what."""

    data: str
    """Folder of CIFAR-10 images."""
    limit: int = 8000
    """Images to train and search with, and at most as many test images."""
    epochs: int = 10
    seeds: tuple[int, ...] = (0, 1)
    more_seeds: tuple[int, ...] = (2, 3)
    """For those in the best tenth within any budget of benchmarks.regret, by the first seeds."""
    part: tuple[int, int] = (0, 1)
    """Which part of how many is trained by this process."""
    run: Path = Path("runs/small_world")
    out: Path = Path("benchmarks/results/ground_truth.csv")


def main(settings: Settings) -> None:
    """Train what is not done yet."""
    world = small_world(settings.data, settings.limit, settings.run)
    facts = provenance("ground_truth", settings) | world.facts()
    write_json(settings.out.with_suffix(".json"), facts | {"students": len(architectures())})
    numbers = range(len(architectures()))
    train(settings, world, numbers, settings.seeds)
    if all(len(truth(settings.out).get(n, ())) >= len(settings.seeds) for n in numbers):
        best = contenders(settings.out, len(settings.seeds), world)
        train(settings, world, best, settings.more_seeds)
    print(spread(settings.out))


def train(settings: Settings, world: World, numbers: Sequence[int], seeds: Sequence[int]) -> None:
    """Train students, by their numbers, with every seed; leave out what is done."""
    part, parts = settings.part
    for seed, number in product(seeds, numbers[part::parts]):
        if (str(number), str(seed)) in done(settings.out):
            continue
        architecture = architectures()[number]
        student = trained_student(world, architecture, KD_LOSS, settings.epochs, seed)
        params, macs = parameters_and_macs(SPACE, architecture)
        line = {
            "number": number,
            "seed": seed,
            "test_accuracy": accuracy(student, world.test),
            "search_accuracy": accuracy(student, world.search),
            "params": params,
            "macs": macs,
            "predicted_ms": world.table.predicted_ms(architecture),
        }
        append_lines(settings.out, [line])


def contenders(path: Path, seeds: int, world: World) -> list[int]:
    """Return the students in the best tenth within any of the budgets, by the first seeds."""
    worth = {number: np.mean(own[:seeds]) for number, own in truth(path).items()}
    ms = {n: world.table.predicted_ms(a) for n, a in enumerate(architectures())}
    found = set()
    for target_ms in budgets_ms(programme(world.table), BUDGETS):
        feasible = sorted((n for n in worth if ms[n] <= target_ms), key=worth.__getitem__)
        found |= set(feasible[-math.ceil(len(feasible) / 10) :])
    return sorted(found)


def done(path: Path) -> set[tuple[str, str]]:
    """Which trainings are in the file."""
    return {(line["number"], line["seed"]) for line in read_lines(path)}


def truth(path: Path, column: str = "test_accuracy") -> dict[int, list[float]]:
    """Return accuracies from the first seed to the last, by the architecture's number."""
    found = defaultdict(list)
    for row in sorted(read_lines(path), key=lambda row: int(row["seed"])):
        found[int(row["number"])].append(float(row[column]))
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
