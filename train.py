"""Teacher -> supernet: check the teacher, store its outputs, measure latency, train w, then alpha.

    python train.py --help

Leaves the run's folder, from which search.py derives a student for any latency budget. A teacher,
stored outputs or a latency table that the folder already holds are not made again.
"""

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from base.exit_status import run_script
from base.files import write_json
from base.processes import from_main_process, join_processes, print_once, this_process
from export.report.figures import Point
from export.report.page import table_text
from export.report.run_page import RunReport, write_run_report
from kd.batches import endless, micro_batch, steps_per_epoch
from kd.evaluate import (
    AT_ONCE,
    score_each,
)
from kd.images.copies import CopyPlan, plan_copies, with_copies
from kd.images.splits import LEARNED, Data, learnable
from kd.run.bounds import check_batches, check_settings, check_ships
from kd.run.cost import train_cost
from kd.run.folder import is_complete, open_run, read_metrics
from kd.run.metrics import Metrics, open_metrics, open_phase
from kd.run.preview import (
    Forecast,
    loading_seconds,
    other_load,
    outputs_size,
    peak_memory,
    scoring_seconds,
    step_seconds,
    student_time,
    taken_rows,
    teacher_seconds,
    teacher_work,
    time_text,
)
from kd.run.recipes import SEARCH_RECIPES, next_command, parse_train
from kd.run.settings import settings_of
from kd.run.taken import Taken
from kd.run.taught import Taught, checked_teacher, read_data, teacher_outputs
from kd.run.train_config import TrainConfig
from kd.teacher.check import Check
from kd.teacher.model import AnyTeacher, shown_frames
from kd.teacher.prepare import load_unchecked, open_teacher
from supernet.alpha import Alpha, named_probabilities, preferences
from supernet.choice.programme import Programme, preferred_students, programme
from supernet.choice.surrogate import fit_surrogate
from supernet.latency.measurement import describe_table, find_or_measure_table, load_given_table
from supernet.latency.precision import settle_precision
from supernet.latency.runners import unit_of_table
from supernet.sampling import fair_sampler, fair_students
from supernet.space import Architecture
from supernet.space_files import given_preset, keep_space_file
from supernet.student import Student
from supernet.supernet import Supernet
from supernet.training.alarms import alarms
from supernet.training.alpha import AlphaSettings, train_alpha
from supernet.training.preview import all_step_seconds, table_rows
from supernet.training.storage import save_supernet
from supernet.training.weights import WSettings, train_w

SHOWN_BUDGETS = 8
Scores = Mapping[Architecture, tuple[float, float]]  # loss and quality with the shared weights


class TrainedSupernet(NamedTuple):
    """What a run has found out about a teacher's students."""

    supernet: Supernet
    alpha: Alpha
    problem: Programme
    survey: Scores  # of random students
    front: Scores  # of the students that alpha prefers at several budgets


