"""The least that a batch of the supernet's tests is: images and labels."""

from typing import NamedTuple

from torch import Tensor


class Labelled(NamedTuple):
    """Images [B, 3, R, R] and labels [B]."""

    images: Tensor
    labels: Tensor

    def chunk(self, count: int) -> list["Labelled"]:
        """Part the batch into `count` of as equal a size as can be."""
        parts = zip(*(tensor.tensor_split(count) for tensor in self), strict=True)
        return [Labelled(*part) for part in parts]
