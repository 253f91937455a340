"""Budget -> student -> ONNX: derive, rank, measure, retrain from scratch, export, verify.

    python search.py --target-latency 20
    python search.py --list

Works on the folder that train.py made, and writes students/20ms/ there. Exit status: 0 when every
student is within its budget and equal to its ONNX file, 1 when one is not, 2 for what the user can
mend.
"""

import sys
from dataclasses import dataclass, replace
from functools import partial
from glob import escape

import numpy as np
import torch

from base.errors import UserError
from base.exit_status import run_script
from base.files import write_json
from base.processes import from_main_process, join_processes, print_once
from export.report.page import table_text
from export.report.student_page import summary_rows, write_student_report
from export.report.students import budget_kept, read_students, students_text, write_pareto
from export.timing.stopwatch import timed
from kd.batches import endless
from kd.evaluate import accuracy, predict
from kd.final_evaluation import final_evaluation
from kd.images.splits import Data, join, load_data
from kd.retrain import retrain
from kd.run.bounds import check_settings
from kd.run.config import SearchConfig, TrainConfig
from kd.run.cost import search_cost
from kd.run.folder import read_config, read_metrics
from kd.run.metrics import AnyMetrics, open_metrics, open_phase
from kd.run.recipes import parse_search
from kd.run.settings import onnx_metadata, search_identity, settings_of, train_config_of
from kd.teacher.outputs import TeacherOutputs, prepare_outputs
from kd.teacher.prepare import reload_teacher
from kd.teacher.saved import read_facts
from supernet.alpha import Alpha
from supernet.choice.pick import Pick, cached_pick, pick_measured, pick_predicted
from supernet.choice.programme import Programme, check_budget, programme
from supernet.choice.ship import ship
from supernet.latency.measurement import (
    describe_table,
    load_given_table,
    load_run_table,
    machine_difference,
)
from supernet.latency.students import measure_architectures
from supernet.latency_table import LatencyTable
from supernet.presets import preset_resolution, preset_space
from supernet.sampling import fair_sampler, random_as_fast
from supernet.space import Architecture
from supernet.student import Student
from supernet.supernet import Supernet
from supernet.training.alpha import AlphaSettings, train_alpha
from supernet.training.storage import (
    is_of_table,
    load_alpha,
    load_supernet,
    load_surrogate,
    save_alpha,
)

PROCESSES = join_processes()
DEVICE = PROCESSES.device


@dataclass(frozen=True)
class TrainedRun:
    """What train.py left in the run's folder, and the table of the device that counts."""

    config: TrainConfig
    data: Data
    outputs: TeacherOutputs
    problem: Programme
    supernet: Supernet

    @property
    def table(self) -> LatencyTable:
        """The latency table that the programme is made of."""
        return self.problem.table


@dataclass(frozen=True)
class Retraining:
    """A student that is trained from scratch, and whether from "kd" or from "labels" alone."""

    name: str
    architecture: Architecture
    learns_from: str


def main(config: SearchConfig) -> bool:
    """Make one student a budget; return whether all of them kept their promises."""
    check_settings(config)
    train_config = train_config_of(read_config(config.run)["settings"], config.run)
    space = preset_space(train_config.preset, len(read_facts(config.run)["classes"]))
    given = config.latency_table
    table = load_given_table(given, space) if given else load_run_table(config.run, space)
    problem = programme(table)
    if config.list:
        described = table_text(describe_table(table, problem.range_ms()))
        students = read_students(config.run / "students", table.fingerprint())
        print_once(f"{described}\n\n{students_text(students)}")
        return True
    if not config.target_latency:
        raise UserError("--target-latency is missing; give one or more budgets in milliseconds")
    for target_ms in config.target_latency:
        if check_budget(problem, target_ms):
            print_once(f"{target_ms:g} ms: more than any student needs; searching near that")
    trained = load_trained(train_config, problem)
    seconds = config.checkpoint_seconds
    with open_metrics(config.run, settings_of(config), "search", seconds) as metrics:
        alpha = load_or_train_alpha(config, trained, metrics)
        kept = [make_student(config, trained, alpha, ms, metrics) for ms in config.target_latency]
    if PROCESSES.is_main_process:
        folder = config.run / "students"
        students = read_students(folder, table.fingerprint())
        write_pareto(folder / "pareto.png", students, table.unit_of_work())
        print(f"{students_text(students)}\n")
    PROCESSES.wait_for_everyone()
    return all(kept)


