"""Budget -> student -> ONNX: derive, try, measure, retrain, export, verify.

    python search.py --target-latency 20
    python search.py --architecture runs/a/students/20ms --data PATH --run runs/b
    python search.py --list

Works on the folder that train.py made, and writes students/20ms/ there; or takes a student's
architecture to other images. Exit status: 0 when every student keeps its promises of latency,
parity and precision, 1 when one does not, 2 for what the user can mend.
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import nn

from base.errors import UserError
from base.exit_status import run_script
from base.files import write_json
from base.processes import by_main_process, join_processes, print_once, this_process
from export.report.page import drawing_last, table_text
from export.report.student_page import summary_rows, write_student_report
from export.report.students import (
    promises_kept,
    read_students,
    students_table,
    students_text,
    write_students_report,
)
from kd.batches import endless
from kd.evaluate import calibration_images, recalibrate
from kd.rivals.compare import compare_rivals, rivals_facts, ship_rivals
from kd.rivals.rival import Outline, build_rivals
from kd.run.bounds import check_search, check_settings
from kd.run.folder import last_lines, remove_checkpoints
from kd.run.metrics import AnyMetrics, open_metrics, open_phase
from kd.run.recipes import parse_search
from kd.run.search_config import SHARED, SearchConfig
from kd.run.settings import home_config, settings_of, transfer_budget, transfer_config
from kd.run.taken import Taken
from kd.run.taught import Taught, begin_run, found_taught, read_data, teach
from kd.run.train_config import TrainConfig
from kd.student.brief_trainings import BriefTrainings
from kd.student.retraining import Retrainer, Retraining
from kd.teacher.saved import read_facts
from supernet.alpha import Alpha
from supernet.choice.budget import Budget, budget_here, feasible_budget
from supernet.choice.controls import students_as_fast
from supernet.choice.pick import cached_pick
from supernet.choice.programme import Programme, programme
from supernet.choice.search import SearchSettings, Surveyed, search
from supernet.choice.ship import EXACT, ship, shipped_file
from supernet.choice.student_file import load_student, take_weights, weights_identity
from supernet.choice.trials import trial_facts
from supernet.latency.measurement import (
    describe_table,
    load_given_table,
    load_run_table,
    machine_difference,
)
from supernet.latency.runners import unit_of_table
from supernet.latency.students import measure_architectures, measure_beside, module_runners
from supernet.latency_table import LatencyTable
from supernet.space import Architecture, SearchSpace
from supernet.space_files import run_preset
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


@dataclass(frozen=True)
class Ready:
    """All that students are made of; `start` tells the weights that they start from.

    `known` is what shared weights tell. Elsewhere there are none; the table may have other classes.
    """

    taught: Taught
    space: SearchSpace
    problem: Programme
    start: str
    supernet: Supernet | None = None
    known: Surveyed | None = None


def main(config: SearchConfig) -> bool:
    """Make one student a budget; return whether all of them kept their promises."""
    check_settings(config)
    processes, home = join_processes(), home_config(config)
    settings = transfer_config(config, home) if config.architecture else home
    space, given = searched_space(home), config.latency_table
    table = load_given_table(given, space) if given else load_run_table(home.run, space)
    problem, students = programme(table), partial(read_students, config.run / "students")
    if config.list:
        described = table_text(describe_table(table, problem.range_ms()))
        print_once(f"{described}\n\n{students_text(students(table.fingerprint()))}")
        return True
    start = weights_identity(config.start) if config.starts_elsewhere else config.start
    check_search(config, settings, unit_of_table(table).precision)
    make = transfer if config.architecture else search_all
    kept = make(config, settings, problem, start)
    if processes.is_main_process:
        print(f"{students_text(students(table.fingerprint()))}\n")
    processes.wait_for_everyone()
    return kept


def searched_space(home: TrainConfig) -> SearchSpace:
    """Return the space of a run."""
    outline, teacher = run_preset(home.preset, home.space, home.run), read_facts(home.run)
    size, vector = outline.size(home.resolution), teacher.get("vector")
    return outline.space(vector or len(teacher["classes"]), size, home.channels, bool(vector))


def search_all(config: SearchConfig, settings: TrainConfig, problem: Programme, start: str) -> bool:
    """Search a student for every budget with what train.py has left."""
    budgets = [feasible_budget(ms, config.latency_statistic, problem) for ms in config.budgets()]
    space, path = problem.table.space, config.run / "supernet.safetensors"
    rivals = open_rivals(config, problem.table, space)
    supernet = load_supernet(path, space)
    supernet.to(this_process().device, memory_format=torch.channels_last)
    taught = found_taught(settings, space.resolution)
    ready = Ready(taught, space, problem, start, supernet)
    with open_metrics(config, "search") as metrics:
        alpha = load_or_train_alpha(config, ready, metrics)
        ready = replace(ready, known=Surveyed(alpha, load_surrogate(path, space)))
        find = partial(find_student, config, ready)
        kept = [make_student(config, ready, rivals, metrics, find, own) for own in budgets]
    return all(kept)


def transfer(config: SearchConfig, settings: TrainConfig, problem: Programme, start: str) -> bool:
    """Take a student's architecture to other data and another teacher, without a search."""
    space, architecture = problem.table.space, load_student(config.architecture).architecture
    target_ms = transfer_budget(config, problem.table.fingerprint())
    space.positions(architecture)
    data = read_data(settings, space.resolution)
    space = replace(space, classes=data.answer_size, unit_length=data.vector is not None)
    rivals = open_rivals(config, problem.table, space)
    budget = budget_here(target_ms, config.latency_statistic, problem.table)
    settings, data, teacher = begin_run(settings, data)
    with open_metrics(config, "search") as metrics:
        ready = Ready(teach(settings, data, teacher, metrics), space, problem, start)
        return make_student(config, ready, rivals, metrics, lambda *_: architecture, budget)


