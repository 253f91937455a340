"""Budget -> student -> ONNX: derive, rank, measure, retrain from scratch, export, verify.

    python search.py --target-latency 20
    python search.py --list

Works on the folder that train.py made, and writes students/20ms/ there. Exit status: 0 when every
student is within its budget, equal to its ONNX file and right in the precision that ships, 1 when
one is not, 2 for what the user can mend.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from base.errors import UserError
from base.exit_status import run_script
from base.files import write_json
from base.processes import by_main_process, join_processes, print_once, this_process
from export.report.page import table_text
from export.report.student_page import summary_rows, write_student_report
from export.report.students import promises_kept, read_students, students_text, write_pareto
from export.timing.stopwatch import timed
from kd.batches import endless
from kd.images.copies import found_copies
from kd.images.splits import Data, load_data
from kd.rivals.compare import compare_rivals, ship_rivals, verdict
from kd.rivals.rival import Outline, build_rivals
from kd.run.bounds import check_settings
from kd.run.folder import last_lines, refuse_other_images, remove_checkpoints
from kd.run.metrics import AnyMetrics, open_metrics, open_phase
from kd.run.recipes import parse_search
from kd.run.search_config import SearchConfig
from kd.run.settings import onnx_metadata, searched_config, settings_of
from kd.run.train_config import TrainConfig
from kd.student.brief_trainings import BriefTrainings
from kd.student.retraining import Retrainer, Retraining
from kd.teacher.outputs import TeacherOutputs, prepare_outputs
from kd.teacher.prepare import reload_teacher
from kd.teacher.saved import read_facts
from supernet.alpha import Alpha
from supernet.choice.pick import (
    Pick,
    alphas_proposal,
    budget_asked,
    budget_calibrated,
    budget_predicted,
    cached_pick,
    pick_measured,
    pick_predicted,
)
from supernet.choice.programme import Programme, check_budget, programme
from supernet.choice.ship import EXACT, ship, shipped_file
from supernet.choice.trials import after_trials, trial_facts
from supernet.latency.measurement import (
    describe_table,
    load_given_table,
    load_run_table,
    machine_difference,
)
from supernet.latency.runners import unit_of_table
from supernet.latency.students import measure_architectures, measure_beside, module_runners
from supernet.latency_table import LatencyTable
from supernet.sampling import fair_sampler, random_as_fast
from supernet.space import Architecture
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


def main(config: SearchConfig) -> bool:
    """Make one student a budget; return whether all of them kept their promises."""
    check_settings(config)
    processes = join_processes()
    train_config = searched_config(config)
    outline = run_preset(train_config.preset, train_config.space, config.run)
    size, classes = outline.size(train_config.resolution), read_facts(config.run)["classes"]
    space = outline.space(len(classes), size, train_config.channels)
    given = config.latency_table
    table = load_given_table(given, space) if given else load_run_table(config.run, space)
    problem = programme(table)
    if config.list:
        described = table_text(describe_table(table, problem.range_ms()))
        students = read_students(config.run / "students", table.fingerprint())
        print_once(f"{described}\n\n{students_text(students)}")
        return True
    for target_ms in config.target_latency:
        if check_budget(problem, target_ms):
            print_once(f"{target_ms:g} ms: more than any student needs; searching near that")
    rivals, trained = open_rivals(config, table), load_trained(train_config, problem)
    seconds = config.checkpoint_seconds
    with open_metrics(config.run, settings_of(config), "search", seconds) as metrics:
        alpha = load_or_train_alpha(config, trained, metrics)
        known = (trained.data, trained.outputs, table.fingerprint(), unit_of_table(table))
        retrainer = Retrainer(config, train_config, *known, metrics, processes.device)
        make = partial(make_student, config, trained, alpha, rivals, retrainer)
        kept = [make(ms) for ms in config.budgets()]
    if processes.is_main_process:
        folder, unit = config.run / "students", table.unit_of_work()
        students = read_students(folder, table.fingerprint())
        write_pareto(folder / "pareto.png", students, unit)
        print(f"{students_text(students)}\n")
    processes.wait_for_everyone()
    return all(kept)


def load_trained(config: TrainConfig, problem: Programme) -> TrainedRun:
    """Open the run; what is missing, damaged or foreign raises `UserError`."""
    data = load_data(config.data_settings(problem.table.space.resolution))
    refuse_other_images(config.run, data.fingerprint())
    data = found_copies(data, config.run / "copies")
    supernet = load_supernet(config.run / "supernet.safetensors", problem.table.space)
    processes, request = this_process(), config.teacher_request()
    supernet.to(processes.device, memory_format=torch.channels_last)
    fingerprint = read_facts(config.run)["fingerprint"]
    load = partial(reload_teacher, request, data, config.run, processes.device)
    with processes.main_process_first():
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
        loader, processes = settings.alpha_loader(), this_process()
        batches = partial(endless, data.search, outputs.search, loader, processes.device)
        loss, recipe = settings.loss(settings.guide), AlphaSettings.of(settings_of(settings))
        phase = open_phase(metrics, f"alpha_{name}", f"choices_{name}", table=table)
        log = partial(metrics.log, f"choices_{name}")
        alpha = train_alpha(trained.supernet, trained.problem, batches, loss, recipe, phase, log)
        if processes.is_main_process:
            save_alpha(path, alpha, space, table)
            phase.checkpoint.remove()
        processes.wait_for_everyone()
    return load_alpha(path, space, table)


def open_rivals(config: SearchConfig, table: LatencyTable) -> dict[str, nn.Module]:
    """Build the rivals that are named, and run each once, before anything is spent."""
    if config.rivals and (elsewhere := machine_difference(table)):
        raise UserError(f"--rivals: cannot be timed here: {elsewhere}; search without them")
    space = table.space
    outline = Outline(space.image_shape, space.classes, space.strides)
    networks = build_rivals(config.rivals, config.rival_checkpoint, outline, config.seed)
    module_runners(networks, table)
    return networks


def make_student(
    config: SearchConfig,
    trained: TrainedRun,
    alpha: Alpha,
    rivals: Mapping[str, nn.Module],
    retrainer: Retrainer,
    target_ms: float,
) -> bool:
    """Search, retrain, export and verify one student; return whether it kept its promises."""
    name = config.student_name(target_ms)
    folder, cache = config.run / "students" / name, config.run / "checkpoint" / f"pick_{name}.json"
    brief = BriefTrainings(retrainer, name)
    find = partial(search, config, trained, alpha, brief, target_ms)
    pick, search_seconds = timed(lambda: cached_pick(cache, retrainer.identity(), find))
    start = new_student(config, trained, pick.architecture)
    own = Retraining(name, pick.architecture, start, config.retrain_with)
    student, retrain_seconds = timed(lambda: retrainer.train(own))
    compared = controls(config, trained, own, retrainer) if config.controls else {}
    patience, table, space = config.patience(), trained.table, trained.table.space
    measure = by_main_process(partial(measure_beside, pick.architecture, table, config.seed))
    outline = Outline(space.image_shape, space.classes, space.strides)
    beside = compare_rivals(rivals, outline, own, student, target_ms, measure, retrainer)
    if not this_process().is_main_process:
        return True
    metadata = onnx_metadata(target_ms, trained.data, trained.config)
    what = (student.network, own.what, table, folder, metadata, patience, config.seed)
    shipped, onnx_path = ship(*what, student.int8), shipped_file(folder, table)
    ship_rivals(beside, folder / "rivals", retrainer.unit, metadata)
    measured_ms, tried = shipped["measured_ms"], brief.scores()
    facts = {
        "target_ms": target_ms,
        **shipped,
        "meets_target": None if measured_ms is None else measured_ms <= target_ms,
        **retrainer.facts(student, folder / EXACT, onnx_path, len(tried)),
        "search_seconds": search_seconds,
        "retrain_seconds": retrain_seconds,
        "trials": trial_facts(table, tried),
        "controls": compared,
        "rivals": [rival.facts() for rival in beside],
        "verdict": verdict(beside, target_ms) if beside else None,
    }
    write_json(folder / "metrics.json", facts)
    curve = last_lines(config.run, f"student_{name}", config.epochs)
    write_student_report(folder, onnx_path, facts, own.what.to_json(), curve)
    retrainer.metrics.summary(**{f"{name}/{key}": value for key, value in facts.items()})
    retrainer.metrics.artifact(onnx_path, f"student-{name}", "model")
    remove_checkpoints(cache.parent, name)
    print(f"\n{table_text(summary_rows(facts, onnx_path))}\n")
    return promises_kept(facts)


def search(
    config: SearchConfig, trained: TrainedRun, alpha: Alpha, brief: BriefTrainings, target_ms: float
) -> Pick:
    """Return the architecture for a budget: tried, and measured whole where it can be.

    What is tried first is the candidate of alpha that the surrogate likes best.
    """
    problem, table = trained.problem, trained.table
    surrogate = load_surrogate(config.run / "supernet.safetensors", table.space)
    elsewhere, counts = machine_difference(table), (config.candidates, config.seed)
    with torch.no_grad():
        own = partial(alphas_proposal, problem, alpha(target_ms), *counts, surrogate.loss)
    asked_ms = (budget_predicted if elsewhere else budget_asked)(problem, target_ms)
    measure = by_main_process(partial(measure_architectures, table, config.patience(), config.seed))
    measured = (target_ms, config.finalists, measure)
    if config.trials and not elsewhere:
        asked_ms = brief.asked_ms(partial(budget_calibrated, problem, own(asked_ms), *measured))
    proposal = own(asked_ms)
    if config.trials:
        train = partial(train_briefly, config, trained, brief)
        tried = (config.trials, config.seed, train)
        proposal = after_trials(problem, surrogate, proposal, *tried)
    if elsewhere:
        return pick_predicted(problem, proposal, target_ms)
    return pick_measured(problem, proposal, *measured)


def train_briefly(
    config: SearchConfig, trained: TrainedRun, brief: BriefTrainings, architecture: Architecture
) -> float:
    """Return the loss of a student that is trained briefly from scratch."""
    what = json.dumps(architecture.to_json())
    return brief.loss(what, new_student(config, trained, architecture))


def new_student(config: SearchConfig, trained: TrainedRun, architecture: Architecture) -> Student:
    """Return an untrained student; all of a seed start from the same draws."""
    torch.manual_seed(config.seed)
    return Student(trained.table.space, architecture)


def controls(
    config: SearchConfig, trained: TrainedRun, own: Retraining, retrainer: Retrainer
) -> dict[str, dict[str, object]]:
    """Retrain a random student as fast as the picked one, and that one without the teacher."""
    problem, found = trained.problem, {}
    sampler = fair_sampler(problem.table, *problem.range_ms())
    random = random_as_fast(sampler, own.what, np.random.default_rng(config.seed))
    ways = {"random": (random, own.learns_from), "labels": (own.what, "labels")}
    for kind, (architecture, learns_from) in ways.items():
        start = new_student(config, trained, architecture)
        retraining = Retraining(f"{own.name}-{kind}", architecture, start, learns_from)
        found[kind] = {
            **retrainer.test_scores(retrainer.train(retraining)),
            "predicted_ms": problem.table.predicted_ms(architecture),
            "architecture": architecture.to_json(),
        }
    return found


if __name__ == "__main__":
    run_script("search.py", lambda: main(parse_search(sys.argv[1:])), "the same command goes on")
