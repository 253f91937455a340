"""Is the searched student better than what a user would take off the shelf, at the same latency?

    python -m benchmarks.rivals --data PATH

Plain networks, ResNets and timm's mobile families, each scaled to fill every budget, beside the
students that the search picks for it, with trials and without: same images, teacher, distillation,
optimiser and seeds. Every training is a line of benchmarks/results/rivals.csv, and is not done
again. As many processes may run as there are cores: each takes what no other trains. With --device
cuda on another machine, begin with --networks timed here, and end with --networks none.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Literal, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
from filelock import FileLock, Timeout
from matplotlib.ticker import ScalarFormatter
from torch import nn

from base.errors import UserError
from base.files import read_json, write_json
from benchmarks.akd import SPACE
from benchmarks.csv_lines import append_lines, read_lines
from benchmarks.differences import by_seeds, difference, mean_std
from benchmarks.provenance import provenance
from benchmarks.shared_search import (
    SEARCHED,
    TRIAL_SHARE,
    UNTRIED,
    measured_picks,
    predicted_picks,
    searched,
    trained_weights,
)
from benchmarks.shelf import filling, measured_ms, network
from benchmarks.world import KD_LOSS, World, accuracy, open_world, trained_network, world_table
from export.timing.stopwatch import Patience
from kd.rivals.rival import Outline
from supernet.choice.programme import programme
from supernet.latency.runners import module_runner, student_runner, unit_of_table
from supernet.latency_table import LatencyTable
from supernet.presets import preset
from supernet.space import Architecture, SearchSpace
from supernet.student import Student

OWN = (SEARCHED, UNTRIED)
PATIENCE = Patience(0.004, 90, least_rounds=20)
Points = dict[tuple[int, float, str], dict[int, float]]


@dataclass(frozen=True)
class Settings:
    """What is searched and trained, and how often."""

    data: str
    """Folder of CIFAR-10 images."""
    limit: int = 8000
    """Images to train and search with, and at most as many test images."""
    budgets: tuple[float, ...] = (1.0, 1.6, 2.5)
    """Milliseconds for a batch of 32."""
    preset: str | None = None
    """A space that comes with Oyster, or that of benchmarks.akd."""
    resolution: int = 16
    w_epochs: int = 64
    epochs: tuple[int, ...] = (12, 48)
    """Of a student or a rival."""
    seeds: tuple[int, ...] = (0, 1, 2)
    networks: Literal["all", "rivals", "searched", "timed", "none"] = "all"
    """Which are trained now; timed only measures the table and finds rivals; none only tells what
    is done."""
    device: str = "cpu"
    """Where networks are trained; with another than the CPU, students are picked by the table."""
    run: Path = Path("runs/rivals")
    out: Path = Path("benchmarks/results/rivals.csv")


def main(settings: Settings) -> None:
    """Train what is not done yet, time all of it together, and compare."""
    size = (settings.resolution,) * 2
    space = replace(SPACE, resolution=size)
    if settings.preset:
        space = preset(settings.preset).space(SPACE.classes, size)
    outline = Outline(space.image_shape, space.classes, space.strides)
    if settings.networks == "timed":
        rivals_of(settings, world_table(settings.run, space), outline)
    elif settings.networks != "none":
        train_all(settings, space, outline)
    if settings.networks in ("all", "none"):
        tell(settings, space, outline)


def train_all(settings: Settings, space: SearchSpace, outline: Outline) -> None:
    """Train what is not done yet."""
    device = torch.device(settings.device)
    world = open_world(settings.data, settings.limit, settings.run, space, device)
    write_json(settings.run / "world.json", world.facts())
    if settings.networks in ("all", "rivals"):
        rivals = rivals_of(settings, world.table, outline)
        for epochs, seed in product(settings.epochs, settings.seeds):
            for (target_ms, family), name in rivals.items():
                line = Line(family, target_ms, epochs, seed, name)
                train(settings, world, line, partial(network, name, outline))
    if settings.networks in ("all", "searched"):
        for epochs, seed in product(settings.epochs, settings.seeds):
            for (way, target_ms), architecture in picks(settings, world, epochs, seed).items():
                name = json.dumps(architecture.to_json())
                line = Line(way, target_ms, epochs, seed, name)
                train(settings, world, line, partial(Student, space, architecture))


def tell(settings: Settings, space: SearchSpace, outline: Outline) -> None:
    """Time all that was trained together, and compare."""
    lines, table = read_lines(settings.out), world_table(settings.run, space)
    ms = timed_together(table, outline, {line["network"] for line in lines})
    facts = read_json(settings.run / "world.json")
    facts |= {"students": space.size(), "measured_ms": ms}
    path = settings.out.with_suffix(".json")
    write_json(path, facts | provenance("rivals", settings))
    report(lines, ms)
    draw(settings.out.with_suffix(".png"), lines, ms)


class Line(NamedTuple):
    """One training, but for what came of it."""

    family: str
    target_ms: float
    epochs: int
    seed: int
    network: str


def train(settings: Settings, world: World, own: Line, build: Callable[[], nn.Module]) -> None:
    """Train one network and add its line, unless it is there."""
    training = {name: str(getattr(own, name)) for name in ("epochs", "seed", "network")}
    same = [line for line in read_lines(settings.out) if training.items() <= line.items()]
    place = own.family, str(own.target_ms)
    if any((line["family"], line["target_ms"]) == place for line in same):
        return
    if same:  # one network fills two budgets
        append_lines(settings.out, [same[0] | own._asdict()])
        return
    name = re.sub(r"\W+", "-", " ".join(training.values()))
    lock = FileLock(settings.run / "training" / name[:200], timeout=0)
    with suppress(Timeout), lock:
        trained = trained_network(world, build, KD_LOSS, own.epochs, own.seed)
        found = {"search_accuracy": accuracy(trained, world.search)}
        found |= {"test_accuracy": accuracy(trained, world.test)}
        found |= {"params": sum(p.numel() for p in trained.parameters())}
        append_lines(settings.out, [own._asdict() | found])


def rivals_of(
    settings: Settings, table: LatencyTable, outline: Outline
) -> dict[tuple[float, str], str]:
    """Return the network of every budget and family; what was found once is kept in the run."""
    path = settings.run / "rivals.json"
    if not path.exists():
        found = filling(table, outline, settings.budgets, PATIENCE)
        write_json(path, {"rivals": [[*place, name] for place, name in found.items()]})
    return {(ms, family): name for ms, family, name in read_json(path)["rivals"]}


def picks(
    settings: Settings, world: World, epochs: int, seed: int
) -> dict[tuple[str, float], Architecture]:
    """Search students for every budget with the supernet of a seed, or find them in the run.

    Students are tried for a share of the `epochs` that the picks are trained for, or not at all.
    """
    folder = settings.run / f"searched-{seed}"
    path = folder / f"picks-{epochs}.json"
    known = [tuple(place) for place in read_json(path)["picks"]] if path.exists() else []
    if missing := [ms for ms in settings.budgets if ms not in {ms for _, ms, _ in known}]:
        problem = programme(world.table)
        supernet = trained_weights(world, problem, KD_LOSS, settings.w_epochs, seed, folder)
        found = searched(world, problem, supernet, KD_LOSS, seed, folder / "alpha.pt")
        pick = measured_picks if world.device.type == "cpu" else predicted_picks
        for target_ms in missing:
            ways = pick(found, target_ms, round(TRIAL_SHARE * epochs))
            known += [(way, target_ms, one.to_json()) for way, one in ways.items()]
            write_json(path, {"picks": known})
    return {(way, ms): Architecture.from_json(one) for way, ms, one in known}


def timed_together(table: LatencyTable, outline: Outline, names: set[str]) -> dict[str, float]:
    """Return the milliseconds of every network, searched ones too, timed interleaved."""
    runners = {}
    for name in sorted(names):
        if name.startswith("{"):
            architecture = Architecture.from_json(json.loads(name))
            runners[name] = student_runner(table.space, architecture, unit_of_table(table))
        else:
            runners[name] = module_runner(network(name, outline), unit_of_table(table))
    return measured_ms(runners, table, PATIENCE)


def report(lines: Sequence[Mapping[str, str]], ms: Mapping[str, float]) -> None:
    """Print mean ± standard deviation in points, and the searched student beside every rival."""
    points = points_of(lines)
    known: dict[tuple[float, str], dict[str, float]] = defaultdict(dict)
    for line in lines:
        known[float(line["target_ms"]), line["family"]][line["network"]] = ms[line["network"]]
    for (epochs, target_ms, family), own in sorted(points.items()):
        measured = np.mean(list(known[target_ms, family].values()))
        name = next(iter(known[target_ms, family])) if family not in OWN else ""
        searched = points.get((epochs, target_ms, SEARCHED), {})
        both = sorted(own.keys() & searched.keys())
        beside = ""
        if family != SEARCHED and len(both) > 1:
            pairs = [searched[seed] for seed in both], [own[seed] for seed in both]
            beside = f"searched ahead by {difference(*pairs)}"
        told = f"{family:18} {name:24} {measured:.2f} ms {mean_std(list(own.values()))} %"
        print(f"{epochs:3} epochs, {target_ms} ms: {told} {beside}")
    for epochs in sorted({epochs for epochs, _, _ in points}):
        print(f"{epochs} epochs, over all pairs: {over_all(points, epochs)}")


def points_of(lines: Sequence[Mapping[str, str]]) -> Points:
    """Return test accuracy in %, by epochs, budget and family, for every seed."""
    found: Points = defaultdict(dict)
    for line in lines:
        place = int(line["epochs"]), float(line["target_ms"]), line["family"]
        found[place][int(line["seed"])] = 100 * float(line["test_accuracy"])
    return found


def over_all(points: Points, epochs: int) -> str:
    """Compare searched students with the best rival of each budget by the mean over seeds.

    Students of one seed share a supernet, so the means of seeds are what was drawn independently.
    """
    own: dict[tuple[str, str], float] = {}
    best: dict[tuple[str, str], float] = {}
    for target_ms in sorted({ms for e, ms, _ in points if e == epochs}):
        rivals = [
            found
            for (e, ms, family), found in points.items()
            if (e, ms) == (epochs, target_ms) and family not in OWN
        ]
        if rivals:
            strongest = max(rivals, key=lambda found: np.mean(list(found.values())))
            searched = points.get((epochs, target_ms, SEARCHED), {})
            own |= {(str(target_ms), str(seed)): value for seed, value in searched.items()}
            best |= {(str(target_ms), str(seed)): value for seed, value in strongest.items()}
    return f"searched beside the best rival of each budget {by_seeds(own, best)}"


def draw(path: Path, lines: Sequence[Mapping[str, str]], ms: Mapping[str, float]) -> None:
    """Draw mean accuracy against milliseconds, a panel for each length of training."""
    many = sorted({int(line["epochs"]) for line in lines})
    figure, panels = plt.subplots(1, len(many), figsize=(6 * len(many), 4.5), squeeze=False)
    for axes, epochs in zip(panels[0], many, strict=True):
        found: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
        for line in lines:
            if int(line["epochs"]) == epochs:
                kind = line["family"]
                kind = kind if kind in OWN else kind.partition(",")[0]
                point = ms[line["network"]], 100 * float(line["test_accuracy"])
                found[kind, f"{line['family']} {line['target_ms']}"].append(point)
        kinds = list(dict.fromkeys(kind for kind, _ in found))
        for kind in sorted(kinds, key=lambda k: k != SEARCHED):
            means = [np.mean(own, axis=0) for (k, _), own in found.items() if k == kind]
            spread = [np.std(own, axis=0)[1] for (k, _), own in found.items() if k == kind]
            x, y = np.array(means).T
            size = 9 if kind == SEARCHED else 5
            axes.errorbar(x, y, spread, fmt="o", label=kind, markersize=size, capsize=2)
        axes.set(title=f"{epochs} epochs", xlabel="ms for a batch of 32", xscale="log")
        axes.set_ylabel("test accuracy, %")
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(ScalarFormatter())
        axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    try:
        main(tyro.cli(Settings))
    except UserError as error:
        raise SystemExit(f"rivals: {error}") from error
