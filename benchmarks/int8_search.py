"""Does an int8 budget ask for another student than an fp32 one, and what is that worth?

    python -m benchmarks.rivals --data PATH --w-epochs 64 --networks searched
    python -m benchmarks.int8_search --data PATH

With the same shared weights, students are searched for milliseconds in int8 and for the same
milliseconds in fp32, with trials and without. Beside them stands what a user would do instead:
search in fp32 for the larger budget whose student takes these milliseconds once it is quantised,
and plain networks and ResNets that fill the budget in int8. All are trained alike, quantised alike
and timed together. Every training is a line of benchmarks/results/int8_search.csv, and is not done
again.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import nn

from base.errors import UserError
from base.files import read_json, write_json
from benchmarks.akd import SPACE
from benchmarks.csv_lines import append_lines, read_lines
from benchmarks.differences import difference, mean_std
from benchmarks.provenance import provenance
from benchmarks.shared_search import (
    SEARCHED,
    TRIAL_SHARE,
    UNTRIED,
    Searched,
    calibration_images,
    measured_picks,
    searched,
    trained_weights,
    tried,
    untried,
)
from benchmarks.shelf import filling, measured_ms, network
from benchmarks.world import KD_LOSS, Images, World, accuracy, open_world, trained_network
from export.int8.quantise import quantised
from export.onnx_file import to_onnx
from export.parity import onnx_logits
from export.timing.stopwatch import Patience
from export.timing.unit_of_work import UnitOfWork
from kd.evaluate import accuracy as share_right
from kd.rivals.rival import Outline
from supernet.choice.pick import Proposal, budget_predicted, pick_predicted
from supernet.choice.programme import programme
from supernet.latency.measurement import find_or_measure_table
from supernet.latency.runners import module_runner, student_runner, unit_of_table
from supernet.latency_table import LatencyTable
from supernet.space import Architecture
from supernet.student import Student

INT8, FP32, LARGER = "searched in int8", "searched in fp32", "searched in fp32 for more"
PATIENCE = Patience(0.004, 90, least_rounds=20)
# Budgets in fp32, in those in int8, among which the one is found that is as fast in int8.
LONGER = np.geomspace(1, 4, 25)
BATCH = 32


@dataclass(frozen=True)
class Settings:
    """What is searched and trained, and how often."""

    data: str
    """Folder of CIFAR-10 images."""
    limit: int = 8000
    budgets: tuple[float, ...] = (1.0,)
    """Milliseconds for a batch of 32."""
    w_epochs: int = 64
    epochs: int = 12
    """Of a student or a rival."""
    seeds: tuple[int, ...] = (0, 1, 2)
    families: tuple[str, ...] = (
        *("plain, 1-4-8", "plain, 1-2-4", "plain, 1-4-4"),
        *("resnet, 1-2-4", "resnet, 1-4-8"),
    )
    """Rivals that fill the budgets in int8."""
    run: Path = Path("runs/rivals")
    """Where benchmarks.rivals has left its teacher and shared weights."""
    out: Path = Path("benchmarks/results/int8_search.csv")


def main(settings: Settings) -> None:
    """Search, train and quantise what is not done yet, time all together, and compare."""
    world = open_world(settings.data, settings.limit, settings.run, SPACE)
    outline = Outline(SPACE.image_shape, SPACE.classes, SPACE.strides)
    tables = {precision: table_of(settings, precision) for precision in ("fp32", "int8")}
    rivals = filling(tables["int8"], outline, settings.budgets, PATIENCE)
    for seed in settings.seeds:
        networks = searched_networks(settings, world, tables, seed)
        networks |= {(f, ms): name for (ms, f), name in rivals.items() if f in settings.families}
        for (way, target_ms), name in networks.items():
            train(settings, world, outline, (way, target_ms, seed), name)
    lines = read_lines(settings.out)
    ms = timed_together(tables["int8"], outline, {line["network"] for line in lines})
    checks = {precision: own.provenance["check"] for precision, own in tables.items()}
    facts = world.facts() | {"students": SPACE.size(), "measured_ms": ms, "tables": checks}
    write_json(settings.out.with_suffix(".json"), facts | provenance("int8_search", settings))
    report(lines, ms)


def table_of(settings: Settings, precision: str) -> LatencyTable:
    """Measure the table of a precision, or find it in the run."""
    unit = UnitOfWork(BATCH, SPACE.resolution, precision=precision)
    folder = settings.run / f"table-{precision}"
    return find_or_measure_table(folder, SPACE, unit, Patience(0.01, 60), seed=0)


def searched_networks(
    settings: Settings, world: World, tables: Mapping[str, LatencyTable], seed: int
) -> dict[tuple[str, float], str]:
    """Search the students of a seed, or find them in the run; by way and budget.

    Each is searched with trials, of a share of the epochs that it will be trained for, and without.
    """
    folder = settings.run / f"searched-{seed}"
    path = folder / f"int8-picks-{settings.epochs}.json"
    known = [tuple(place) for place in read_json(path)["picks"]] if path.exists() else []
    if missing := [ms for ms in settings.budgets if ms not in {ms for _, ms, _ in known}]:
        old, epochs = programme(world.table), round(TRIAL_SHARE * settings.epochs)
        supernet = trained_weights(world, old, KD_LOSS, settings.w_epochs, seed, folder)

        def search_in(precision: str) -> Searched:
            own, alpha = replace(world, table=tables[precision]), folder / f"alpha-{precision}.pt"
            return searched(own, programme(own.table), supernet, KD_LOSS, seed, alpha)

        in_int8, in_fp32 = search_in("int8"), search_in("fp32")
        for target_ms in missing:
            ways = {
                INT8: measured_picks(in_int8, target_ms, epochs),
                FP32: measured_picks(in_fp32, target_ms, epochs),
                LARGER: as_fast_in_int8(in_fp32, tables["int8"], target_ms, epochs),
            }
            known += [
                (way + how.removeprefix(SEARCHED), target_ms, architecture.to_json())
                for way, found in ways.items()
                for how, architecture in found.items()
            ]
            write_json(path, {"picks": known})
    return {(way, ms): json.dumps(one) for way, ms, one in known}


def as_fast_in_int8(
    found: Searched, table: LatencyTable, target_ms: float, epochs: int
) -> dict[str, Architecture]:
    """Return what is picked in fp32 for the largest budget whose pick is within it in int8."""

    def proposal(share: float) -> Proposal:
        budget_ms = share * target_ms
        return untried(found, budget_ms, budget_predicted(found.problem, budget_ms))

    def pick(share: float) -> Architecture:
        return pick_predicted(found.problem, proposal(share), share * target_ms).architecture

    fits, over = 0, len(LONGER)
    while over - fits > 1:
        middle = (fits + over) // 2
        within = table.predicted_ms(pick(LONGER[middle])) <= target_ms
        fits, over = (middle, over) if within else (fits, middle)
    own = tried(found, proposal(LONGER[fits]), epochs)
    within = [a for a in own.propose(own.asked_ms) if table.predicted_ms(a) <= target_ms]
    return {SEARCHED: min(within, key=own.expect), UNTRIED: pick(LONGER[fits])}


def built(name: str, outline: Outline) -> nn.Module:
    """Build a student from its JSON, or a rival from its name."""
    if name.startswith("{"):
        return Student(SPACE, Architecture.from_json(json.loads(name)))
    return network(name, outline)


def train(
    settings: Settings, world: World, outline: Outline, place: tuple[str, float, int], name: str
) -> None:
    """Train one network, quantise it, and add its line, unless it is there."""
    way, target_ms, seed = place
    line = {"way": way, "target_ms": str(target_ms), "seed": str(seed), "network": name}
    if any(line.items() <= known.items() for known in read_lines(settings.out)):
        return
    trained = trained_network(world, partial(built, name, outline), KD_LOSS, settings.epochs, seed)
    exact = to_onnx(trained, torch.zeros(2, *SPACE.image_shape))
    in_int8 = quantised(exact, calibration_images(world)).SerializeToString()
    line |= {"fp32_test_accuracy": accuracy(trained, world.test)}
    line |= {"int8_test_accuracy": accuracy_of_file(in_int8, world.test)}
    append_lines(settings.out, [line | {"params": sum(p.numel() for p in trained.parameters())}])


def accuracy_of_file(model: bytes, split: Images) -> float:
    """Share of a split's plain images that an ONNX model tells right."""
    images = (batch.images.contiguous() for batch in split.epoch(-1, 500))
    logits = onnx_logits(model, images, UnitOfWork(BATCH, SPACE.resolution, precision="int8"))
    return share_right(logits, split.labels.argmax(1))