def load_trained(config: TrainConfig, problem: Programme) -> TrainedRun:
    """Open the run; what is missing, damaged or foreign raises `UserError`."""
    data = load_data(config.data_settings(preset_resolution(config.preset)))
    supernet = load_supernet(config.run / "supernet.safetensors", problem.table.space)
    supernet.to(DEVICE, memory_format=torch.channels_last)
    fingerprint = read_facts(config.run)["fingerprint"]
    load = partial(reload_teacher, config.teacher_request(), data, config.run, DEVICE)
    with PROCESSES.main_process_first():
        settings, loader = config.output_settings(), config.loader()
        outputs = prepare_outputs(settings, fingerprint, load, data, loader)
    return TrainedRun(config, data, outputs, problem, supernet)


def load_or_train_alpha(config: SearchConfig, trained: TrainedRun, metrics: AnyMetrics) -> Alpha:
    """Return alpha for the table: the run's, or for a given table one trained on the same w."""
    space, table = trained.table.space, trained.table.fingerprint()
    path = config.run / "supernet.safetensors"
    if config.latency_table is None or is_of_table(path, table):
        return load_alpha(path, space, table)
    name = config.latency_table.stem
    path = config.run / "alphas" / f"{name}.safetensors"
    if not is_of_table(path, table):
        settings, data, outputs = trained.config, trained.data, trained.outputs
        phase = open_phase(metrics, f"alpha_{name}", f"choices_{name}", table=table)
        alpha = train_alpha(
            trained.supernet,
            trained.problem,
            partial(endless, data.search, outputs.search, settings.alpha_loader(), DEVICE),
            settings.loss(settings.guide),
            AlphaSettings.of(settings_of(settings)),
            phase,
            partial(metrics.log, f"choices_{name}"),
        )
        if PROCESSES.is_main_process:
            save_alpha(path, alpha, space, table)
            phase.checkpoint.remove()
        PROCESSES.wait_for_everyone()
    return load_alpha(path, space, table)


def make_student(
    config: SearchConfig, trained: TrainedRun, alpha: Alpha, target_ms: float, metrics: AnyMetrics
) -> bool:
    """Search, retrain, export and verify one student; return whether it kept its promises."""
    name = config.student_name(target_ms)
    cache = config.run / "checkpoint" / f"pick_{name}.json"
    identity = search_identity(config, trained.table.fingerprint())
    find = partial(search, config, trained, alpha, target_ms)
    pick, search_seconds = timed(lambda: cached_pick(cache, identity, find))
    own = Retraining(name, pick.architecture, config.retrain_with)
    student, retrain_seconds = timed(lambda: retrain_student(config, trained, own, metrics))
    compared = controls(config, trained, own, metrics) if config.controls else {}
    if not PROCESSES.is_main_process:
        return True
    folder = config.run / "students" / name
    metadata = onnx_metadata(target_ms, trained.data.classes, trained.config, config)
    shipped = ship(
        student,
        pick.architecture,
        trained.table,
        folder,
        metadata=metadata,
        patience=config.patience(),
        seed=config.seed,
    )
    onnx_path, test, outputs = folder / "student.onnx", trained.data.test, trained.outputs.test
    evaluation = final_evaluation(outputs, student, onnx_path, test, trained.config.batch)
    measured_ms = shipped["measured_ms"]
    facts = {
        "target_ms": target_ms,
        **shipped,
        "meets_target": None if measured_ms is None else measured_ms <= target_ms,
        **evaluation.facts(),
        "search_seconds": search_seconds,
        "retrain_seconds": retrain_seconds,
        "seed": config.seed,
        "guide": trained.config.guide,
        "retrain_with": config.retrain_with,
        "settings": settings_of(config),
        "cost": search_cost(config, trained.config, trained.data),
        "controls": compared,
    }
    write_json(folder / "metrics.json", facts)
    curve = [row for row in read_metrics(config.run) if row["phase"] == f"student_{name}"]
    curve = curve[-config.epochs :]  # an earlier search for this budget left its lines too
    write_student_report(folder, facts, pick.architecture.to_json(), curve)
    metrics.summary(**{f"{name}/{key}": value for key, value in facts.items()})
    metrics.artifact(onnx_path, f"student-{name}", "model")
    for left in cache.parent.glob(f"*_{escape(name)}*"):
        left.unlink()
    print(f"\n{table_text(summary_rows(facts, onnx_path))}\n")
    return budget_kept(facts) and facts["onnx_parity"]


