"""A search in a small world: shared weights, alpha on them, and a surrogate of their losses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from base.checkpoint import Checkpoint
from base.phase import Phase
from benchmarks.world import BATCH, World, trained_student
from export.timing.stopwatch import Patience
from kd.evaluate import recalibrate
from kd.images.loader import shuffled
from kd.loss import Loss
from supernet.alpha import Alpha
from supernet.choice.pick import (
    Proposal,
    alphas_proposal,
    budget_asked,
    budget_calibrated,
    budget_predicted,
    pick_measured,
    pick_predicted,
)
from supernet.choice.programme import Programme
from supernet.choice.surrogate import Surrogate, fit_surrogate
from supernet.choice.trials import after_trials
from supernet.latency.students import measure_architectures
from supernet.latency_table import LatencyTable
from supernet.sampling import fair_sampler, fair_students
from supernet.space import Architecture
from supernet.supernet import Supernet
from supernet.training.alpha import AlphaSettings, train_alpha
from supernet.training.weights import WSettings, train_w

CALIBRATION_BATCHES = 4
SURVEYED = 128
CANDIDATES, FINALISTS, TRIALS = 16, 4, 16
SEARCHED, UNTRIED = "searched", "searched, no trials"
# Students are tried for this share of the epochs of a training.
TRIAL_SHARE = 1 / 4
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
    return search_loss(student, world, loss)


@torch.no_grad()
def search_loss(student: nn.Module, world: World, loss: Loss) -> float:
    """Mean loss over the plain images of the search split."""
    student.eval()
    total = sum(
        loss(student(batch.images), batch).item() * len(batch.labels)
        for batch in world.search.epoch(-1, 500)
    )
    return total / len(world.search.labels)


@dataclass(frozen=True)
class Searched:
    """A search in a world, of one seed: alpha, and the surrogate of the shared weights."""

    world: World
    problem: Programme
    loss: Loss
    alpha: Alpha
    surrogate: Surrogate
    seed: int


def searched(
    world: World, problem: Programme, supernet: Supernet, loss: Loss, seed: int, path: Path
) -> Searched:
    """Train alpha with trained shared weights, or find it at `path`, and fit the surrogate."""
    alpha = trained_alpha(world, supernet, problem, loss, ALPHA.alpha_steps, seed, path)
    score = partial(shared_loss, supernet, world, loss, calibration_images(world))
    return Searched(world, problem, loss, alpha, surveyed(problem, score, SURVEYED, seed), seed)


def untried(found: Searched, target_ms: float, asked_ms: float) -> Proposal:
    """Propose alpha's candidates, for the surrogate to choose among."""
    with torch.no_grad():
        log_p = found.alpha(target_ms)
    own = (log_p, CANDIDATES, found.seed, found.surrogate.loss)
    return alphas_proposal(found.problem, *own, asked_ms)


def tried(found: Searched, own: Proposal, epochs: int) -> Proposal:
    """Propose students that were trained for a few epochs, as search.py does."""

    def train(architecture: Architecture) -> float:
        student = trained_student(found.world, architecture, found.loss, epochs, found.seed)
        return search_loss(student, found.world, found.loss)

    return after_trials(found.problem, found.surrogate, own, TRIALS, found.seed, train)


def measured_picks(found: Searched, target_ms: float, epochs: int) -> dict[str, Architecture]:
    """Search for a budget here, with trials of a few epochs and without."""
    problem, table = found.problem, found.problem.table
    measure = partial(measure_architectures, table, PATIENCE, found.seed)
    own = untried(found, target_ms, budget_asked(problem, target_ms))
    asked_ms = budget_calibrated(problem, own, target_ms, FINALISTS, measure)
    calibrated = untried(found, target_ms, asked_ms)
    proposals = {SEARCHED: tried(found, calibrated, epochs), UNTRIED: own}
    return {
        way: pick_measured(problem, proposal, target_ms, FINALISTS, measure).architecture
        for way, proposal in proposals.items()
    }


def predicted_picks(found: Searched, target_ms: float, epochs: int) -> dict[str, Architecture]:
    """Do the same by the table alone, for a machine that is not its own."""
    own = untried(found, target_ms, budget_predicted(found.problem, target_ms))
    proposals = {SEARCHED: tried(found, own, epochs), UNTRIED: own}
    return {
        way: pick_predicted(found.problem, proposal, target_ms).architecture
        for way, proposal in proposals.items()
    }


def surveyed(
    problem: Programme, score: Callable[[Architecture], float], count: int, seed: int
) -> Surrogate:
    """Fit the surrogate to the scores of random students, as train.py does."""
    sampler = fair_sampler(problem.table, *problem.range_ms())
    students = fair_students(sampler, count, np.random.default_rng(seed))
    return fit_surrogate(problem.table.space, {a: score(a) for a in students})
