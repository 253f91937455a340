"""What steps and the latency table will cost: timed on made-up images, before anything is spent."""

import copy
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from base.precision import Precision, autocast
from base.processes import timed_now
from export.runtimes.faster import Ratios
from export.timing.rough import quick_ms, scaled_seconds
from export.timing.unit_of_work import UnitOfWork
from supernet.latency.plan import CALIBRATION_NETWORKS, CHECK_NETWORKS
from supernet.latency.runners import student_runner
from supernet.latency_table import table_shapes
from supernet.space import Architecture, SearchSpace
from supernet.student import parameters_and_macs
from supernet.supernet import Supernet
from supernet.training.weights import STUDENTS

# In ONNX Runtime, which packs a copy of the weights. Within 45 % for the presets
# (docs/log/speed-and-memory.md).
PARAMETER_BYTES, MODEL_BYTES = 8, 2.5 * 2**20


def all_step_seconds(
    supernet: Supernet, images: Tensor, few: int, precision: Precision, retrained_in: Precision
) -> tuple[float, float, float]:
    """Time a step of w, one of alpha on `few` images, and one of a middle student.

    Where `images` are fewer, alpha's time is scaled. `precision` is that of the first two, a
    student is `retrained_in` its own. A copy is timed: running statistics move, and how often hangs
    on the clock.
    """
    supernet = copy.deepcopy(supernet)
    timed_now("a step of the shared weights")
    w = w_seconds(supernet, images, precision)
    timed_now("a step of alpha")
    alpha = alpha_seconds(supernet, images[:few], precision) * max(1, few / len(images))
    timed_now("a step of a student")
    return w, alpha, student_seconds(supernet, images, retrained_in)


def w_seconds(supernet: Supernet, images: Tensor, precision: Precision) -> float:
    """Time a step of w on images [B, C, H, W] in seconds: middle students."""
    space = supernet.space
    students = [space.middle()] * STUDENTS

    def step(some: Tensor) -> None:
        for architecture, share in zip(students, some.tensor_split(len(students)), strict=True):
            supernet.student_logits(share, architecture).sum().backward()

    return _seconds(supernet, step, images, precision)


def alpha_seconds(supernet: Supernet, images: Tensor, precision: Precision) -> float:
    """Time a step of alpha on images [B, C, H, W] in seconds, shared weights frozen.

    Its operations are drawn at random, as in most steps.
    """
    choices = supernet.space.one_hot(supernet.space.random(np.random.default_rng(0)))
    choices = {name: p.requires_grad_() for name, p in choices.items()}
    supernet.requires_grad_(False)

    def step(some: Tensor) -> None:
        supernet(some, choices).sum().backward()

    seconds = _seconds(supernet, step, images, precision)
    supernet.requires_grad_(True)
    return seconds


def student_seconds(supernet: Supernet, images: Tensor, precision: Precision) -> float:
    """Time a step of the middle student's training on images [B, C, H, W] in seconds."""
    student: Architecture = supernet.space.middle()

    def step(some: Tensor) -> None:
        supernet.student_logits(some, student).sum().backward()

    return _seconds(supernet, step, images, precision)


def _seconds(
    supernet: Supernet, step: Callable[[Tensor], None], images: Tensor, precision: Precision
) -> float:
    def finished(count: int) -> None:
        with autocast(images.device, precision):
            step(images[:count])
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    seconds = scaled_seconds(finished, len(images))
    supernet.zero_grad()
    return seconds


def table_rows(
    space: SearchSpace, unit: UnitOfWork, given: Path | None, ratios: Ratios | None
) -> list[tuple[str, str]]:
    """Say roughly how long students take, and what is in memory while the table is measured."""
    if given:
        return [("latency", f"{given}: a {unit}")]
    timed_now("the smallest and the largest student")
    ends = space.smallest(), space.largest()
    smallest, largest = (quick_ms(student_runner(space, a, unit)) for a in ends)
    entries, networks = count_parts(space), min(CALIBRATION_NETWORKS + CHECK_NETWORKS, space.size())
    parameters = networks * sum(parameters_and_macs(space, a)[0] for a in ends) / len(ends)
    memory = (parameters * PARAMETER_BYTES + (entries + networks) * MODEL_BYTES) / 2**30
    timed = (
        f"{entries} parts and {networks} networks timed, all in memory: roughly {memory:.1f} GiB"
    )
    return [
        ("latency", f"about {smallest:.1f} to {largest:.1f} ms for a {unit}"),
        ("latency table", timed),
        *([("precision", str(ratios))] if ratios else []),
    ]


def count_parts(space: SearchSpace) -> int:
    """Count the entries of a table of `space`."""
    shapes = table_shapes(space)
    every = (shapes.stem, *shapes.first, *shapes.rest, shapes.head)
    return sum(map(math.prod, every))