def timed_together(
    table: LatencyTable, outline: Outline, names: set[str]
) -> dict[str, dict[str, float]]:
    """Return every network's milliseconds in int8 and in fp32, all of them timed interleaved."""
    unit, runners = unit_of_table(table), {}
    for name, precision in product(sorted(names), ("int8", "fp32")):
        own = replace(unit, precision=precision)
        if name.startswith("{"):
            runner = student_runner(SPACE, Architecture.from_json(json.loads(name)), own)
        else:
            runner = module_runner(network(name, outline), own)
        runners[f"{precision} {name}"] = runner
    ms = measured_ms(runners, table, PATIENCE)
    return {name: {p: ms[f"{p} {name}"] for p in ("int8", "fp32")} for name in names}


def report(lines: Sequence[Mapping[str, str]], ms: Mapping[str, Mapping[str, float]]) -> None:
    """Print milliseconds and accuracies of every way, and how far the int8 search is ahead."""
    rows: dict[tuple[str, str, str], dict[str, tuple[float, float]]] = defaultdict(dict)
    for line in lines:
        for precision in ("int8", "fp32"):
            place = line["target_ms"], line["way"], precision
            points = 100 * float(line[f"{precision}_test_accuracy"])
            rows[place][line["seed"]] = ms[line["network"]][precision], points
    for (target_ms, way, precision), found in sorted(rows.items()):
        took, points = zip(*found.values(), strict=True)
        own = [points for _, points in rows[target_ms, INT8, "int8"].values()]
        ahead = ""
        if (way, precision) != (INT8, "int8") and len(points) == len(own) > 1:
            ahead = f"int8 search ahead by {difference(own, points)}"
        told = f"{np.mean(took):.2f} ms {mean_std(points)} %"
        print(f"{target_ms} ms: {way:24} as {precision} {told} {ahead}")


if __name__ == "__main__":
    try:
        main(tyro.cli(Settings))
    except UserError as error:
        raise SystemExit(f"int8_search: {error}") from error
