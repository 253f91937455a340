"""Check settings against their bounds, before anything is opened, written or spent."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from base.compiled import check_compiler
from base.errors import UserError
from kd.images.loader import check_shared_memory
from kd.images.splits import Data
from kd.run.search_config import OF_TEACHER, SHARED, SearchConfig
from kd.run.train_config import EMBEDDING, TrainConfig
from kd.teacher.request import STORED_PREFIX

LEAST_PART = 4  # images that a network sees at once
Bound = tuple[str, Callable[[float], bool]]
COUNT: Bound = ("a whole number above 0", lambda value: value >= 1)
SEVERAL: Bound = ("a whole number above 1", lambda value: value >= 2)
NONE_OR_MORE: Bound = ("0 or more", lambda value: value >= 0)
POSITIVE: Bound = ("a number above 0", lambda value: value > 0)
SHARE: Bound = ("a number from 0 to 1", lambda value: 0 <= value <= 1)
PART: Bound = ("a number between 0 and 1", lambda value: 0 < value < 1)

BOUNDS: Mapping[str, Bound] = {
    **dict.fromkeys(("limit", "views", "most_classes", "batch", "alpha_batch"), COUNT),
    "accumulate": COUNT,
    **dict.fromkeys(("teacher_epochs", "w_epochs", "alpha_steps", "epochs"), COUNT),
    **dict.fromkeys(("fine_tuning_epochs", "trial_epochs"), COUNT),
    **dict.fromkeys(("latency_batch", "latency_threads", "candidates", "finalists"), COUNT),
    **dict.fromkeys(("knots", "surveyed"), SEVERAL),
    **dict.fromkeys(("teacher_resolution", "teacher_resize"), NONE_OR_MORE),
    **dict.fromkeys(("seed", "workers", "weight_decay", "trials"), NONE_OR_MORE),
    **dict.fromkeys(("checkpoint_seconds", "latency_spread", "latency_seconds"), NONE_OR_MORE),
    "relation_weight": NONE_OR_MORE,
    **dict.fromkeys(("measure_spread", "measure_seconds", "multiplier_rate"), NONE_OR_MORE),
    **dict.fromkeys(("learning_rate", "teacher_learning_rate", "w_learning_rate"), POSITIVE),
    **dict.fromkeys(("alpha_learning_rate", "kd_temperature", "tau_start", "tau_end"), POSITIVE),
    "channels": ("1 or 3", lambda value: value in (1, 3)),
    "fine_tuning_rate": POSITIVE,
    **dict.fromkeys(("kd_weight", "accuracy_loss"), SHARE),
    **dict.fromkeys(("search_fraction", "test_fraction"), PART),
}


def check_settings(config: TrainConfig | SearchConfig) -> None:
    """Raise `UserError` for the first setting out of its bounds; it names option and bounds."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name not in BOUNDS or value is None:
            continue
        expected, holds = BOUNDS[field.name]
        if not (math.isfinite(value) and holds(value)):
            raise UserError(f"{_option(field.name)} {value}: expected {expected}")
    if isinstance(config, TrainConfig):
        check_task(config)
        if config.sync_batch_norm and not torch.cuda.is_available():
            raise UserError("--sync-batch-norm: is for GPUs, and PyTorch sees none; leave it out")
    else:
        if config.compile:
            check_compiler()
        _check_transfer(config)
        _check_start(config)
        if not (config.target_latency or config.list or config.architecture):
            raise UserError("--target-latency is missing; give one or more budgets in milliseconds")


def check_task(config: TrainConfig) -> None:
    """Raise `UserError` for settings that are not of the task."""
    if config.task != EMBEDDING:
        if config.pairs:
            raise UserError(f"--pairs {config.pairs}: are for --task {EMBEDDING}; give that, too")
        return
    if config.pairs is None:
        raise UserError(f"--task {EMBEDDING}: needs --pairs, the list of pairs that judge it")
    if len(config.teacher) != 1 or config.teacher[0].startswith(STORED_PREFIX):
        raise UserError(
            f"--task {EMBEDDING}: takes one trained network as --teacher; give onnx:FILE, "
            "program:FILE.pt2 or python:MODULE:FACTORY"
        )
    usual = TrainConfig()
    for name in ("guide", "latency_precision", "teacher_classes", "kd_distance"):
        if (value := getattr(config, name)) != getattr(usual, name):
            raise UserError(f"{_option(name)} {value}: not with --task {EMBEDDING}; leave it")


