"""Train alpha for a latency table, on frozen shared weights."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
from tqdm import trange

from base.phase import Phase, no_log
from base.precision import Precision
from base.processes import is_main_process, require_same_on_all_processes
from supernet.alpha import Alpha, LatencyMultiplier, entropy, stage_shares
from supernet.choice.programme import Programme
from supernet.sampling import log_uniform
from supernet.supernet import Supernet
from supernet.training.steps import AlphaDraw, AlphaState, Loss, SplittableBatch, alpha_step

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

    @classmethod
    def of(cls, settings: Mapping[str, object]) -> Self:
        """Take these fields out of a run's settings."""
        return cls(**{field.name: settings[field.name] for field in fields(cls)})


def train_alpha(
    supernet: Supernet,
    problem: Programme,
    batches_from: Callable[[int], Iterator[SplittableBatch]],
    loss: Loss,
    settings: AlphaSettings,
    phase: Phase,
    log_choices: Callable[..., None] = no_log,
) -> Alpha:
    """Return alpha(T) for the programme's table: one budget T a step, lambda(T) by dual ascent.

    Goes on where the phase's checkpoint is, with `batches_from(step)`; what a step draws, it draws
    from the seed and its number. `log_choices` keeps the probabilities at the middle budget.
    """
    alpha = Alpha(supernet.space, *problem.range_ms(), settings.knots)
    state = AlphaState(
        alpha,
        LatencyMultiplier(alpha.log_knots, settings.multiplier_rate),
        torch.optim.Adam(alpha.parameters(), settings.alpha_learning_rate),
    )
    supernet.train().requires_grad_(False)
    parts = {"alpha": alpha, "multiplier": state.multiplier, "optimizer": state.optimizer}
    start = require_same_on_all_processes(
        phase.checkpoint.restore(parts), f"{phase.name}: restored at step"
    )
    batches, quiet = batches_from(start), not is_main_process()
    steps = settings.alpha_steps
    for step in (bar := trange(start, steps, desc=phase.name, unit="step", disable=quiet)):
        draw = _draw(settings, alpha.range_ms(), step)
        search_loss, expected_ms = alpha_step(
            supernet,
            state,
            problem.table,
            draw,
            next(batches).chunk(settings.accumulate),
            loss,
            settings.precision,
        )
        if step % LOG_EVERY == 0 or step == steps - 1:
            target_ms, middle_ms = draw.target_ms, math.sqrt(math.prod(alpha.range_ms()))
            shown = {"search_loss": search_loss, "expected_ms": expected_ms, "target_ms": target_ms}
            shown |= {"expected_over_target": expected_ms / target_ms, "tau": draw.tau}
            shown |= {
                "lambda": state.multiplier.at(target_ms),
                "entropy": entropy(alpha(middle_ms)),
            }
            phase.log(step, **shown)
            log_choices(step, **stage_shares(alpha, middle_ms))
            bar.set_postfix(loss=f"{search_loss:.3f}", ms=f"{expected_ms:.1f}/{target_ms:.1f}")
        phase.checkpoint.save_if_due(step + 1, steps, parts)
    supernet.requires_grad_(True)
    return alpha


def _draw(settings: AlphaSettings, range_ms: tuple[float, float], step: int) -> AlphaDraw:
    draws = np.random.default_rng((settings.seed, step))
    gumbel = torch.Generator().manual_seed(int(draws.integers(2**63)))
    return AlphaDraw(log_uniform(range_ms, draws), _tau(settings, step), gumbel)


def _tau(settings: AlphaSettings, step: int) -> float:
    """Gumbel temperature at a step, annealed geometrically."""
    return settings.tau_start * (settings.tau_end / settings.tau_start) ** (
        step / settings.alpha_steps
    )
