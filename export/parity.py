"""Parity of the ONNX file with the PyTorch module."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from export.onnx_session import onnx_session

MAX_ABS_ERROR = 1e-4
MIN_TOP1_AGREEMENT = 1.0


@dataclass(frozen=True)
class Parity:
    """How far exported logits are from the reference ones, over `images` images."""

    max_abs_error: float
    top1_agreement: float
    images: int

    @property
    def finite_error(self) -> float | None:
        """The error for JSON, which has no NaN: None when it is not finite."""
        return self.max_abs_error if math.isfinite(self.max_abs_error) else None

    @property
    def passed(self) -> bool:
        """Whether both bounds hold; an error that is not finite never passes."""
        return self.max_abs_error <= MAX_ABS_ERROR and self.top1_agreement >= MIN_TOP1_AGREEMENT


def onnx_logits(path: Path, images: Iterable[Tensor], threads: int = 1) -> Tensor:
    """Run an ONNX file on batches [B, 3, H, W] in ONNX Runtime's CPU provider: logits [N, K].

    Raises `UserError` when the file cannot be opened.
    """
    session = onnx_session(path, threads)
    name = session.get_inputs()[0].name
    return torch.cat(
        [torch.from_numpy(session.run(None, {name: batch.cpu().numpy()})[0]) for batch in images]
    )


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
        top1_agreement=agree.double().mean().item(),
        images=len(reference),
    )
