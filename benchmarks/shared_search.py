"""A search in a small world: shared weights, alpha on them, and a surrogate of their losses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

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
    MIN_BUDGET_USE,
    PredictLoss,
    Propose,
    budget_asked,
    budget_predicted,
    pick_measured,
    pick_predicted,
)
from supernet.choice.programme import Programme, candidates
from supernet.choice.surrogate import Surrogate, fit_surrogate
from supernet.choice.trials import TRIED_USE, try_students
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


class Proposal(NamedTuple):
    """What a pick chooses from: see `pick_measured`."""

    propose: Propose
    expect: PredictLoss
    least_use: float


def searched(
    world: World, problem: Programme, supernet: Supernet, loss: Loss, seed: int, path: Path
) -> Searched:
    """Train alpha with trained shared weights, or find it at `path`, and fit the surrogate."""
    alpha = trained_alpha(world, supernet, problem, loss, ALPHA.alpha_steps, seed, path)
    score = partial(shared_loss, supernet, world, loss, calibration_images(world))
    return Searched(world, problem, loss, alpha, surveyed(problem, score, SURVEYED, seed), seed)


def untried(found: Searched, target_ms: float) -> Proposal:
    """Propose alpha's candidates, for the surrogate to choose among."""
    draws = np.random.default_rng(found.seed)
    with torch.no_grad():
        log_p = found.alpha(target_ms)
    propose = partial(candidates, found.problem, log_p, count=CANDIDATES, generator=draws)
    return Proposal(propose, found.surrogate.loss, MIN_BUDGET_USE)


def tried(found: Searched, target_ms: float, asked_ms: float, epochs: int) -> Proposal:
    """Propose students that were trained for a few epochs, as search.py does."""
    propose, expect, _ = untried(found, target_ms)

    def train(architecture: Architecture) -> float:
        student = trained_student(found.world, architecture, found.loss, epochs, found.seed)
        return search_loss(student, found.world, found.loss)

    first, draws = min(propose(asked_ms), key=expect), np.random.default_rng(found.seed)
    trials = try_students(found.problem, found.surrogate, first, asked_ms, TRIALS, train, draws)
    return Proposal(trials.propose, trials.loss, TRIED_USE)


def measured_pick(found: Searched, target_ms: float, proposal: Proposal) -> Architecture:
    """Return the best of what is proposed that is within the budget when it is measured."""
    table, (propose, expect, least_use) = found.problem.table, proposal
    measure = partial(measure_architectures, table, PATIENCE, found.seed)
    asked = (found.problem, propose, target_ms, FINALISTS, expect, measure, least_use)
    return pick_measured(*asked).architecture


def measured_picks(found: Searched, target_ms: float, epochs: int) -> dict[str, Architecture]:
    """Search for a budget here, with trials of a few epochs and without."""
    proposals = {
        SEARCHED: tried(found, target_ms, budget_asked(found.problem, target_ms), epochs),
        UNTRIED: untried(found, target_ms),
    }
    return {way: measured_pick(found, target_ms, own) for way, own in proposals.items()}


def predicted_picks(found: Searched, target_ms: float, epochs: int) -> dict[str, Architecture]:
    """Do the same by the table alone, for a machine that is not its own."""
    asked_ms, own = budget_predicted(found.problem, target_ms), untried(found, target_ms)
    proposals = {SEARCHED: tried(found, target_ms, asked_ms, epochs), UNTRIED: own}
    return {
        way: pick_predicted(found.problem, own.propose, target_ms, own.expect).architecture
        for way, own in proposals.items()
    }


def surveyed(
    problem: Programme, score: Callable[[Architecture], float], count: int, seed: int
) -> Surrogate:
    """Fit the surrogate to the scores of random students, as train.py does."""
    sampler = fair_sampler(problem.table, *problem.range_ms())
    students = fair_students(sampler, count, np.random.default_rng(seed))
    return fit_surrogate(problem.table.space, {a: score(a) for a in students})
