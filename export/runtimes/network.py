"""A network in the forms that runtimes take, and images for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # devices that only measure have no PyTorch
    from torch import nn


@dataclass(frozen=True)
class Network:
    """A network of images of `shape` [C, H, W]; each form is made when a runtime asks for it.

    `graph` returns an ONNX model, as bytes or a file, in the unit of work's precision; `module` the
    same network in PyTorch, and is None where there is only a graph. A part of a network may take
    and give features: they may lie in memory as the runtime likes them inside a network.
    """

    shape: tuple[int, int, int]
    graph: Callable[[], bytes | Path]
    module: Callable[[], nn.Module] | None = None
    takes_features: bool = False
    gives_features: bool = False


def random_images(shape: tuple[int, ...], kind: type[np.generic]) -> np.ndarray:
    """Return images of `shape` [B, C, H, W], the same each time: in [0, 1], or of whole numbers."""
    images = np.random.default_rng(0).random(shape, np.float32)
    return images if kind is np.float32 else (255 * images).astype(np.uint8).view(kind)
