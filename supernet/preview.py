"""How long steps take here: timed on made-up images, before anything is spent."""

from collections.abc import Callable

import torch
from torch import Tensor

from export.stopwatch import quick_ms
from supernet.space import Architecture
from supernet.supernet import Supernet
from supernet.w_training import FAIR


def w_seconds(supernet: Supernet, images: Tensor) -> float:
    """Seconds of a step of w on images [B, 3, R, R]: largest, smallest and middle students."""
    space = supernet.space
    students = [space.largest(), space.smallest(), *([space.middle()] * FAIR)]

    def step() -> None:
        for architecture, share in zip(students, images.tensor_split(len(students)), strict=True):
            supernet.student_logits(share, architecture).sum().backward()

    return _seconds(supernet, step)


def alpha_seconds(supernet: Supernet, images: Tensor) -> float:
    """Seconds of a step of alpha on images [B, 3, R, R], shared weights frozen."""
    choices = supernet.space.one_hot(supernet.space.largest())
    choices = {name: p.requires_grad_() for name, p in choices.items()}
    supernet.requires_grad_(False)
    seconds = _seconds(supernet, lambda: supernet(images, choices).sum().backward())
    supernet.requires_grad_(True)
    return seconds


def student_seconds(supernet: Supernet, images: Tensor) -> float:
    """Seconds of a step of the middle student's training on images [B, 3, R, R]."""
    student: Architecture = supernet.space.middle()
    return _seconds(supernet, lambda: supernet.student_logits(images, student).sum().backward())


def _seconds(supernet: Supernet, step: Callable[[], None]) -> float:
    def finished() -> None:
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    seconds = quick_ms(finished, runs=2) / 1000
    supernet.zero_grad()
    return seconds
