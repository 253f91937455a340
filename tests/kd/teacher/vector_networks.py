"""Networks that answer images [B, 3, H, W] with something, good teachers and bad ones."""

from functools import partial

import torch
from torch import Tensor, nn


def colours() -> nn.Module:
    """The mean colours of four quarters."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), Centred())


class Centred(nn.Module):
    """Values from -1 to 1 in place of 0 to 1."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x - 1


class Odd(nn.Module):
    """What is told of a batch whatever it shows; `kind` says what."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.draws = kind, torch.Generator().manual_seed(0)

    def forward(self, images: Tensor) -> Tensor:
        shapes = {"maps": (3, 2, 2), "one_number": (1,)}
        shape = (len(images), *shapes.get(self.kind, (6,)))
        if self.kind in ("noise", "random"):
            return torch.randn(shape, generator=self.draws)
        return torch.full(shape, torch.nan if self.kind == "broken" else 1.0)


constant, noise, random = (partial(Odd, kind) for kind in ("constant", "noise", "random"))
broken, maps, one_number = (partial(Odd, kind) for kind in ("broken", "maps", "one_number"))
