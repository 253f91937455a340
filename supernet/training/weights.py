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
from supernet.sampling import FairSampler, log_uniform
from supernet.space import Architecture, SearchSpace
from supernet.supernet import Supernet
from supernet.training.steps import Loss, SplittableBatch, w_step

LOG_EVERY = 10
FAIR = 2
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


def sandwich(space: SearchSpace, draws: np.random.Generator) -> tuple[Architecture, Architecture]:
    """Return the largest and the smallest student, an operation drawn for each of their layers.

    So every operation's ends are trained (sandwich rule: BigNAS, arXiv:2003.11142).
    """
    largest: dict[str, int] = {}
    smallest: dict[str, int] = {}
    for decision in space.decisions():
        last = len(decision.choices) - 1
        if decision.name.endswith(".operation"):
            for student in (largest, smallest):
                student[decision.name] = int(draws.integers(last + 1))
        else:
            largest[decision.name], smallest[decision.name] = last, 0
    return space.architecture(largest), space.architecture(smallest)


def train_w(
    supernet: Supernet,
    sampler: FairSampler,
    batches_from: Callable[[int], Iterator[SplittableBatch]],
    loss: Loss,
    settings: WSettings,
    phase: Phase,
) -> None:
    """Train the shared weights: the sandwich, and two students of fair latency, a step.

    Alpha has no say in what is trained, or its favourites would look better for being trained
    more. Goes on where the phase's checkpoint is, with `batches_from(step)`; a step's students
    are drawn from the seed and its number.
    """
    space = supernet.space
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
        fair = [sampler.near(log_uniform(sampler.range_ms, draws), draws) for _ in range(FAIR)]
        students = [*sandwich(space, draws), *fair]
        turns = next(batches).chunk(settings.accumulate)
        shares = [share for turn in turns for share in turn.chunk(len(students))]
        several = students * len(turns)
        losses = w_step(supernet, several, shares, loss, optimizer, settings.precision)
        largest, smallest, *fair = np.reshape(losses, (len(turns), -1)).mean(axis=0)
        schedule.step()
        if step % LOG_EVERY == 0 or step == steps - 1:
            named = {"largest": largest, "smallest": smallest, "fair": np.mean(fair)}
            phase.log(step, **named, learning_rate=schedule.get_last_lr()[0])
            bar.set_postfix(largest=f"{largest:.3f}", smallest=f"{smallest:.3f}")
        phase.checkpoint.save_if_due(step + 1, steps, parts)
