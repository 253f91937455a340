"""A search in a small world: shared weights, alpha on them, and a surrogate of their losses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from base.checkpoint import Checkpoint
from base.phase import Phase
from benchmarks.world import BATCH, World
from export.timing.stopwatch import Patience
from kd.evaluate import recalibrate
from kd.images.loader import shuffled
from kd.loss import Loss
from supernet.alpha import Alpha
from supernet.choice.pick import pick_measured, pick_predicted
from supernet.choice.programme import Programme, candidates
from supernet.choice.surrogate import Surrogate, fit_surrogate
from supernet.latency.students import measure_architectures
from supernet.latency_table import LatencyTable
from supernet.sampling import fair_sampler, fair_students
from supernet.space import Architecture
from supernet.supernet import Supernet
from supernet.training.alpha import AlphaSettings, train_alpha
from supernet.training.weights import WSettings, train_w

CALIBRATION_BATCHES = 4
SURVEYED = 128
CANDIDATES, FINALISTS = 16, 4
PATIENCE = Patience(0.004, 30, share=1.0, least_rounds=30)
ALPHA = AlphaSettings(
    alpha_steps=800,
    alpha_learning_rate=0.05,
    multiplier_rate=0.05,
    tau_start=5.0,
    tau_end=0.5,
    knots=6,
    precision="fp32",
    seed=0,
)


@dataclass(frozen=True)
class OneBudget:
    """What train_alpha asks of a programme, for an alpha that knows one budget (FBNet)."""

    table: LatencyTable
    target_ms: float

    def range_ms(self) -> tuple[float, float]:
        """The budget, as the narrowest range."""
        return 0.999 * self.target_ms, 1.001 * self.target_ms


def trained_weights(
    world: World, problem: Programme, loss: Loss, epochs: int, seed: int, folder: Path
) -> Supernet:
    """Train the shared weights as train.py does, or find them in `folder`."""
    torch.manual_seed(seed)
    supernet = Supernet(world.table.space)
    supernet.to(world.device, memory_format=torch.channels_last)
    sampler = fair_sampler(world.table, *problem.range_ms())
    steps = epochs * (len(world.train.labels) // BATCH)
    settings = WSettings(steps, w_learning_rate=0.2, weight_decay=1e-4, precision="fp32", seed=seed)
    batches = partial(world.train.endless, BATCH, seed)
    checkpoint = Checkpoint(folder / "w.pt", {"epochs": str(epochs)}, 60)
    train_w(supernet, sampler, batches, loss, settings, Phase("w", checkpoint=checkpoint))
    return supernet


def trained_alpha(
    world: World,
    supernet: Supernet,
    problem: Programme | OneBudget,
    loss: Loss,
    steps: int,
    seed: int,
    path: Path,
) -> Alpha:
    """Train alpha on the search split as train.py does, or find it at `path`."""
    knots = 2 if isinstance(problem, OneBudget) else ALPHA.knots
    settings = replace(ALPHA, alpha_steps=steps, knots=knots, seed=seed)
    batches = partial(world.search.endless, BATCH, seed)
    checkpoint = Checkpoint(path, {"steps": str(steps)}, 60)
    phase = Phase("alpha", checkpoint=checkpoint)
    return train_alpha(supernet, problem, batches, loss, settings, phase)


def calibration_images(world: World) -> list[Tensor]:
    """Plain images [B, 3, R, R] of all classes that BatchNorm is recalibrated on."""
    epoch = world.train.epoch(-1, 256, shuffled(len(world.train.labels), 0))
    return [batch.images for batch in islice(epoch, CALIBRATION_BATCHES)]


def shared_loss(
    supernet: Supernet,
    world: World,
    loss: Loss,
    images: Sequence[Tensor],
    architecture: Architecture,
) -> float:
    """Loss on the search split with shared weights, BatchNorm recalibrated on `images`."""
    student = supernet.extract(architecture)
    recalibrate(student, images)
    student.eval()
    with torch.no_grad():
        total = sum(
            loss(student(batch.images), batch).item() * len(batch.labels)
            for batch in world.search.epoch(-1, 500)
        )
    return total / len(world.search.labels)


def searched_students(
    world: World,
    problem: Programme,
    loss: Loss,
    epochs: int,
    seed: int,
    folder: Path,
    measured: bool,
) -> Callable[[float], Architecture]:
    """Search as both scripts do, with `epochs` of w; return what picks a student for a budget.

    Finalists are `measured` here, or the table alone is trusted, for a machine that is not its own.
    """
    supernet = trained_weights(world, problem, loss, epochs, seed, folder)
    return picker(world, problem, supernet, loss, seed, folder / "alpha.pt", measured)


def picker(
    world: World,
    problem: Programme,
    supernet: Supernet,
    loss: Loss,
    seed: int,
    alpha_path: Path,
    measured: bool,
) -> Callable[[float], Architecture]:
    """Search with trained shared weights; return what picks a student for a budget."""
    alpha = trained_alpha(world, supernet, problem, loss, ALPHA.alpha_steps, seed, alpha_path)
    score = partial(shared_loss, supernet, world, loss, calibration_images(world))
    expect = surveyed(problem, score, SURVEYED, seed).loss
    measure = partial(measure_architectures, world.table, PATIENCE, seed)

    def pick(target_ms: float) -> Architecture:
        draws = np.random.default_rng(seed)
        with torch.no_grad():
            log_p = alpha(target_ms)
        propose = partial(candidates, problem, log_p, count=CANDIDATES, generator=draws)
        if measured:
            found = pick_measured(problem, propose, target_ms, FINALISTS, expect, measure)
        else:
            found = pick_predicted(problem, propose, target_ms, expect)
        return found.architecture

    return pick


def surveyed(
    problem: Programme, score: Callable[[Architecture], float], count: int, seed: int
) -> Surrogate:
    """Fit the surrogate to the scores of random students, as train.py does."""
    sampler = fair_sampler(problem.table, *problem.range_ms())
    students = fair_students(sampler, count, np.random.default_rng(seed))
    return fit_surrogate(problem.table.space, {a: score(a) for a in students})
