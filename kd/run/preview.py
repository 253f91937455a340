"""What a run will cost in time, memory and disk: said before anything is spent."""

import os
import resource
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import psutil
import torch
from torch import Tensor, nn

from base.precision import Precision, autocast
from base.processes import timed_now
from export.timing.rough import scaled_seconds
from kd.evaluate import CALIBRATION_BATCHES
from kd.images.copies import CopyPlan, with_copies
from kd.images.loader import batches
from kd.images.splits import LEARNED, Data, Split
from kd.networks import build_network
from kd.run.search_config import SearchConfig
from kd.run.train_config import TrainConfig
from kd.stored_outputs import size_text
from kd.teacher.model import AnyTeacher
from kd.teacher.outputs import stored_shapes
from kd.teacher.prepare import CheckedTeacher

# A step of training costs about three passes forward.
TRAINING_PASSES = 3
LOADED, LOADED_BATCHES = 16, 4
# Seconds in which this process sleeps to see what others do, and cores that are not worth a word.
WATCHED, LITTLE = 0.3, 0.25


class Forecast(NamedTuple):
    """What is printed before a run, and the seconds of its phases that it speaks of."""

    text: str
    seconds: Mapping[str, float]


def teacher_work(config: TrainConfig, opened: CheckedTeacher | None) -> str:
    """Say what is done with the teacher, or what a check of it has found."""
    if opened:
        return str(opened.check)
    if config.teacher_request().trained_here:
        return f"trained here for {config.teacher_epochs} epochs"
    return "checked on the search split before anything is written"


def other_load() -> list[tuple[str, str]]:
    """Say how many cores other programs use, where these and the threads here wait for each other.

    Steps can take a hundred times as long then, and so does their forecast.
    """
    ours, threads = os.sched_getaffinity(0), torch.get_num_threads()
    percents, cores = psutil.cpu_percent(WATCHED, percpu=True), len(ours)
    busy = sum(percent for core, percent in enumerate(percents) if core in ours) / 100
    if threads == 1 or busy + threads <= cores + LITTLE:
        return []
    wait = f"they and the {threads} threads here wait for each other, and times can be far off"
    return [("other load", f"{busy:.1f} of {cores} cores: {wait}; set OMP_NUM_THREADS=1")]


def loading_seconds(data: Data, plan: CopyPlan | None, batch: int, workers: int) -> float:
    """Time the decoding and augmenting of a batch, after the workers have started, in seconds.

    A few images of the train split are timed, in small batches; where copies are planned, theirs.
    """
    timed_now("the decoding of images")
    with TemporaryDirectory() as scratch:
        split = with_copies(data, plan, Path(scratch)).train
        if plan:
            _loading_seconds(split, batch, workers)  # makes the copies
        return _loading_seconds(split, batch, workers)