def main(config: TrainConfig) -> None:
    """Go through the phases in order."""
    check_settings(config)
    processes = join_processes()
    device = processes.device
    outline = given_preset(config.preset, config.space)
    size = outline.size(config.resolution)
    request, loader = config.teacher_request(), config.loader()
    data = read_data(config, size)
    check_batches(config, data, processes.num_processes)
    space = outline.space(data.answer_size, size, config.channels, data.vector is not None)
    given = load_given_table(config.latency_table, space) if config.latency_table else None
    wanted = (config.run, space, config.unit_of_work(size, config.channels), config.seed)
    settle = partial(settle_precision, *wanted, slower_too=config.latency_slower)
    unit, ratios = (unit_of_table(given), None) if given else from_main_process(settle)
    check_ships(config, unit.precision)
    if loader.workers < (config.workers or 0):
        print_once(f"workers: {loader.workers} of {config.workers}, one for every core")
    opened = None if config.preview else open_teacher(request, data, loader, device)
    torch.manual_seed(config.seed)
    supernet = Supernet(space).to(device, memory_format=torch.channels_last)
    model = opened.model if opened else load_unchecked(request, data, device)
    plan = plan_copies(data, shown_frames(model, data.train.frame)) if config.copies else None
    timing = partial(table_rows, space, unit, config.latency_table, ratios)
    work = teacher_work(config, opened)
    look = partial(preview, config, data, plan, model, work, supernet, timing)
    if config.preview:
        print_once(look().text)
        return
    if processes.is_main_process:
        open_run(config.run, settings_of(config), config.resume, data.fingerprint())
        keep_space_file(config.space, config.run)
    processes.wait_for_everyone()
    if is_complete(config.run):
        print_once(f"{config.run} is complete; {next_command(config)}")
        return
    forecast = look() if processes.is_main_process else Forecast("", {})
    print_once(forecast.text)
    data = with_copies(data, plan, config.run / "copies")
    taken = Taken(config.run / "checkpoint" / "seconds.json", {})

    values = settings_of(config)
    with open_metrics(config, "train") as metrics:
        with taken.count("teacher"):
            teacher = checked_teacher(config, data, opened, metrics)
        with taken.count("outputs"):
            outputs = teacher_outputs(config, data, teacher)
        # The others find what the first process has measured.
        with taken.count("latency table"), processes.main_process_first():
            table = find_or_measure_table(
                config.run, space, unit, config.patience(), config.seed, given
            )
        problem = programme(table)

        loss = config.loss(config.guide)
        sampler = fair_sampler(table, *problem.range_ms())
        names = learnable(LEARNED, config.guide)
        batches = partial(endless, data.joined(names), outputs.joined(names), loader, device)
        steps = config.w_epochs * steps_per_epoch(len(data.joined(LEARNED)), config.batch)
        phase = open_phase(metrics, "w", table=table.fingerprint())
        with taken.count("w"):
            train_w(supernet, sampler, batches, loss, WSettings.of(values, steps), phase)

        batches = partial(endless, data.search, outputs.search, config.alpha_loader(), device)
        phase = open_phase(metrics, "alpha", "choices", table=table.fingerprint())
        recipe, log = AlphaSettings.of(values), partial(metrics.log, "choices")
        with taken.count("alpha"):
            alpha = train_alpha(supernet, problem, batches, loss, recipe, phase, log)

        draws = np.random.default_rng(config.seed)
        taught = Taught(config, data, outputs)
        score = partial(score_each, taught.scorer(), partial(extracted, supernet))
        with taken.count("survey"):
            survey = score("survey", fair_students(sampler, config.surveyed, draws))
            front = score("front", preferred_students(problem, alpha, SHOWN_BUDGETS, draws))
        if processes.is_main_process:
            learned = TrainedSupernet(supernet, alpha, problem, survey, front)
            took = taken_rows(taken.seconds, forecast.seconds)
            finish_run(config, data, teacher.check, learned, took, metrics)
    processes.wait_for_everyone()


def finish_run(
    config: TrainConfig,
    data: Data,
    check: Check,
    learned: TrainedSupernet,
    took: Sequence[tuple[str, str]],
    metrics: Metrics,
) -> None:
    """Save what was learned; look for what went wrong; report."""
    supernet, alpha, problem, survey, _ = learned
    preferred = {"guide": config.guide_name(), "budgets": preferences(alpha, SHOWN_BUDGETS)}
    write_json(config.run / "preferences.json", preferred)
    surrogate = fit_surrogate(supernet.space, {a: loss for a, (loss, _) in survey.items()})
    path = config.run / "supernet.safetensors"
    save_supernet(path, supernet, alpha, surrogate, problem.table.fingerprint())
    found = alarms(alpha, read_metrics(config.run))
    rows = [
        ("teacher", f"{config.teacher_request().name}, {check}"),
        *describe_table(problem.table, problem.range_ms()),
        ("surrogate", f"{surrogate}"),
        ("cost", train_cost(config, data)),
        *took,
        *(("ALARM", alarm) for alarm in found),
    ]
    metrics.summary(**dict(rows), alarms=found)
    write_run_report(config.run, report_of(config, data, learned, rows))
    if is_complete(config.run):
        metrics.artifact(config.run / "report.html", f"report-{config.run.name}", "report")
        shutil.rmtree(config.run / "checkpoint", ignore_errors=True)
        rows.append(("report", str(config.run / "report.html")))
    print(f"\n{table_text(rows)}\n")
    print(next_command(config))


