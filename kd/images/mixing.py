"""Two images mixed into one, drawn from a seed alone, so that it can be replayed."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from base.size import Size

Mix = Literal["none", "mixup", "cutmix"]
# Sets the draw apart from the augmentation's, which starts from the same seed.
SALT = 1


@dataclass(frozen=True)
class Mixture:
    """Which image is mixed in, and where: a share of every pixel, or a box.

    The box is (top, left, height, width) in shares of the image's sides, so it is the same at any
    size.
    """

    partner: int
    share: float  # of the image itself
    box: tuple[float, float, float, float] | None = None

    def of(self, image: Tensor, other: Tensor) -> Tensor:
        """Mix two images [3, H, W]."""
        if self.box is None:
            return self.share * image + (1 - self.share) * other
        high, wide = image.shape[-2:]
        top, left, height, width = self.box
        mixed = image.clone()
        rows = slice(round(top * high), round((top + height) * high))
        columns = slice(round(left * wide), round((left + width) * wide))
        inside = (slice(None), rows, columns)
        mixed[inside] = other[inside]
        return mixed


def draw_mixture(mix: Mix, seed: int, count: int, size: Size) -> Mixture:
    """Draw a partner among `count` images and a share, uniform in [0, 1].

    mixup (Zhang et al. 2018, arXiv:1710.09412), over the whole range as in function matching (Beyer
    et al. 2022, arXiv:2106.05237); cutmix (Yun et al. 2019, arXiv:1905.04899): the share is that of
    the pixels which stay, of an image of `size`.
    """
    assert mix != "none"
    draws = np.random.default_rng((seed, SALT))
    partner, share = int(draws.integers(count)), float(draws.random())
    if mix == "mixup":
        return Mixture(partner, share)
    sides = np.array(size)
    half = sides * np.sqrt(1 - share) / 2
    centre = draws.random(2) * sides
    low, high = (np.clip(np.round(centre + s * half), 0, sides) / sides for s in (-1, 1))
    box = (*low.tolist(), *(high - low).tolist())
    return Mixture(partner, 1 - float(np.prod(high - low)), box)
