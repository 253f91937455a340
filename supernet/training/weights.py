"""Train the shared weights on fair students, before alpha and without it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
from timm.optim import param_groups_weight_decay
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import trange

from base.phase import Phase
from base.precision import Precision
from base.processes import is_main_process, require_same_on_all_processes
from supernet.sampling import FairSampler, log_uniform_each
from supernet.supernet import Supernet
from supernet.training.steps import Loss, SplittableBatch, w_step

LOG_EVERY = 10
STUDENTS = 4  # of a step
# A tenth; exactly that, OneCycleLR would divide by zero in a run of ten steps.
WARM_UP = 0.1 + 1e-6


@dataclass(frozen=True)
class WSettings:
    """How the shared weights are trained; the fields are named as the command line's."""

    steps: int
    w_learning_rate: float
    weight_decay: float
    precision: Precision
    seed: int
    accumulate: int = 1

    @classmethod
    def of(cls, settings: Mapping[str, object], steps: int) -> Self:
        """Take these fields out of a run's settings; `steps` follows from its epochs and images."""
        known = {**settings, "steps": steps}
        return cls(**{field.name: known[field.name] for field in fields(cls)})


def train_w(
    supernet: Supernet,
    sampler: FairSampler,
    batches_from: Callable[[int], Iterator[SplittableBatch]],
    loss: Loss,
    settings: WSettings,
    phase: Phase,
) -> None:
    """Train the shared weights: students of fair latency, one in each quarter of it, a step.

    Alpha has no say in what is trained, or its favourites would look better for being trained
    more. Nor are the largest and the smallest student in every step (sandwich rule: BigNAS,
    arXiv:2003.11142): half of all images would be theirs, and the others are ranked worse for it
    (docs/log/ranking-and-regret.md). Goes on where the phase's checkpoint is, with
    `batches_from(step)`; a step's students are drawn from the seed and its number.
    """
    groups = param_groups_weight_decay(supernet, settings.weight_decay)
    rate, steps = settings.w_learning_rate, settings.steps
    optimizer = torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True)
    schedule = OneCycleLR(optimizer, rate, steps, pct_start=WARM_UP, cycle_momentum=False)
    supernet.train()
    parts = {"supernet": supernet, "optimizer": optimizer, "schedule": schedule}
    start = require_same_on_all_processes(
        phase.checkpoint.restore(parts), f"{phase.name}: restored at step"
    )
    batches, quiet = batches_from(start), not is_main_process()
    for step in (bar := trange(start, steps, desc=phase.name, unit="step", disable=quiet)):
        draws = np.random.default_rng((settings.seed, step))
        targets_ms = log_uniform_each(sampler.range_ms, STUDENTS, draws)
        students = [sampler.near(target_ms, draws) for target_ms in targets_ms]
        turns = next(batches).chunk(settings.accumulate)
        shares = [share for turn in turns for share in turn.chunk(len(students))]
        several = students * len(turns)
        losses = w_step(supernet, several, shares, loss, optimizer, settings.precision)
        mean = np.reshape(losses, (len(turns), -1)).mean(axis=0)
        schedule.step()
        if step % LOG_EVERY == 0 or step == steps - 1:
            named = {"fast": mean[0], "slow": mean[-1], "fair": mean.mean()}
            phase.log(step, **named, learning_rate=schedule.get_last_lr()[0])
            bar.set_postfix(fast=f"{mean[0]:.3f}", slow=f"{mean[-1]:.3f}")
        phase.checkpoint.save_if_due(step + 1, steps, parts)
