"""Two small students as an ensemble, or one student of the sum of their budgets?

    python -m benchmarks.rivals --data PATH --w-epochs 64 --networks searched --epochs 12
    python -m benchmarks.ensembles --data PATH

The searched students of the budgets are trained alike; the mean of the probabilities of all but the
largest is judged beside the largest, and their files are timed together. Every seed is a line of
benchmarks/results/ensembles.csv, and is not done again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from base.errors import UserError
from base.files import write_json
from benchmarks.akd import SPACE
from benchmarks.csv_lines import append_lines, read_lines
from benchmarks.differences import difference, mean_std
from benchmarks.provenance import provenance
from benchmarks.rivals import Settings as RivalSettings
from benchmarks.rivals import picks
from benchmarks.shared_search import SEARCHED
from benchmarks.world import KD_LOSS, Images, open_world, trained_network
from export.ensemble import averaged
from export.onnx_file import to_onnx
from export.runtimes.contest import time_together
from export.runtimes.network import Network
from export.runtimes.runtime import runtime_of
from export.timing.stopwatch import Patience
from export.timing.unit_of_work import UnitOfWork
from supernet.student import Student

ENSEMBLE = "ensemble"


@dataclass(frozen=True)
class Settings:
    """What is trained, and how often."""

    data: str
    """Folder of CIFAR-10 images."""
    limit: int = 8000
    budgets: tuple[float, ...] = (1.0, 1.6, 2.5)
    """Milliseconds for a batch of 32: those of the members, and last the one beside them."""
    epochs: int = 12
    seeds: tuple[int, ...] = (0, 1, 2)
    run: Path = Path("runs/rivals")
    """Where benchmarks.rivals has left its teacher, shared weights and students."""
    out: Path = Path("benchmarks/results/ensembles.csv")


def main(settings: Settings) -> None:
    """Train what is not done yet, and compare."""
    world = open_world(settings.data, settings.limit, settings.run, SPACE)
    asked = RivalSettings(settings.data, budgets=settings.budgets, run=settings.run)
    for seed in settings.seeds:
        if str(seed) in {line["seed"] for line in read_lines(settings.out)}:
            continue
        found, students = picks(asked, world, settings.epochs, seed), {}
        for target_ms in settings.budgets:
            build = partial(Student, SPACE, found[SEARCHED, target_ms])
            students[target_ms] = trained_network(world, build, KD_LOSS, settings.epochs, seed)
        line = {"seed": seed} | accuracies(students, world.test) | milliseconds(students)
        append_lines(settings.out, [line])
    lines = read_lines(settings.out)
    facts = world.facts() | provenance("ensembles", settings)
    write_json(settings.out.with_suffix(".json"), facts)
    report(settings, lines)


@torch.no_grad()
def accuracies(students: Mapping[float, nn.Module], test: Images) -> dict[str, float]:
    """Judge every student, and the ensemble of all but the last."""
    labels = test.labels.argmax(1)

    def right(answers: Tensor) -> float:
        return (answers.argmax(1) == labels).float().mean().item()

    chances = {
        f"{ms} ms": torch.cat([own.eval()(b.images).softmax(1) for b in test.epoch(-1, 500)])
        for ms, own in students.items()
    }
    members = torch.stack(list(chances.values())[:-1]).mean(0)
    told = {**chances, ENSEMBLE: members}
    return {f"{name}, accuracy": right(answers) for name, answers in told.items()}


def milliseconds(students: Mapping[float, nn.Module]) -> dict[str, float]:
    """Time every student's graph, and the ensemble's, in the same rounds."""
    unit, example = UnitOfWork(32, SPACE.resolution), torch.zeros(2, *SPACE.image_shape)
    graphs = {f"{ms} ms": to_onnx(own, example) for ms, own in students.items()}
    graphs[ENSEMBLE] = averaged(list(graphs.values())[:-1])
    runners = {
        name: runtime_of(unit).runner(Network(unit.shape, graph.SerializeToString), unit)
        for name, graph in graphs.items()
    }
    timings = time_together(runners, ENSEMBLE, Patience(0.004, 30, share=1, least_rounds=30))
    return {f"{name}, milliseconds": timing.ms for name, timing in timings.items()}


def report(settings: Settings, lines: Sequence[Mapping[str, str]]) -> None:
    """Print accuracy and milliseconds of all, and the ensemble beside the largest student."""
    names = [*(f"{ms} ms" for ms in settings.budgets), ENSEMBLE]
    points = {n: [100 * float(line[f"{n}, accuracy"]) for line in lines] for n in names}
    for name in names:
        ms = np.mean([float(line[f"{name}, milliseconds"]) for line in lines])
        print(f"{name:10} {ms:.2f} ms {mean_std(points[name])} %")
    largest = names[-2]
    if len(lines) > 1:
        ahead = difference(points[ENSEMBLE], points[largest])
        print(f"{ENSEMBLE} beside the student of {largest}: {ahead}")


if __name__ == "__main__":
    try:
        main(tyro.cli(Settings))
    except UserError as error:
        raise SystemExit(f"ensembles: {error}") from error
