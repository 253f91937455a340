"""Budget -> student -> ONNX: derive, rank, measure, retrain from scratch, export, verify.

    python search.py --target-latency 20
    python search.py --list

Works on the folder that train.py made, and writes students/20ms/ there. Exit status: 0 when every
student is within its budget and equal to its ONNX file, 1 when one is not, 2 for what the user can
mend.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from glob import escape
from pathlib import Path

import numpy as np
import torch
import tyro

from export.errors import UserError
from export.exit_status import run_script
from export.files import write_json
from export.processes import from_first, join_processes, say
from export.report import table_text
from export.stopwatch import Timing, timed
from export.student_report import summary_rows, write_student_report
from export.students import budget_kept, read_students, students_text, write_pareto
from kd.bounds import check_settings
from kd.config import SEARCH_RECIPES, SearchConfig, TrainConfig
from kd.cost import search_cost
from kd.data import Data, load_data
from kd.evaluate import accuracy, predict
from kd.judge import judge
from kd.prepare import Teaching, prepare_outputs, run_teacher
from kd.retrain import retrain
from kd.run import AnyMetrics, open_metrics, read_config, read_metrics
from kd.settings import option, settings_of, train_config_of
from kd.stream import streamed
from kd.teacher import read_facts
from supernet.alpha import Alpha
from supernet.alpha_training import AlphaSettings, train_alpha
from supernet.derive import Programme, check_budget, programme
from supernet.latency import LatencyTable
from supernet.measure import (
    describe_table,
    given_table,
    measure_architectures,
    not_from_here,
    run_table,
)
from supernet.pick import Pick, kept_pick, pick_measured, pick_predicted
from supernet.presets import preset_resolution, preset_space
from supernet.sampling import fair_sampler, random_as_fast
from supernet.ship import ship
from supernet.space import Architecture
from supernet.storage import is_of_table, load_alpha, load_surrogate, load_weights, save_alpha
from supernet.student import Student, parameters_and_macs
from supernet.supernet import Supernet

PROCESSES = join_processes()
DEVICE = PROCESSES.device
Way = tuple[Architecture, str]  # what is trained, and whether from "kd" or from "labels" alone


@dataclass(frozen=True)
class Trained:
    """What train.py left in the run's folder, and the table of the device that counts."""

    config: TrainConfig
    data: Data
    taught: Teaching
    problem: Programme
    supernet: Supernet

    @property
    def table(self) -> LatencyTable:
        """The latency table that the programme is made of."""
        return self.problem.table


def main(config: SearchConfig) -> bool:
    """Make one student a budget; return whether all of them kept their promises."""
    check_settings(config)
    train_config = train_config_of(read_config(config.run)["settings"], config.run)
    space = preset_space(train_config.preset, len(read_facts(config.run)["classes"]))
    brought = config.latency_table
    table = given_table(brought, space) if brought else run_table(config.run, space)
    problem = programme(table)
    if config.list:
        say(overview(config, problem))
        return True
    if not config.target_latency:
        raise UserError("--target-latency is missing; give one or more budgets in milliseconds")
    for target_ms in config.target_latency:
        if check_budget(problem, target_ms):
            say(f"{target_ms:g} ms: more than any student needs; searching near that")
    trained = load_trained(train_config, problem)
    seconds = config.checkpoint_seconds
    with open_metrics(config.run, settings_of(config), "search", seconds) as metrics:
        alpha = alpha_of_table(config, trained, metrics)
        kept = [make_student(config, trained, alpha, ms, metrics) for ms in config.target_latency]
    if PROCESSES.is_main_process:
        students = read_students(config.run / "students", table.fingerprint())
        write_pareto(config.run / "students" / "pareto.png", students, table.unit_of_work())
        print(f"{students_text(students)}\n")
    PROCESSES.wait_for_everyone()
    return all(kept)


def overview(config: SearchConfig, problem: Programme) -> str:
    """Say which budgets are feasible and what has been found for them."""
    students = read_students(config.run / "students", problem.table.fingerprint())
    return f"{table_text(describe_table(problem))}\n\n{students_text(students)}"


