"""A trained network in 8-bit integers, and what that costs on images that it has learned from."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from export.int8.quantise import quantised
from export.onnx_file import to_onnx
from export.parity import Rounding, onnx_logits, rounding
from export.timing.unit_of_work import SIGNED, UnitOfWork
from kd.evaluate import predict
from kd.images.loader import batches
from kd.images.splits import Split

# Images on which the ranges of activations are found, and how many at a time: the quantiser holds
# all activations of a batch.
CALIBRATION_BATCH, CALIBRATION_BATCHES = 32, 32


class Int8(NamedTuple):
    """An ONNX model in int8, and what the rounding costs."""

    model: bytes
    rounding: Rounding


def in_int8(
    network: nn.Module,
    exact: nn.Module,
    images: Sequence[Tensor],
    judged: Split,
    unit: UnitOfWork,
    batch: int,
) -> Int8:
    """Quantise a network with ranges found on `images`, and compare it on plain images.

    It is compared with `exact` in fp32: itself, or what it was before it was trained on. No image
    may be of the test split. Raises `UserError` when it cannot be quantised.
    """
    graph = to_onnx(network, torch.zeros(2, *unit.shape))
    model = quantised(graph, images, signed=unit.precision == SIGNED).SerializeToString()
    logits, labels = predict(exact, judged.view(None), batch)
    return Int8(model, rounding(logits, answers(model, judged, unit, batch), labels))


def answers(model: bytes | Path, split: Split, unit: UnitOfWork, batch: int) -> Tensor:
    """Return the logits [N, K] of an ONNX model for the plain images of a split."""
    epoch = batches(split.view(None), batch, None)
    return onnx_logits(model, (images for images, _, _ in epoch), unit)
