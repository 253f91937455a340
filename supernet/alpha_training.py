"""Train alpha for a latency table, on frozen shared weights."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
from tqdm import trange

from export.checkpoint import Keeper
from export.compiled import compiled
from export.precision import Precision
from export.processes import is_first, same_everywhere
from supernet.alpha import Alpha, Multiplier, entropy, stage_shares
from supernet.derive import Programme
from supernet.sampling import log_uniform
from supernet.steps import CanBeParted, Loss, alpha_step
from supernet.supernet import Supernet

LOG_EVERY = 10


@dataclass(frozen=True)
class AlphaSettings:
    """How alpha is trained; the fields are named as the command line's."""

    alpha_steps: int
    alpha_learning_rate: float
    multiplier_rate: float
    tau_start: float
    tau_end: float
    knots: int
    precision: Precision
    seed: int
    accumulate: int = 1
    compile: bool = False

    @classmethod
    def of(cls, settings: Mapping[str, object]) -> Self:
        """Take these fields out of a run's settings."""
        return cls(**{field.name: settings[field.name] for field in fields(cls)})


def train_alpha(
    supernet: Supernet,
    problem: Programme,
    batches_from: Callable[[int], Iterator[CanBeParted]],
    loss: Loss,
    settings: AlphaSettings,
    log: Callable[..., None],
    checkpoint: Keeper,
) -> Alpha:
    """Return alpha(T) for the programme's table: one budget T a step, lambda(T) by dual ascent.

    Goes on where the checkpoint is, with `batches_from(step)`; what a step draws, it draws from
    the seed and its number. `log(phase, step, **numbers)` keeps the numbers.
    """
    alpha = Alpha(supernet.space, *problem.range_ms(), settings.knots)
    multiplier = Multiplier(alpha.log_knots, settings.multiplier_rate)
    optimizer = torch.optim.Adam(alpha.parameters(), settings.alpha_learning_rate)
    supernet.train().requires_grad_(False)
    parts = {"alpha": alpha, "multiplier": multiplier, "optimizer": optimizer}
    start = same_everywhere(checkpoint.restore(parts), "alpha: restored at step")
    batches, mixed = batches_from(start), compiled(supernet, wanted=settings.compile)
    quiet, steps = not is_first(), settings.alpha_steps
    for step in (bar := trange(start, steps, desc="alpha", unit="step", disable=quiet)):
        draws = np.random.default_rng((settings.seed, step))
        gumbel = torch.Generator().manual_seed(int(draws.integers(2**63)))
        target_ms, tau = log_uniform(alpha.range_ms(), draws), _tau(settings, step)
        search_loss, expected_ms = alpha_step(
            *(mixed, alpha, multiplier, problem.table, target_ms, tau),
            *(next(batches).shares(settings.accumulate), loss, optimizer, gumbel),
            settings.precision,
        )
        if step % LOG_EVERY == 0 or step == steps - 1:
            middle_ms = math.sqrt(math.prod(alpha.range_ms()))
            shown = {"search_loss": search_loss, "expected_ms": expected_ms, "target_ms": target_ms}
            shown |= {"expected_over_target": expected_ms / target_ms, "tau": tau}
            shown |= {"lambda": multiplier.at(target_ms), "entropy": entropy(alpha(middle_ms))}
            log("alpha", step, **shown)
            log("choices", step, **stage_shares(alpha, middle_ms))
            bar.set_postfix(loss=f"{search_loss:.3f}", ms=f"{expected_ms:.1f}/{target_ms:.1f}")
        checkpoint.keep(step + 1, steps, parts)
    supernet.requires_grad_(True)
    return alpha


def _tau(settings: AlphaSettings, step: int) -> float:
    """Gumbel temperature at a step, annealed geometrically."""
    return settings.tau_start * (settings.tau_end / settings.tau_start) ** (
        step / settings.alpha_steps
    )