def load_trained(config: TrainConfig, problem: Programme) -> Trained:
    """Open the run; what is missing, damaged or foreign raises `UserError`."""
    data = load_data(config.data_settings(preset_resolution(config.preset)))
    supernet = load_weights(config.run / "supernet.safetensors", problem.table.space)
    supernet.to(DEVICE, memory_format=torch.channels_last)
    fingerprint = read_facts(config.run)["fingerprint"]
    load = partial(run_teacher, config, data, config.run, DEVICE)
    with PROCESSES.main_process_first():
        taught = prepare_outputs(config, fingerprint, load, data, config.run / "targets")
    return Trained(config, data, taught, problem, supernet)


def alpha_of_table(config: SearchConfig, trained: Trained, metrics: AnyMetrics) -> Alpha:
    """Return alpha for the table: the run's, or for a table brought one trained on the same w."""
    space, table = trained.table.space, trained.table.fingerprint()
    path = config.run / "supernet.safetensors"
    if config.latency_table is None or is_of_table(path, table):
        return load_alpha(path, space, table)
    name = config.latency_table.stem
    path = config.run / "alphas" / f"{name}.safetensors"
    if not is_of_table(path, table):
        settings, split = trained.config, trained.data.search
        stream = (settings, DEVICE, split, trained.taught.search, settings.alpha_batch)
        checkpoint = metrics.checkpoint(f"alpha_{name}", f"choices_{name}", table=table)
        alpha = train_alpha(
            trained.supernet,
            trained.problem,
            partial(streamed, *stream),
            settings.loss(settings.guide),
            AlphaSettings.of(settings_of(settings)),
            lambda phase, step, **numbers: metrics.log(f"{phase}_{name}", step, **numbers),
            checkpoint,
        )
        if PROCESSES.is_main_process:
            save_alpha(path, alpha, space, table)
            checkpoint.remove()
        PROCESSES.wait_for_everyone()
    return load_alpha(path, space, table)


def make_student(
    config: SearchConfig, trained: Trained, alpha: Alpha, target_ms: float, metrics: AnyMetrics
) -> bool:
    """Search, retrain, export and verify one student; return whether it kept its promises."""
    name = config.student_name(target_ms)
    folder = config.run / "students" / name
    kept = config.run / "checkpoint" / f"pick_{name}.json"
    known = (kept, identity(config, trained), partial(search, config, trained, alpha, target_ms))
    pick, search_seconds = timed(lambda: kept_pick(*known))
    way = (pick.architecture, config.retrain_with)
    student, retrain_seconds = timed(lambda: trained_student(config, trained, way, name, metrics))
    compared = controls(config, trained, pick, name, metrics) if config.controls else {}
    if not PROCESSES.is_main_process:
        return True
    onnx_path = folder / "student.onnx"
    metadata = onnx_metadata(config, trained, target_ms)
    limits = (config.patience(), config.seed)
    measured = ship(student, pick.architecture, trained.table, folder, metadata, *limits)
    verdict = judge(
        trained.taught.test, student, onnx_path, trained.data.test, trained.config.batch
    )
    parameters, macs = parameters_and_macs(trained.table.space, pick.architecture)
    facts = {
        "target_ms": target_ms,
        "predicted_ms": pick.predicted_ms,
        "measured_ms": measured.ms if measured else None,
        "measured_ms_spread": measured.spread if measured else None,
        "meets_target": measured.ms <= target_ms if measured else None,
        "not_measured": not_from_here(trained.table),
        **verdict.facts(),
        "params": parameters,
        "macs": macs,
        "search_seconds": search_seconds,
        "retrain_seconds": retrain_seconds,
        "seed": config.seed,
        "guide": trained.config.guide,
        "retrain_with": config.retrain_with,
        "unit_of_work": trained.table.unit_of_work(),
        "table": trained.table.fingerprint(),
        "settings": settings_of(config),
        "cost": search_cost(config, trained.config, trained.data),
        "controls": compared,
    }
    write_json(folder / "metrics.json", facts)
    rows = summary_rows(facts, onnx_path)
    curve = [row for row in read_metrics(config.run) if row["phase"] == f"student_{name}"]
    curve = curve[-config.epochs :]  # an earlier search for this budget left its lines too
    write_student_report(folder, facts, rows, pick.architecture.to_json(), curve)
    metrics.summary(**{f"{name}/{key}": value for key, value in facts.items()})
    metrics.artifact(onnx_path, f"student-{name}", "model")
    for left in kept.parent.glob(f"*_{escape(name)}*"):
        left.unlink()
    print(f"\n{table_text(rows)}\n")
    return budget_kept(facts) and facts["onnx_parity"]