def search(config: SearchConfig, trained: TrainedRun, alpha: Alpha, target_ms: float) -> Pick:
    """Return the architecture for a budget.

    Candidates are derived from alpha at the budget and ranked by the loss that the surrogate
    expects; the best are measured whole where they can be.
    """
    path, table = config.run / "supernet.safetensors", trained.table
    expect = load_surrogate(path, table.space).loss
    draws = np.random.default_rng(config.seed)
    with torch.no_grad():
        log_p = alpha(target_ms)
    if machine_difference(table):
        return pick_predicted(trained.problem, log_p, target_ms, config.candidates, expect, draws)

    measure = partial(measure_architectures, table, config.patience(), config.seed)
    return pick_measured(
        trained.problem,
        log_p,
        target_ms,
        counts=(config.candidates, config.finalists),
        expect=expect,
        measure=lambda students: from_main_process(partial(measure, students)),
        draws=draws,
    )


def retrain_student(
    config: SearchConfig, trained: TrainedRun, own: Retraining, metrics: AnyMetrics
) -> Student:
    """Train a student from scratch on the train and the search split; the test split waits."""
    torch.manual_seed(config.seed)
    settings, data = trained.config, trained.data
    student = Student(trained.table.space, own.architecture).to(DEVICE)
    way = repr((own.architecture, own.learns_from))
    phase = open_phase(
        metrics,
        f"student_{own.name}",
        way=way,
        **search_identity(config, trained.table.fingerprint()),
    )
    retrain(
        student,
        join(data.train, data.search),
        trained.outputs.joined(),
        settings.loss(own.learns_from),
        config.retraining(settings.accumulate),
        replace(settings.loader(), seed=config.seed),
        phase,
    )
    return student.cpu().eval()


def controls(
    config: SearchConfig, trained: TrainedRun, own: Retraining, metrics: AnyMetrics
) -> dict[str, dict[str, object]]:
    """Retrain a random student as fast as the picked one, and that one without the teacher."""
    problem, test = trained.problem, trained.data.test.view(None)
    sampler = fair_sampler(problem.table, *problem.range_ms())
    random = random_as_fast(sampler, own.architecture, np.random.default_rng(config.seed))
    retrainings = {
        "random": Retraining(f"{own.name}-random", random, own.learns_from),
        "labels": Retraining(f"{own.name}-labels", own.architecture, "labels"),
    }
    found = {}
    for kind, retraining in retrainings.items():
        student = retrain_student(config, trained, retraining, metrics)
        found[kind] = {
            "test_accuracy": accuracy(*predict(student, test, trained.config.batch)),
            "predicted_ms": problem.table.predicted_ms(retraining.architecture),
            "architecture": retraining.architecture.to_json(),
        }
    return found


if __name__ == "__main__":
    run_script("search.py", lambda: main(parse_search(sys.argv[1:])), "the same command goes on")