def load_or_train_alpha(config: SearchConfig, ready: Ready, metrics: AnyMetrics) -> Alpha:
    """Return alpha for the table: the run's, or for a given table one trained on the same w."""
    space, table = ready.space, ready.problem.table.fingerprint()
    path = config.run / "supernet.safetensors"
    if config.latency_table is None or is_of_table(path, table):
        return load_alpha(path, space, table)
    name, processes = config.latency_table.stem, this_process()
    path = config.run / "alphas" / f"{name}.safetensors"
    if not is_of_table(path, table):
        settings, (split, outputs) = ready.taught.config, ready.taught.search_split
        batches = partial(endless, split, outputs, settings.alpha_loader(), processes.device)
        loss, recipe = settings.loss(settings.guide), AlphaSettings.of(settings_of(settings))
        phase = open_phase(metrics, f"alpha_{name}", f"choices_{name}", table=table)
        log = partial(metrics.log, f"choices_{name}")
        alpha = train_alpha(ready.supernet, ready.problem, batches, loss, recipe, phase, log)
        if processes.is_main_process:
            save_alpha(path, alpha, space, table)
            phase.checkpoint.remove()
        processes.wait_for_everyone()
    return load_alpha(path, space, table)


def open_rivals(
    config: SearchConfig, table: LatencyTable, space: SearchSpace
) -> dict[str, nn.Module]:
    """Build the rivals that are named, and run each once, before anything is spent."""
    if config.rivals and (elsewhere := machine_difference(table)):
        raise UserError(f"--rivals: cannot be timed here: {elsewhere}; search without them")
    own = build_rivals(config.rivals, config.rival_checkpoint, Outline(*space.outline), config.seed)
    module_runners(own, table)
    return own


def find_student(
    config: SearchConfig, ready: Ready, brief: BriefTrainings, taken: Taken, budget: Budget
) -> Architecture:
    """Search for a budget; what was found before an interruption is known."""
    table, name = ready.problem.table, config.student_name(budget.target_ms)
    time_whole = partial(measure_architectures, table, config.patience(), config.seed)
    measure = by_main_process(taken.counted("timing", time_whole))
    how = SearchSettings(config.candidates, config.finalists, config.trials, config.seed)

    def train(architecture: Architecture) -> float:
        start, _ = new_student(config, ready, architecture)
        return brief.loss(json.dumps(architecture.to_json()), start)

    own = (ready.problem, ready.known, budget.undisturbed_ms, how, measure, train, brief.asked_ms)
    cache = config.run / "checkpoint" / f"pick_{name}.json"
    return cached_pick(cache, brief.identity(), partial(search, *own)).architecture