def identity(config: SearchConfig, trained: Trained) -> dict[str, str]:
    """Return what a search's checkpoints depend on."""
    passing = ("target_latency", "controls", "list")
    settings = {name: v for name, v in settings_of(config).items() if name not in passing}
    return {"settings": json.dumps(settings), "table": trained.table.fingerprint()}


def search(config: SearchConfig, trained: Trained, alpha: Alpha, target_ms: float) -> Pick:
    """Return the architecture for a budget.

    Candidates are derived from alpha at the budget and ranked by the loss that the surrogate
    expects; the best are measured whole where they can be.
    """
    path, space = config.run / "supernet.safetensors", trained.table.space
    expect = load_surrogate(path, space).loss
    draws = np.random.default_rng(config.seed)
    with torch.no_grad():
        log_p = alpha(target_ms)
    if not_from_here(trained.table):
        return pick_predicted(trained.problem, log_p, target_ms, config.candidates, expect, draws)
    counts, limits = (config.candidates, config.finalists), (config.patience(), config.seed)

    def whole_ms(students: Sequence[Architecture]) -> Mapping[Architecture, Timing]:
        return from_first(lambda: measure_architectures(trained.table, *limits, students))

    return pick_measured(trained.problem, log_p, target_ms, counts, expect, whole_ms, draws)


def trained_student(
    config: SearchConfig, trained: Trained, way: Way, name: str, metrics: AnyMetrics
) -> Student:
    """Train a student from scratch on the train and the search split; the test split waits."""
    torch.manual_seed(config.seed)
    student, log = Student(trained.table.space, way[0]).to(DEVICE), f"student_{name}"
    given = (config, trained.config, trained.data, trained.taught, way[1])
    checkpoint = metrics.checkpoint(log, way=repr(way), **identity(config, trained))
    retrain(student, *given, f"student {name}", partial(metrics.log, log), checkpoint)
    return student.cpu().eval()


def controls(
    config: SearchConfig, trained: Trained, pick: Pick, name: str, metrics: AnyMetrics
) -> dict[str, dict[str, object]]:
    """Retrain a random student as fast as the pick, and the pick without the teacher."""
    problem, test = trained.problem, trained.data.test.view(None)
    sampler = fair_sampler(problem.table, *problem.range_ms())
    random = random_as_fast(sampler, pick.architecture, np.random.default_rng(config.seed))
    ways = {"random": (random, config.retrain_with), "labels": (pick.architecture, "labels")}
    found = {}
    for kind, way in ways.items():
        student = trained_student(config, trained, way, f"{name}-{kind}", metrics)
        found[kind] = {
            "test_accuracy": accuracy(*predict(student, test, trained.config.batch)),
            "predicted_ms": problem.table.predicted_ms(way[0]),
            "architecture": way[0].to_json(),
        }
    return found


def onnx_metadata(config: SearchConfig, trained: Trained, target_ms: float) -> dict[str, str]:
    """Return where the file comes from, all text; lists and settings as JSON."""
    return {
        "classes": json.dumps(trained.data.classes),
        "target_ms": f"{target_ms:g}",
        "train_settings": json.dumps(settings_of(trained.config), default=str),
        "search_settings": json.dumps(settings_of(config), default=str),
        "versions": json.dumps(read_config(config.run)["versions"]),
    }


def settings_given() -> SearchConfig:
    """Return the command line's settings; its run's preset has a recipe for those left out."""
    run = Path(option(sys.argv[1:], "--run", "runs/digits"))
    preset = read_config(run)["settings"]["preset"] if (run / "config.json").exists() else ""
    return tyro.cli(SearchConfig, default=SEARCH_RECIPES.get(preset, SEARCH_RECIPES["digits"]))


if __name__ == "__main__":
    run_script("search.py", lambda: main(settings_given()), "the same command goes on")
