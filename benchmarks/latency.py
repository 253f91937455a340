"""How good is the latency table, and are budgets hit? Every figure in one run.

    python -m benchmarks.latency --presets digits imagenet
    python -m benchmarks.latency --presets imagenet cifar10 --precision int8 --budgets 5
    python -m benchmarks.latency --presets imagenet --precision bf16 --provider openvino:CPU

For each preset: the table is measured; networks that it has not seen are timed in new sessions and
compared with its predictions; the same parts and networks are timed one after the other, as most
tools do, and summed; ten budgets spread over the range are searched with random alpha and random
scores, and the architecture found is exported as it would ship and timed again. Writes
benchmarks/results/latency.json and latency.png. Expect 10 minutes for each.
"""

import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import tyro
from scipy.stats import spearmanr
from tqdm import tqdm

from base.errors import UserError
from base.files import read_json, write_json
from benchmarks.provenance import provenance
from export.int8.quantise import quantised
from export.onnx_file import to_onnx, write_model
from export.report.figures import predicted_figure
from export.timing.rough import quick_ms
from export.timing.stopwatch import Patience
from export.timing.unit_of_work import CPU, UnitOfWork
from kd.run.recipes import TRAIN_RECIPES
from kd.run.search_config import SearchConfig
from supernet.choice.evidence import is_kept
from supernet.choice.pick import Proposal, budget_asked, pick_measured
from supernet.choice.programme import Programme, candidates, programme
from supernet.latency.graphs import with_biases
from supernet.latency.measurement import find_or_measure_table
from supernet.latency.plan import timing_plan
from supernet.latency.runners import part_runner, student_runner, unit_of_table
from supernet.latency.students import measure_architectures, measure_shipped
from supernet.latency_table import LatencyTable, places
from supernet.presets import preset_space
from supernet.space import Architecture, Choices
from supernet.student import Student


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    presets: tuple[str, ...] = ("digits", "imagenet")
    unseen: int = 30
    """Random networks that are timed in new sessions after the table is done."""
    budgets: int = 10
    precision: str = "fp32"
    provider: str = CPU
    seed: int = 0
    out: Path = Path("benchmarks/results")


def main(settings: Settings) -> None:
    """Measure every preset, and write figures and picture."""
    path = settings.out / "latency.json"
    results = read_json(path) if path.exists() else {}
    for preset in settings.presets:
        own = replace(settings, presets=(preset,))
        usual = {"fp32", CPU}
        name = ", ".join([preset, *(w for w in (own.precision, own.provider) if w not in usual)])
        results[name] = {**provenance("latency", own), **measured(settings, preset)}
        write_json(path, results)
    panels = {
        f"{preset}: {result['unseen']['error']:.1%} error": tuple(
            [network[side] for network in result["unseen"]["networks"]]
            for side in ("predicted_ms", "measured_ms")
        )
        for preset, result in results.items()
    }
    predicted_figure(settings.out / "latency.png", panels)


def measured(settings: Settings, preset: str) -> dict[str, object]:
    """All figures of one preset."""
    recipe = TRAIN_RECIPES[preset]
    space = preset_space(preset, 1000 if preset == "imagenet" else 10)
    unit = UnitOfWork(
        recipe.latency_batch,
        space.resolution,
        provider=settings.provider,
        precision=settings.precision,
    )
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        own = (Path(folder), space, unit, recipe.patience(), settings.seed)
        table = find_or_measure_table(*own)
        seconds = time.perf_counter() - start
        problem = programme(table)
        figures = {
            "table_seconds": seconds,
            "range_ms": problem.range_ms(),
            "table": dict(table.provenance),
            "unseen": unseen(settings, table),
            "serial": serial(settings, table),
            "hits": [
                hit(settings, problem, ms, Path(folder)) for ms in spread_budgets(settings, problem)
            ],
        }
    shares = [one["used"] for one in figures["hits"] if "used" in one]
    print(f"\n{preset}: table in {seconds:.0f} s, check {table.provenance['check']}")
    print(f"unseen {figures['unseen']['error']:.2%}, serial {figures['serial']['error']:.2%}")
    print(f"budgets used: {', '.join(f'{share:.1%}' for share in shares)}")
    return figures


def unseen(settings: Settings, table: LatencyTable) -> dict[str, object]:
    """Predict and time random networks that neither fit nor check has seen, in new sessions."""
    draws = np.random.default_rng(settings.seed + 1000)
    networks = list({table.space.random(draws): None for _ in range(settings.unseen)})
    patience = Patience(spread=0.005, seconds=45, least_rounds=20)
    timings = measure_architectures(table, patience, settings.seed, networks)
    again = measure_architectures(table, patience, settings.seed + 1, networks)
    predicted = np.array([table.predicted_ms(a) for a in networks])
    ms = np.array([timings[a].ms for a in networks])
    ms_again = np.array([again[a].ms for a in networks])
    return {
        "error": float(np.abs(predicted / ms - 1).mean()),
        "worst_error": float(np.abs(predicted / ms - 1).max()),
        "bias": float((predicted / ms - 1).mean()),
        "spearman": float(spearmanr(predicted, ms).statistic),
        "repeatability": float(np.abs(ms_again / ms - 1).mean()),
        "networks": [
            {"predicted_ms": p, "measured_ms": m, "measured_again_ms": a}
            for p, m, a in zip(predicted.tolist(), ms.tolist(), ms_again.tolist(), strict=True)
        ],
    }