def preview(
    config: TrainConfig,
    data: Data,
    plan: CopyPlan | None,
    teacher: AnyTeacher | None,
    work: str,
    supernet: Supernet,
    timing: Callable[[], list[tuple[str, str]]],
) -> Forecast:
    """Say what the run will do, and how long it takes here, from a few timed steps."""
    space, device, processes = supernet.space, this_process().device, this_process().num_processes
    busy = other_load()
    images, recipe = len(data.joined(LEARNED)), SEARCH_RECIPES[config.preset]
    loader, part = config.loader(), partial(micro_batch, processes=processes)
    most, few = (part(b, accumulate=config.accumulate) for b in (config.batch, config.alpha_batch))
    pixels = torch.rand(most, *space.image_shape, device=device)
    w_steps = config.w_epochs * steps_per_epoch(images, config.batch)
    loading = loading_seconds(data, plan, most, loader.workers)
    step = partial(step_seconds, workers=loader.workers)
    w, alpha, student = all_step_seconds(supernet, pixels, few, config.precision, recipe.precision)
    w, alpha = step(w, loading), step(alpha, loading * few / most)
    w, alpha = config.accumulate * w, config.accumulate * alpha
    epoch = step(student, loading) * images / (most * processes)
    scoring = scoring_seconds(len(data.search), most, student, loading / AT_ONCE, loader.workers)
    decisions = sum(len(decision.choices) > 1 for decision in space.decisions())
    seconds = {
        **teacher_seconds(config, data, teacher, pixels, loading),
        "latency table": 0 if config.latency_table else config.latency_seconds,
        "w": w * w_steps,
        "alpha": alpha * config.alpha_steps,
        "survey": (config.surveyed + SHOWN_BUDGETS) * scoring / processes,
    }
    steps = f"{w_steps} steps of w at {1 / w:.2g} a second, {config.alpha_steps} of alpha at"
    rows = [
        ("run", str(config.run)),
        ("images", str(data)),
        *busy,
        *([("photographs", str(plan))] if plan else []),
        ("decoding", f"{most / loading:,.0f} images a second"),
        ("space", f"{space.name}: {space.size():.2g} students, {decisions} decisions"),
        *timing(),
        ("teacher", f"{config.teacher_request().name}, {work}"),
        ("outputs", outputs_size(config, data)),
        ("supernet", f"{steps} {1 / alpha:.2g}"),
        ("time", time_text(seconds)),
        ("a student", student_time(epoch, recipe)),
        ("memory", peak_memory(device)),
    ]
    return Forecast(table_text(rows), seconds)


def extracted(supernet: Supernet, student: Architecture) -> Student:
    """Return a student with its slice of the shared weights, as it is fastest."""
    return supernet.extract(student).to(memory_format=torch.channels_last)


def report_of(
    config: TrainConfig, data: Data, learned: TrainedSupernet, rows: Sequence[tuple[str, str]]
) -> RunReport:
    """Gather what the run's report shows."""
    alpha, table = learned.alpha, learned.problem.table
    middle_ms = float(np.sqrt(np.prod(alpha.range_ms())))
    points = (
        [Point(table.predicted_ms(a), quality) for a, (_, quality) in scores.items()]
        for scores in (learned.front, learned.survey)
    )
    return RunReport(
        rows,
        *points,
        unit_of_work=table.unit_of_work(),
        middle_ms=middle_ms,
        probabilities=named_probabilities(alpha, middle_ms),
        metrics=read_metrics(config.run),
        provenance=table.provenance,
        settings=settings_of(config),
        quality=config.quality().name,
        images=len(data.search),
    )


if __name__ == "__main__":
    goes_on = "the same command with --resume goes on"
    anew = "nothing was written; the same command begins anew"
    resume = anew if "--preview" in sys.argv[1:] else goes_on
    run_script("train.py", lambda: main(parse_train(sys.argv[1:])), resume)