def check_ships(settings: TrainConfig, precision: str) -> None:
    """Raise `UserError` for a `precision` in which a run's students cannot be judged."""
    if settings.task == EMBEDDING and precision != "fp32":
        raise UserError(
            f"--task {EMBEDDING}: ships in fp32, and the latency table is of {precision}; measure "
            "one in fp32"
        )


def check_search(config: SearchConfig, settings: TrainConfig, precision: str) -> None:
    """Raise `UserError` for a search that needs classes, where a run's `settings` have none.

    Its students ship in `precision`.
    """
    check_ships(settings, precision)
    if settings.task != EMBEDDING:
        return
    check_task(settings)
    if config.retrain_with == "labels":
        raise UserError(f"--retrain-with labels: not with --task {EMBEDDING}, which has none")
    if config.rivals:
        raise UserError(f"--rivals: not with --task {EMBEDDING}; their answers are classes")


def _check_transfer(config: SearchConfig) -> None:
    """Raise `UserError` for settings that only an architecture taken elsewhere has, or lacks."""
    if config.architecture is None:
        usual = SearchConfig()
        if odd := [name for name in OF_TEACHER if getattr(config, name) != getattr(usual, name)]:
            raise UserError(f"{_option(odd[0])}: the run has its teacher; give it to train.py")
        return
    if config.list:
        return
    if config.data is None:
        raise UserError(f"--architecture {config.architecture}: give the images for it as --data")
    if config.start == SHARED:
        raise UserError(
            f"--start {SHARED}: with --architecture there are no shared weights; give "
            f"{config.architecture} for the weights that it has"
        )
    if len(config.target_latency) > 1:
        raise UserError("--architecture: it is one student; give one --target-latency, or none")
    for ms in config.target_latency:
        if not (math.isfinite(ms) and ms > 0):
            raise UserError(f"--target-latency {ms:g}: expected milliseconds above 0")
    if config.run.resolve() == config.home:
        raise UserError(f"--run {config.run}: the architecture's own; give another folder")


def _check_start(config: SearchConfig) -> None:
    """Raise `UserError` for a start that the search itself writes: it would not stay the same."""
    if config.list or not config.starts_elsewhere:
        return
    start, students = Path(config.start).resolve(), (config.run / "students").resolve()
    names = [config.student_name(ms) for ms in config.target_latency]
    if start.parent == students and (config.architecture or start.name in names):
        raise UserError(
            f"--start {config.start}: this search writes into it; copy the folder, and start from "
            "the copy"
        )


def check_parts(config: TrainConfig, processes: int) -> None:
    """Raise `UserError` for a batch that cannot be parted among processes, or in too small parts.

    A step of the shared weights gives every one of four students a share of a part.
    """
    parts = processes * config.accumulate
    many = f"{processes} processes with --accumulate {config.accumulate} part it in {parts}"
    for name in ("batch", "alpha_batch"):
        batch = getattr(config, name)
        if batch % parts:
            raise UserError(f"{_option(name)} {batch}: {many}; it has to be a multiple of that")
    if (images := config.batch // parts) < LEAST_PART:
        raise UserError(
            f"--batch {config.batch}: {many} of {images} images; expected {LEAST_PART} or more each"
        )


def check_batches(config: TrainConfig, data: Data, processes: int) -> None:
    """Raise `UserError` for a batch larger than its split or shared memory, or not to be parted."""
    check_parts(config, processes)
    for name, split in (("batch", data.train), ("alpha_batch", data.search)):
        batch = getattr(config, name)
        if batch > len(split):
            kind = "train" if split is data.train else "search"
            raise UserError(
                f"{_option(name)} {batch}: more than the {len(split)} images of the {kind} split; "
                "give a smaller batch or more images"
            )
    settings, workers = data.settings, config.loader().workers
    check_shared_memory(config.batch, settings.resolution, settings.channels, workers)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
