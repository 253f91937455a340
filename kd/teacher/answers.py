"""What a network answers to a batch of images: a row each, or one line that says what failed."""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from base.errors import UserError
from base.size import Size, pixels_text

# Of the answers' range: rounding on another machine changes them by less, training by more.
TOLERANCE = 0.02
COMPARED = 64  # classes


class TeacherFault(UserError):
    """A network that fails on a batch, or does not answer it with a row for each image."""


def answers(
    network: nn.Module, images: Tensor, name: str, classes: int | str = "classes"
) -> Tensor:
    """Return what `network` answers to images [B, 3, H, W], [B, K]; [B, K, 1, 1] is that, too.

    Raises `TeacherFault` with the batch that failed, and what the network says.
    """
    shown = f"{len(images)} images"
    try:
        found = network(images)
    except Exception as error:  # a network may raise anything
        reason = " ".join(str(error).split())[:200]
        raise TeacherFault(
            f"teacher {name}: fails on {shown} of {pixels_text(images.shape[-2:])} pixels "
            f"({type(error).__name__}: {reason})"
        ) from error
    if isinstance(found, Tensor) and found.ndim == 4 and found.shape[2:] == (1, 1):
        found = found.flatten(1)
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(images):
        given = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise TeacherFault(
            f"teacher {name}: answers {shown} with {given}, expected [{len(images)}, {classes}]: a"
            " row of logits or probabilities an image"
        )
    return found


def fixed_images(size: Size) -> Tensor:
    """Return two images [2, 3, H, W] in [0, 1], always the same: noise, and a few large spots."""
    draws = torch.Generator().manual_seed(0)
    noise, spots = torch.rand(1, 3, *size, generator=draws), torch.rand(1, 3, 4, 4, generator=draws)
    return torch.cat([noise, interpolate(spots, size, mode="bilinear")])


def remembered(log_p: Tensor) -> list[float]:
    """Return what is kept of log-probabilities [B, K], to know the network again."""
    return [round(value, 6) for value in log_p[:, :COMPARED].nan_to_num().flatten().tolist()]


def same_answers(one: list[float], other: list[float]) -> bool:
    """Whether two networks answer alike, but for the rounding of another machine.

    They are compared and not hashed: any rounding to steps would part some equal answers.
    """
    if len(one) != len(other):
        return False
    allowed = TOLERANCE * (max(one, default=0) - min(one, default=0))
    return all(abs(mine - its) <= allowed for mine, its in zip(one, other, strict=True))