def make_student(
    config: SearchConfig,
    ready: Ready,
    rivals: Mapping[str, nn.Module],
    metrics: AnyMetrics,
    find: Callable[[BriefTrainings, Taken, Budget], Architecture],
    budget: Budget,
) -> bool:
    """Find, retrain, export and verify one student; return whether it kept its promises."""
    name, table = config.student_name(budget.target_ms), ready.problem.table
    folder, patience = config.run / "students" / name, config.patience()
    known = (table.fingerprint(), ready.start, unit_of_table(table))
    retrainer = Retrainer(config, ready.taught, *known, metrics, this_process().device)
    brief = BriefTrainings(retrainer, name)
    identity = brief.identity() | {"architecture": str(config.architecture)}
    taken = Taken(config.run / "checkpoint" / f"seconds_{name}.json", identity)
    architecture = taken.counted("search", find)(brief, taken, budget)
    start, started_from = new_student(config, ready, architecture)
    own = Retraining(name, architecture, start, config.retrain_with)
    student = taken.counted("retrain", retrainer.train)(own)
    compared = controls(config, ready, own, retrainer) if config.controls else {}
    measure = by_main_process(partial(measure_beside, architecture, table, config.seed))
    within_ms = budget.undisturbed_ms
    asked = (Outline(*ready.space.outline), own, student, within_ms, measure, retrainer)
    beside = compare_rivals(rivals, *asked)
    if not this_process().is_main_process:
        return True
    metadata = ready.taught.metadata(budget.target_ms)
    what = (student.network, architecture, ready.space, table, budget, folder, metadata)
    shipped = ship(*what, patience, config.seed, student.int8)
    onnx_path, tried = shipped_file(folder, table), brief.scores()
    facts = {
        **shipped,
        **retrainer.facts(student, folder / EXACT, onnx_path, len(tried)),
        **{"start": started_from, "controls": compared},
        **{f"{phase}_seconds": seconds for phase, seconds in taken.seconds.items()},
        "trials": trial_facts(table, tried, ready.taught.config.quality().name),
        **rivals_facts(beside, within_ms),
    }
    ship_rivals(beside, folder / "rivals", retrainer.unit, metadata)
    write_json(folder / "metrics.json", facts)
    curve = last_lines(config.run, f"student_{name}", config.epochs)
    write_student_report(folder, onnx_path, facts, architecture.to_json(), curve)
    metrics.summary(**{f"{name}/{key}": value for key, value in facts.items()})
    metrics.artifact(onnx_path, f"student-{name}", "model")
    metrics.artifact(folder / "report.html", f"report-{name}", "report")
    remove_checkpoints(config.run / "checkpoint", name)
    print(f"\n{table_text(summary_rows(facts, onnx_path))}\n")
    with drawing_last(folder.parent / "report.html"):  # another student's files may be damaged
        found = read_students(folder.parent, table.fingerprint())
        write_students_report(folder.parent, found, table.unit_of_work())
        metrics.table("students", *students_table(found))
    return promises_kept(facts)


def new_student(
    config: SearchConfig, ready: Ready, architecture: Architecture
) -> tuple[Student, str]:
    """Return a student before it is trained, and what its weights are; a seed gives the same."""
    torch.manual_seed(config.seed)
    if config.start == SHARED:
        student, own = ready.supernet.extract(architecture), ready.taught
        recalibrate(student, calibration_images(own.data.train, own.config.batch, config.seed))
        return student, config.start
    student = Student(ready.space, architecture)
    if config.starts_elsewhere:
        return student, f"{config.start}: {take_weights(student, config.start)}"
    return student, config.start


def controls(
    config: SearchConfig, ready: Ready, own: Retraining, retrainer: Retrainer
) -> dict[str, dict[str, object]]:
    """Retrain students as fast that nobody searched, and the own one without the teacher."""
    problem, found = ready.problem, {}
    others = students_as_fast(problem, own.what, np.random.default_rng(config.seed))
    ways = {kind: (architecture, own.learns_from) for kind, architecture in others.items()}
    if own.learns_from != "labels" and ready.taught.data.classes:
        ways["labels"] = own.what, "labels"
    for kind, (architecture, learns_from) in ways.items():
        start, _ = new_student(config, ready, architecture)
        control = Retraining(f"{own.name}-{kind}", architecture, start, learns_from)
        found[kind] = retrainer.test_scores(retrainer.train(control)) | {
            "predicted_ms": problem.table.predicted_ms(architecture),
            "architecture": architecture.to_json(),
        }
    return found


if __name__ == "__main__":
    run_script("search.py", lambda: main(parse_search(sys.argv[1:])), "the same command goes on")
