"""Do students that were found on one data set stay good on another? AKD's question.

    python -m benchmarks.rivals --data PATH --w-epochs 64 --networks searched --epochs 12
    python -m benchmarks.transfer --data PATH --other PATH

The searched students of every budget and random ones as fast are trained on other images, with a
teacher that was trained there: from scratch, and the searched ones also from the weights that they
have learned on the first images. Every training is a line of benchmarks/results/transfer.csv, and
is not done again.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
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
from benchmarks.shared_search import SEARCHED
from benchmarks.world import KD_LOSS, World, accuracy, open_world, trained_network, world_table
from supernet.choice.programme import programme
from supernet.sampling import fair_sampler, random_as_fast
from supernet.space import Architecture
from supernet.student import Student

RANDOM, FROM_WEIGHTS = "random as fast", "searched, from its first weights"


@dataclass(frozen=True)
class Settings:
    """What is trained, and how often."""

    data: str
    """Folder of the images that students were found with."""
    other: str
    """Folder of the other images, of as many classes."""
    limit: int = 8000
    budgets: tuple[float, ...] = (1.0, 1.6, 2.5)
    """Milliseconds for a batch of 32."""
    searched_epochs: int = 12
    """Of the trainings that the searched students were tried for, and of their first weights."""
    epochs: int = 40
    """Of a student on the other images."""
    seeds: tuple[int, ...] = (0, 1, 2)
    run: Path = Path("runs/rivals")
    """Where benchmarks.rivals has left its teacher, table and students."""
    other_run: Path = Path("runs/transfer")
    out: Path = Path("benchmarks/results/transfer.csv")


def main(settings: Settings) -> None:
    """Train what is not done yet, and compare."""
    table = world_table(settings.run, SPACE)
    first = open_world(settings.data, settings.limit, settings.run, SPACE)
    other = open_world(settings.other, settings.limit, settings.other_run, SPACE, table=table)
    asked = RivalSettings(settings.data, budgets=settings.budgets, run=settings.run)
    problem = programme(table)
    sampler = fair_sampler(table, *problem.range_ms())
    for seed in settings.seeds:
        found = picks(asked, first, settings.searched_epochs, seed)
        for target_ms in settings.budgets:
            searched = found[SEARCHED, target_ms]
            draws = np.random.default_rng((seed, round(1000 * target_ms)))
            most_ms = table.predicted_ms(searched)
            random = random_as_fast(sampler, most_ms, searched, draws)
            ways = {
                SEARCHED: partial(Student, SPACE, searched),
                RANDOM: partial(Student, SPACE, random),
                FROM_WEIGHTS: partial(known_student, settings, first, searched, seed),
            }
            for way, build in ways.items():
                line = {"way": way, "target_ms": str(target_ms), "seed": str(seed)}
                train(settings, other, line, build)
    lines = read_lines(settings.out)
    facts = {"first": first.facts(), "other": other.facts()} | provenance("transfer", settings)
    write_json(settings.out.with_suffix(".json"), facts)
    report(lines)


def known_student(
    settings: Settings, first: World, architecture: Architecture, seed: int
) -> nn.Module:
    """Return a student with the weights of the first images, but for its classifier."""
    build = partial(Student, SPACE, architecture)
    trained = trained_network(first, build, KD_LOSS, settings.searched_epochs, seed)
    new = Student(SPACE, architecture)
    trained.head.classifier = new.head.classifier
    return trained


def train(settings: Settings, world: World, line: Mapping[str, str], build: partial) -> None:
    """Train one student on the other images and add its line, unless it is there."""
    if any(line.items() <= known.items() for known in read_lines(settings.out)):
        return
    trained = trained_network(world, build, KD_LOSS, settings.epochs, int(line["seed"]))
    append_lines(settings.out, [line | {"test_accuracy": accuracy(trained, world.test)}])


def report(lines: Sequence[Mapping[str, str]]) -> None:
    """Print every way and budget, and how far the searched students are ahead of random ones."""
    points: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for line in lines:
        points[line["way"], line["target_ms"]][line["seed"]] = 100 * float(line["test_accuracy"])
    for (way, target_ms), own in sorted(points.items(), key=lambda item: float(item[0][1])):
        print(f"{target_ms} ms: {way:34} {mean_std(list(own.values()))} %")
    for way, beside in ((SEARCHED, RANDOM), (FROM_WEIGHTS, SEARCHED)):
        pairs = [(means(points, way)[seed], means(points, beside)[seed]) for seed in seeds(points)]
        print(f"{way} beside {beside}, means of seeds: {difference(*zip(*pairs, strict=True))}")


def means(points: Mapping[tuple[str, str], Mapping[str, float]], way: str) -> dict[str, float]:
    """Return a way's mean over the budgets, by seed."""
    own = [found for (known, _), found in points.items() if known == way]
    return {seed: float(np.mean([found[seed] for found in own])) for seed in seeds(points)}


def seeds(points: Mapping[tuple[str, str], Mapping[str, float]]) -> list[str]:
    """Return the seeds that all have."""
    return sorted(set.intersection(*(set(found) for found in points.values())))


if __name__ == "__main__":
    try:
        main(tyro.cli(Settings))
    except UserError as error:
        raise SystemExit(f"transfer: {error}") from error
