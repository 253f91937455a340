"""Teacher -> supernet: check the teacher, store its outputs, measure latency, train w, then alpha.

    python train.py --help

Leaves the run's folder, from which search.py derives a student for any latency budget. A teacher,
stored outputs or a latency table that the folder already holds are not made again.
"""

import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import tyro
from tqdm import tqdm

from export.device import UnitOfWork
from export.exit_status import run_script
from export.figures import Point, choices_figure, curves_figure, front_figure
from export.files import write_json
from export.processes import is_first, join_processes, merged, own_part, say
from export.report import Section, table_text, write_report
from kd.bounds import check_batches, check_settings
from kd.config import SEARCH_RECIPES, TRAIN_RECIPES, TrainConfig
from kd.cost import train_cost
from kd.data import Data, load_data
from kd.evaluate import CALIBRATION_BATCHES, calibration_images, rate
from kd.prepare import (
    Given,
    Teaching,
    at_once_of,
    given_teacher,
    prepare_outputs,
    prepare_teacher,
    steps_per_epoch,
)
from kd.preview import (
    duration,
    loading_seconds,
    max_or_sum,
    outputs_size,
    peak_memory,
    scoring_seconds,
    teacher_seconds,
    teacher_work,
    time_text,
)
from kd.run import Metrics, is_complete, open_metrics, open_run, read_metrics
from kd.settings import option, settings_of
from kd.stream import streamed
from supernet.alarms import alarms
from supernet.alpha import Alpha, named_probabilities, preferences
from supernet.alpha_training import AlphaSettings, train_alpha
from supernet.derive import Programme, candidates, programme
from supernet.latency import LatencyTable
from supernet.measure import (
    check_unit,
    describe_table,
    given_table,
    obtain_table,
    unit_of,
)
from supernet.presets import preset_resolution, preset_space
from supernet.preview import alpha_seconds, student_seconds, table_rows, w_seconds
from supernet.sampling import fair_sampler, fair_students
from supernet.space import Architecture, SearchSpace
from supernet.storage import save_supernet
from supernet.supernet import Supernet
from supernet.surrogate import fit_surrogate
from supernet.w_training import WSettings, train_w

PROCESSES = join_processes()
DEVICE = PROCESSES.device
SHOWN_BUDGETS = 8
Scores = Mapping[Architecture, tuple[float, float]]  # loss and accuracy with the shared weights
CURVES = (
    *(("teacher", "accuracy"), ("w", "largest"), ("w", "fair"), ("w", "smallest")),
    *(("alpha", "search_loss"), ("alpha", "expected_over_target"), ("alpha", "entropy")),
    *(("alpha", "lambda"), ("alpha", "tau")),
)


class Learned(NamedTuple):
    """What a run has found out about a teacher's students."""

    supernet: Supernet
    alpha: Alpha
    problem: Programme
    survey: Scores  # of random students
    front: Scores  # of those that alpha picks for several budgets


