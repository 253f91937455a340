"""Parity of the ONNX file with the PyTorch module."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from export.runtimes.runtime import runtime_of
from export.timing.unit_of_work import UnitOfWork

# Of the largest logit, or of 1 where that is less: single precision gives some 1e-7 an operation.
MAX_ERROR = 1e-4


@dataclass(frozen=True)
class Parity:
    """How far exported logits are from the reference ones, over `images` images.

    `largest_logit` is the greatest magnitude of a reference one.
    """

    max_abs_error: float
    largest_logit: float
    top1_agreement: float
    images: int

    @property
    def finite_error(self) -> float | None:
        """The error for JSON, which has no NaN: None when it is not finite."""
        return self.max_abs_error if math.isfinite(self.max_abs_error) else None

    @property
    def bound(self) -> float:
        """The largest error that passes."""
        return MAX_ERROR * max(1.0, self.largest_logit)

    @property
    def passed(self) -> bool:
        """Whether the error is within its bound; one that is not finite never is.

        Then an answer can differ only where the two largest logits are within twice the bound.
        """
        return self.max_abs_error <= self.bound < math.inf


@dataclass(frozen=True)
class Rounding:
    """What a precision below fp32 costs, over the same images: shares told right, and agreement.

    `error` is the standard error of the difference.
    """

    fp32_accuracy: float
    accuracy: float
    agreement: float
    error: float

    @property
    def lost(self) -> float:
        """The share of the images by which it is less right."""
        return self.fp32_accuracy - self.accuracy

    def within(self, bound: float) -> bool:
        """Whether it loses no more than `bound`, but for what may be chance."""
        return self.lost <= max(bound, 2 * self.error)


def onnx_logits(model: bytes | Path, images: Iterable[Tensor], unit: UnitOfWork) -> Tensor:
    """Run an ONNX model on batches [B, C, H, W] in the unit's runtime and precision: logits [N, K].

    The processor runs it, whatever the device. Raises `UserError` when the file cannot be opened.
    """
    arrays = (batch.cpu().numpy() for batch in images)
    found = runtime_of(unit).logits(model, arrays, unit.on_cpu())
    return torch.cat([torch.from_numpy(answer) for answer in found])


def rounding(exact: Tensor, rounded: Tensor, labels: Tensor) -> Rounding:
    """Compare logits [N, K] in fp32 with those in a lower precision; labels [N]."""
    told, answers = exact.argmax(dim=1), rounded.argmax(dim=1)
    right, still = (told == labels).double(), (answers == labels).double()
    error = (right - still).std(correction=0) / math.sqrt(len(labels))
    agreement = (told == answers).double().mean()
    return Rounding(*(x.item() for x in (right.mean(), still.mean(), agreement, error)))


def parity(reference: Tensor, exported: Tensor) -> Parity:
    """Compare logits [N, K] of the module with those of the file.

    Raises `ValueError` when the shapes differ or there are no images.
    """
    if reference.shape != exported.shape or reference.ndim != 2 or len(reference) == 0:
        raise ValueError(
            f"logits {tuple(reference.shape)} and {tuple(exported.shape)}: expected the same "
            "[N, K] with N at least 1"
        )
    reference, exported = reference.detach().cpu().double(), exported.detach().cpu().double()
    agree = reference.argmax(dim=1) == exported.argmax(dim=1)
    return Parity(
        max_abs_error=(reference - exported).abs().max().item(),  # NaN stays NaN, and fails
        largest_logit=reference.abs().max().item(),
        top1_agreement=agree.double().mean().item(),
        images=len(reference),
    )