def _loading_seconds(split: Split, batch: int, workers: int) -> float:
    few = min(batch, LOADED, len(split))
    count = min(LOADED_BATCHES * max(1, workers), len(split) // few)
    drawn = batches(split.view(0), few, range(count * few), workers)
    next(drawn)
    start = time.perf_counter()
    left = few * sum(1 for _ in drawn)
    if not left:
        left = few
        for index in range(few):
            split.view(0)[index]
    return (time.perf_counter() - start) * batch / left


def step_seconds(computing: float, loading: float, workers: int) -> float:
    """Estimate a step: workers decode while it computes, the main process before it does."""
    return max(computing, loading) if workers else computing + loading


def teacher_seconds(
    config: TrainConfig, data: Data, model: AnyTeacher | None, pixels: Tensor, loading: float
) -> dict[str, float]:
    """Estimate the seconds of training the teacher and of storing its outputs for every view.

    `pixels` [B, C, H, W] are those that pass at once, as students see them, and `loading` the
    seconds to decode them.
    """
    request = config.teacher_request()
    if request.stored:
        return {}
    if model:
        epochs, frames = 0, model.frames(data.train.frame)
    else:
        model = build_network(request.name, len(data.classes)).to(pixels.device).eval()
        epochs, frames = config.teacher_epochs, (data.train.frame,)
    shown = [pixels.new_zeros(len(pixels), 3, *frame.size) for frame in frames]

    timed_now("the teacher")
    forward = answer_seconds(model, shown, config.precision)
    step = learning_seconds(model, shown, config.precision) if epochs else 0.0
    steps, workers = config.accumulate * len(data.train) / config.batch, config.loader().workers
    w_steps = config.accumulate * len(data.joined(LEARNED)) / config.batch * config.w_epochs
    training = step_seconds(step, loading, workers) * steps * epochs
    if config.teacher_outputs == "online":
        return {"teacher": training, "teacher online": forward * w_steps}
    shapes = stored_shapes(data, config.views, config.most_classes)
    images = sum((shape.views + 1) * shape.images for _, shape in shapes.values())
    outputs = step_seconds(forward, loading, workers) * images / len(pixels)
    return {"teacher": training, "outputs": outputs}


def answer_seconds(model: AnyTeacher, shown: Sequence[Tensor], precision: Precision) -> float:
    """Time a teacher's answer to images, of each of its frames one tensor [B, C, H, W]."""

    def answer(count: int) -> None:
        with torch.no_grad(), autocast(shown[0].device, precision):
            model(*(images[:count] for images in shown))[0, 0].item()

    return scaled_seconds(answer, len(shown[0]))


def learning_seconds(model: nn.Module, shown: Sequence[Tensor], precision: Precision) -> float:
    """Time a step of a network's training on such images; it is left in training mode."""
    model.train()

    def learn(count: int) -> None:
        with autocast(shown[0].device, precision):
            total = model(*(images[:count] for images in shown)).sum()
        total.backward()
        total.item()  # a GPU has done by then what it was told

    return scaled_seconds(learn, len(shown[0]))


def scoring_seconds(images: int, batch: int, step: float, loading: float, workers: int) -> float:
    """Estimate the seconds of scoring a student on `images`, where `step` trains on `batch`."""
    scoring = step_seconds(step / TRAINING_PASSES, loading, workers) * images / batch
    calibration = CALIBRATION_BATCHES * step / TRAINING_PASSES
    return scoring + calibration


def outputs_size(config: TrainConfig, data: Data) -> str:
    """Say what is stored of the teacher, and how much that is."""
    if config.teacher_outputs == "online":
        return "not stored: the teacher runs in every step"
    if given := config.teacher_request().stored:
        return f"those in {given}"
    found = stored_shapes(data, config.views, config.most_classes)
    shapes = [shape for _, shape in found.values()]
    size = size_text(sum(shape.size for shape in shapes))
    free = size_text(shutil.disk_usage(_existing(config.run)).free)
    place = config.run / "targets"
    return f"{size} in {place}, {free} are free; of the train split {shapes[0]}"


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def time_text(seconds: Mapping[str, float]) -> str:
    """Say the sum, and each phase's part of it."""
    parts = ", ".join(f"{name} {duration(value)}" for name, value in seconds.items() if value)
    return f"roughly {duration(sum(seconds.values()))} on this machine: {parts}"


def taken_rows(taken: Mapping[str, float], predicted: Mapping[str, float]) -> list[tuple[str, str]]:
    """Say how long each phase and all of them took, beside what was predicted.

    A teacher that runs online does so in w.
    """
    every = {**taken, "all": sum(taken.values())}
    w = predicted.get("w", 0.0) + predicted.get("teacher online", 0.0)
    expected = {**predicted, "w": w, "all": sum(predicted.values())}
    return [
        (f"time: {name}", f"{seconds:,.0f} s, {expected.get(name, 0.0):,.0f} s predicted")
        for name, seconds in every.items()
    ]


def student_time(epoch: float, recipe: SearchConfig) -> str:
    """Say how long a student takes to train, and how long the trials before it, by an epoch's."""
    trials = recipe.trials * recipe.trial_epochs
    return (
        f"{duration(epoch * recipe.epochs)} for {recipe.epochs} epochs, and before it "
        f"{duration(epoch * trials)} for {recipe.trials} on trial"
    )


def duration(seconds: float) -> str:
    """Say seconds as people do."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def peak_memory(device: torch.device) -> str:
    """Say what the timed steps have needed so far."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        peak = torch.cuda.max_memory_allocated(device)
        return f"peak {size_text(peak)} of the device's {size_text(total)} in such steps"
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f"peak {size_text(peak)} of this process in such steps"
