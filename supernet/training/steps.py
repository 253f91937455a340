"""The two training steps of the supernet: shared weights on students, alpha on frozen weights."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from base.errors import UserError
from base.precision import Precision, autocast
from base.processes import all_reduce_mean, gradients
from supernet.alpha import Alpha, LatencyMultiplier, gumbel_sample, probabilities
from supernet.latency_table import LatencyTable
from supernet.space import Architecture
from supernet.supernet import Supernet


class ImageBatch(Protocol):
    """A batch: at least images [B, C, H, W]; what else the loss needs is the loss's affair."""

    @property
    def images(self) -> Tensor:
        """Images [B, C, H, W] in [0, 1]."""
        ...


class SplittableBatch(ImageBatch, Protocol):
    """A batch that can be split."""

    def chunk(self, count: int) -> list["SplittableBatch"]:
        """Split the batch into `count` batches of as equal a size as can be."""
        ...


Loss = Callable[[Tensor, ImageBatch], Tensor]


def w_step(
    supernet: Supernet,
    students: Sequence[Architecture],
    shares: Sequence[ImageBatch],
    loss: Loss,
    optimizer: Optimizer,
    precision: Precision = "fp32",
) -> list[float]:
    """Move the shared weights by the mean loss of `students`, each on its own share of a batch.

    With several processes the mean goes over all of theirs. Returns each student's loss; one that
    is not finite raises `UserError` and moves nothing.
    """
    optimizer.zero_grad(set_to_none=True)
    losses = torch.zeros(len(students), device=shares[0].images.device)
    for i, (architecture, share) in enumerate(zip(students, shares, strict=True)):
        with autocast(share.images.device, precision):
            logits = supernet.student_logits(share.images, architecture)
        student_loss = loss(logits.float(), share)
        (student_loss / len(students)).backward()
        losses[i] = student_loss.detach()
    all_reduce_mean([*gradients(list(supernet.parameters())), losses])
    torch.nn.utils.clip_grad_norm_(supernet.parameters(), 5.0)
    found = _finite(losses, "shared weights", "--w-learning-rate")
    optimizer.step()
    return found


def _finite(losses: Tensor, what: str, option: str) -> list[float]:
    """Return losses [N], read once, for each read waits for their device; or raise `UserError`."""
    found = losses.tolist()
    if not all(map(math.isfinite, found)):
        raise UserError(f"{what}: loss {found}, expected finite numbers; lower {option}")
    return found


@dataclass(frozen=True)
class AlphaState:
    """All that the training of alpha moves."""

    alpha: Alpha
    multiplier: LatencyMultiplier
    optimizer: Optimizer


@dataclass(frozen=True)
class AlphaDraw:
    """What one step of alpha draws: a budget, and Gumbel noise at a temperature."""

    target_ms: float
    tau: float
    generator: torch.Generator


def alpha_step(
    supernet: Supernet,
    state: AlphaState,
    table: LatencyTable,
    draw: AlphaDraw,
    parts: Sequence[ImageBatch],
    loss: Loss,
    precision: Precision = "fp32",
) -> tuple[float, float]:
    """Move alpha(T) by loss + lambda(T) · (E[ms] / T - 1), lambda by dual ascent; w stays.

    The loss is the mean over the parts of a batch, and over all processes, which must draw the
    same choices. The supernet's parameters must not require gradients. Returns (loss, E[ms]); a
    loss that is not finite raises `UserError` and moves nothing.
    """
    state.optimizer.zero_grad(set_to_none=True)
    log_p = state.alpha(draw.target_ms)
    choices = gumbel_sample(log_p, draw.tau, draw.generator)
    # Cut off here, the parts can pass one after the other, each with memory for itself alone.
    cut = {name: choice.detach().requires_grad_() for name, choice in choices.items()}
    search_loss = torch.zeros(1, device=parts[0].images.device)
    for part in parts:
        with autocast(part.images.device, precision):
            logits = supernet(part.images, cut)
        part_loss = loss(logits.float(), part) / len(parts)
        part_loss.backward()
        search_loss += part_loss.detach()
    expected_ms = table.expected_ms(probabilities(log_p))
    excess = expected_ms / draw.target_ms - 1
    penalty = state.multiplier.at(draw.target_ms) * excess
    slopes = [choice.grad for choice in cut.values()]
    torch.autograd.backward([*choices.values(), penalty], [*slopes, None])
    all_reduce_mean([*gradients(list(state.alpha.parameters())), search_loss])
    (found,) = _finite(search_loss, "alpha", "--alpha-learning-rate or --w-learning-rate")
    state.optimizer.step()
    state.multiplier.ascend(draw.target_ms, excess.item())
    return found, expected_ms.item()
