"""The two training steps of the supernet: shared weights on students, alpha on frozen weights."""

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from export.errors import UserError
from export.precision import Precision, arithmetic
from supernet.alpha import Alpha, Multiplier, gumbel_sample, probabilities
from supernet.latency import LatencyTable
from supernet.space import Architecture
from supernet.supernet import Supernet


class HasImages(Protocol):
    """A batch: at least images [B, 3, R, R]; what else the loss needs is the loss's affair."""

    @property
    def images(self) -> Tensor:
        """Images [B, 3, R, R] in [0, 1]."""
        ...


Loss = Callable[[Tensor, HasImages], Tensor]


def w_step(
    supernet: Supernet,
    students: Sequence[Architecture],
    shares: Sequence[HasImages],
    loss: Loss,
    optimizer: Optimizer,
    precision: Precision = "fp32",
) -> list[float]:
    """Move the shared weights by the mean loss of `students`, each on its own share of a batch.

    Returns each student's loss; one that is not finite raises `UserError` and moves nothing.
    """
    optimizer.zero_grad(set_to_none=True)
    losses = []
    for architecture, share in zip(students, shares, strict=True):
        with arithmetic(share.images.device, precision):
            logits = supernet.student_logits(share.images, architecture)
        student_loss = loss(logits.float(), share)
        (student_loss / len(students)).backward()
        losses.append(student_loss.item())
    _require_finite(losses, "shared weights", "--w-learning-rate")
    torch.nn.utils.clip_grad_norm_(supernet.parameters(), 5.0)
    optimizer.step()
    return losses


def _require_finite(losses: Sequence[float], what: str, option: str) -> None:
    if not all(map(math.isfinite, losses)):
        raise UserError(f"{what}: loss {losses}, expected finite numbers; lower {option}")


def alpha_step(
    supernet: Supernet,
    alpha: Alpha,
    multiplier: Multiplier,
    table: LatencyTable,
    target_ms: float,
    tau: float,
    batch: HasImages,
    loss: Loss,
    optimizer: Optimizer,
    generator: torch.Generator,
    precision: Precision = "fp32",
) -> tuple[float, float]:
    """Move alpha(T) by loss + lambda(T) · (E[ms] / T - 1), lambda by dual ascent; w stays.

    The supernet's parameters must not require gradients. Returns (loss, E[ms]); a loss that is
    not finite raises `UserError` and moves nothing.
    """
    optimizer.zero_grad(set_to_none=True)
    log_p = alpha(target_ms)
    choices = gumbel_sample(log_p, tau, generator)
    with arithmetic(batch.images.device, precision):
        logits = supernet(batch.images, choices)
    search_loss = loss(logits.float(), batch)
    expected_ms = table.expected_ms(probabilities(log_p))
    excess = expected_ms / target_ms - 1
    _require_finite([search_loss.item()], "alpha", "--alpha-learning-rate or --w-learning-rate")
    (search_loss + multiplier.at(target_ms) * excess).backward()
    optimizer.step()
    multiplier.ascend(target_ms, excess.item())
    return search_loss.item(), expected_ms.item()