def serial(settings: Settings, table: LatencyTable) -> dict[str, float]:
    """The usual way: each part and network timed one after the other, best of ten runs, summed."""
    plan, unit = timing_plan(table.space, settings.seed), unit_of_table(table)
    part_ms = {
        place: quick_ms(part_runner(part, unit), runs=10)
        for place, part in tqdm(plan.parts.items(), desc="serial", unit="part")
    }
    whole_ms = [
        [quick_ms(student_runner(table.space, a, unit), runs=10) for a in plan.check.values()]
        for _ in range(2)
    ]
    summed = np.array(
        [sum(part_ms[p] for p in places(table.space, a)) for a in plan.check.values()]
    )
    first, second = map(np.array, whole_ms)
    slope = np.mean(first / summed)
    return {
        "error": float(np.abs(summed / first - 1).mean()),
        "error_after_one_slope": float(np.abs(slope * summed / first - 1).mean()),
        "repeatability": float(np.abs(second / first - 1).mean()),
    }


def spread_budgets(settings: Settings, problem: Programme) -> list[float]:
    """Budgets between the fastest and the slowest student, in equal ratios, ends left out."""
    grid = np.geomspace(*problem.range_ms(), settings.budgets + 2)[1:-1]
    return [float(f"{ms:.3g}") for ms in grid]


def hit(
    settings: Settings, problem: Programme, target_ms: float, folder: Path
) -> dict[str, object]:
    """Derive for a budget with a random alpha, export, and time the file in a new session."""
    table, search = problem.table, SearchConfig()
    draws = np.random.default_rng((settings.seed, round(1000 * target_ms)))
    generator = torch.Generator().manual_seed(round(1000 * target_ms))
    log_p = random_alpha(problem, generator)
    time_whole = partial(measure_architectures, table, search.patience(), settings.seed)
    propose = partial(candidates, problem, log_p, count=search.candidates, generator=draws)
    losses: dict[Architecture, float] = {}

    def expect(architecture: Architecture) -> float:
        return losses.setdefault(architecture, draws.random())

    own = Proposal(propose, budget_asked(problem, target_ms), expect)
    start = time.perf_counter()
    try:
        pick = pick_measured(problem, own, target_ms, search.finalists, time_whole)
    except UserError as error:
        return {"target_ms": target_ms, "missed": str(error)}
    searched = time.perf_counter()
    ms = shipped_ms(settings, table, pick.architecture, target_ms, folder)
    found = {
        "target_ms": target_ms,
        "predicted_ms": pick.predicted_ms,
        "picked_ms": pick.measured.ms,
        "measured_ms": ms,
        "used": ms / target_ms,
        "met": ms <= target_ms,
        "search_seconds": searched - start,
        "ship_seconds": time.perf_counter() - searched,
    }
    # Whether the table knows an architecture that would use more of the budget.
    nothing = np.zeros(problem.binaries)
    larger_ms = (1.002 * pick.predicted_ms, pick.predicted_ms * target_ms / ms)
    found["space_has_more"] = problem.solve(nothing, *larger_ms) is not None
    print(found, flush=True)
    return found


def random_alpha(problem: Programme, generator: torch.Generator) -> Choices:
    """Log-probabilities of every decision, from normal logits."""
    return {
        d.name: torch.randn(len(d.choices), generator=generator).log_softmax(0)
        for d in problem.table.space.decisions()
    }


def shipped_ms(
    settings: Settings,
    table: LatencyTable,
    architecture: Architecture,
    target_ms: float,
    folder: Path,
) -> float:
    """Milliseconds of a student exported as it would ship, in a new session."""
    torch.manual_seed(settings.seed)
    student = with_biases(Student(table.space, architecture))
    model, path = (
        to_onnx(student, torch.zeros(2, *table.space.image_shape)),
        folder / "student.onnx",
    )
    if settings.precision == "int8":
        model = quantised(model, [torch.rand(2, *table.space.image_shape)])
    write_model(model.SerializeToString(), path, {})
    predicted_ms, limits = table.predicted_ms(architecture), (SearchConfig().patience(), 2)
    kept = partial(is_kept, target_ms)
    return measure_shipped(student, path, predicted_ms, table, *limits, kept).ms


if __name__ == "__main__":
    main(tyro.cli(Settings))