def main(config: TrainConfig) -> None:
    """Go through the phases in order."""
    check_settings(config)
    data = load_data(config.data_settings(preset_resolution(config.preset)))
    check_batches(config, data, PROCESSES.num_processes)
    space = preset_space(config.preset, len(data.classes))
    brought = given_table(config.latency_table, space) if config.latency_table else None
    unit = unit_of(brought) if brought else own_unit(config, space)
    patience = config.patience()
    given = given_teacher(config, data, DEVICE)
    torch.manual_seed(config.seed)
    supernet = Supernet(space).to(DEVICE, memory_format=torch.channels_last)
    if config.preview:
        say(preview(config, data, given, supernet, unit))
        return
    if PROCESSES.is_main_process:
        open_run(config.run, settings_of(config), config.resume)
    PROCESSES.wait_for_everyone()
    if is_complete(config.run):
        say(f"{config.run} is complete; next: python search.py --target-latency MS")
        return
    if PROCESSES.is_main_process:
        print(preview(config, data, given, supernet, unit), flush=True)

    seconds = config.checkpoint_seconds
    with open_metrics(config.run, settings_of(config), "train", seconds) as metrics:
        checkpoint = metrics.checkpoint("teacher")
        teacher = prepare_teacher(config, given, data, config.run, metrics, DEVICE, checkpoint)
        with PROCESSES.main_process_first():  # the others find what it has made
            taught = prepare_outputs(
                config, teacher.fingerprint, lambda: teacher.model, data, config.run / "targets"
            )
            table = obtain_table(config.run, space, unit, patience, config.seed, brought)
        problem = programme(table)
        fastest_ms, slowest_ms = problem.range_ms()

        loss = config.loss(config.guide)
        stream = partial(streamed, config, DEVICE)
        steps = config.w_epochs * steps_per_epoch(data, config.batch)
        sampler = fair_sampler(table, fastest_ms, slowest_ms)
        batches = partial(stream, data.train, taught.train, config.batch)
        settings = WSettings.of(settings_of(config))
        checkpoint = metrics.checkpoint("w", table=table.fingerprint())
        train_w(supernet, sampler, steps, batches, loss, settings, metrics.log, checkpoint)

        batches = partial(stream, data.search, taught.search, config.alpha_batch)
        settings = AlphaSettings.of(settings_of(config))
        checkpoint = metrics.checkpoint("alpha", "choices", table=table.fingerprint())
        alpha = train_alpha(supernet, problem, batches, loss, settings, metrics.log, checkpoint)

        draws = np.random.default_rng(config.seed)
        score = partial(scored, config, data, taught, supernet)
        survey = score("survey", fair_students(sampler, config.surveyed, draws))
        front = score("front", alphas_own(alpha, problem, draws))
        if PROCESSES.is_main_process:
            learned = Learned(supernet, alpha, problem, survey, front)
            conclude(config, data, teacher, learned, metrics)
    PROCESSES.wait_for_everyone()


def conclude(
    config: TrainConfig, data: Data, teacher: Given, learned: Learned, metrics: Metrics
) -> None:
    """Save what was learned; look for what went wrong; report."""
    supernet, alpha, problem, survey, _ = learned
    liked = {"guide": config.guide_name, "budgets": preferences(alpha, SHOWN_BUDGETS)}
    write_json(config.run / "preferences.json", liked)
    surrogate = fit_surrogate(supernet.space, {a: loss for a, (loss, _) in survey.items()})
    path = config.run / "supernet.safetensors"
    save_supernet(path, supernet, alpha, surrogate, problem.table.fingerprint())
    found = alarms(alpha, read_metrics(config.run))
    rows = [
        ("teacher", f"{config.teacher_name}, {teacher.check}"),
        *describe_table(problem),
        ("surrogate", f"{surrogate}"),
        ("cost", train_cost(config, data)),
        *(("ALARM", alarm) for alarm in found),
    ]
    metrics.summary(**dict(rows), alarms=found)
    write_train_report(config, learned, rows)
    shutil.rmtree(config.run / "checkpoint", ignore_errors=True)
    print(f"\n{table_text([*rows, ('report', str(config.run / 'report.html'))])}\n")
    print(f"next: python search.py --target-latency MS --run {config.run}")


def own_unit(config: TrainConfig, space: SearchSpace) -> UnitOfWork:
    """Return the unit of work that the settings ask for; `UserError` when nothing here runs it."""
    unit = UnitOfWork(
        config.latency_batch, space.resolution, config.latency_threads, config.latency_provider
    )
    check_unit(unit)
    return unit


def preview(
    config: TrainConfig, data: Data, given: Given | None, supernet: Supernet, unit: UnitOfWork
) -> str:
    """Say what the run will do, and how long it takes here, from a few timed steps."""
    space, images, processes = supernet.space, len(data.train), PROCESSES.num_processes
    at_once, few = (at_once_of(config, b, processes) for b in (config.batch, config.alpha_batch))
    pixels = torch.rand(at_once, 3, space.resolution, space.resolution, device=DEVICE)
    w_steps = config.w_epochs * steps_per_epoch(data, config.batch)
    loading = loading_seconds(data.train, at_once, config.workers)
    w = config.accumulate * max_or_sum(config, w_seconds(supernet, pixels), loading)
    alpha = alpha_seconds(supernet, pixels[:few])
    alpha = config.accumulate * max_or_sum(config, alpha, loading * few / at_once)
    step = student_seconds(supernet, pixels)
    epoch = max_or_sum(config, step, loading) * images / (at_once * processes)
    decisions, students = len(space.decisions()), config.surveyed + SHOWN_BUDGETS
    seconds = {
        **teacher_seconds(config, data, given, pixels, loading),
        "latency table": 0 if config.latency_table else config.latency_seconds,
        "w": w * w_steps,
        "alpha": alpha * config.alpha_steps,
        "survey": students * scoring_seconds(config, data, step, loading, at_once) / processes,
    }
    steps = f"{w_steps} steps of w at {1 / w:.2g} a second, {config.alpha_steps} of alpha at"
    epochs = SEARCH_RECIPES[config.preset].epochs
    return table_text(
        [
            ("run", str(config.run)),
            ("images", f"{images} train, {len(data.search)} search, {len(data.test)} test"),
            ("decoding", f"{at_once / loading:,.0f} images a second"),
            ("space", f"{space.name}: {space.size():.2g} students, {decisions} decisions"),
            *table_rows(space, unit, config.latency_table),
            ("teacher", f"{config.teacher_name}, {teacher_work(config, given)}"),
            ("outputs", outputs_size(config, data)),
            ("supernet", f"{steps} {1 / alpha:.2g}"),
            ("time", time_text(seconds)),
            ("a student", f"{duration(epoch * epochs)} for {epochs} epochs"),
            ("memory", peak_memory(DEVICE)),
        ]
    )


def scored(
    config: TrainConfig,
    data: Data,
    taught: Teaching,
    supernet: Supernet,
    what: str,
    students: Sequence[Architecture],
) -> Scores:
    """Score students with the shared weights on the search split, each process some of them."""
    at_once = at_once_of(config, config.batch, PROCESSES.num_processes)
    count = CALIBRATION_BATCHES * (config.batch // at_once)
    images = calibration_images(data.train, at_once, config.seed, count)
    search = {"split": data.search, "outputs": taught.search, "workers": config.workers}
    rated = partial(rate, images=images, loss=config.loss(config.guide), batch=at_once, **search)
    layout = {"memory_format": torch.channels_last}
    with tqdm(own_part(students), what, unit="student", disable=not is_first()) as bar:
        own = {a: rated(supernet.extract(a).to(**layout)) for a in bar}
    found = merged(own)
    return {a: found[a] for a in students}


def alphas_own(alpha: Alpha, problem: Programme, draws: np.random.Generator) -> list[Architecture]:
    """Alpha's own pick at several budgets, as the front shows it."""
    return [
        pick
        for target_ms in np.geomspace(*problem.range_ms(), SHOWN_BUDGETS + 1)[1:]
        for pick in candidates(problem, alpha(target_ms), target_ms, 1, draws)
    ]


def write_train_report(config: TrainConfig, learned: Learned, rows: list[tuple[str, str]]) -> None:
    """Write the pictures and report.html."""
    run, alpha, table = config.run, learned.alpha, learned.problem.table
    middle_ms = float(np.sqrt(np.prod(alpha.range_ms())))
    ylabel = "accuracy on the search split, shared weights"
    points = [points_of(table, scores) for scores in (learned.front, learned.survey)]
    front_figure(run / "front.png", *points, table.unit_of_work(), ylabel)
    curves_figure(run / "curves.png", read_metrics(run), CURVES)
    choices_figure(run / "choices.png", named_probabilities(alpha, middle_ms))
    provenance = [(name, str(value)) for name, value in table.provenance.items()]
    settings = [(name, str(value)) for name, value in settings_of(config).items()]
    sections = [
        Section("Result", table=rows, pictures=[run / "front.png"]),
        Section(f"What alpha prefers at {middle_ms:.1f} ms", pictures=[run / "choices.png"]),
        Section("How the search went", pictures=[run / "curves.png"]),
        Section("Latency table", table=provenance),
        Section("Settings", table=settings),
    ]
    write_report(run / "report.html", f"Oyster: {run.name}", sections)


def points_of(table: LatencyTable, scores: Scores) -> list[Point]:
    """Latency and accuracy, as a picture shows them."""
    return [Point(table.predicted_ms(a), accuracy) for a, (_, accuracy) in scores.items()]


def settings_given() -> TrainConfig:
    """Return the command line's settings; the preset has a recipe for those left out."""
    recipe = TRAIN_RECIPES.get(option(sys.argv[1:], "--preset", "digits"))
    return tyro.cli(TrainConfig, default=recipe or TRAIN_RECIPES["digits"])


if __name__ == "__main__":
    run_script("train.py", lambda: main(settings_given()), "the same command with --resume goes on")
