"""Render an image for a network: a view of it, or the plain image, at the network's own size."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from base.size import Size


@dataclass(frozen=True)
class Frame:
    """What a network is shown: images of `size`.

    Of a plain image it sees the whole, squeezed into the frame; or, where `resize` is given, the
    centre of the image made so large that its shorter side has `resize` pixels. `grey` takes the
    colours away, and leaves `channels` equal ones.
    """

    size: Size
    interpolation: str = "bilinear"
    resize: int | None = None
    channels: int = 3
    grey: bool = False


@dataclass(frozen=True)
class Geometry:
    """Where a view lies in its image, the same at any size.

    The box is cut out; what it shows is turned by `angle` degrees, enlarged by `scale` and shifted
    by `shift` (right, down), in shares of its sides; then it is mirrored where `flip` says so.
    """

    box: tuple[int, int, int, int]  # top, left, height, width, in pixels of the image
    angle: float = 0.0
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    flip: bool = False


def render_view(image: Tensor, geometry: Geometry, frame: Frame) -> Tensor:
    """Render a view of an image, uint8 [3, h, w], as float32 [C, H, W] in [0, 1]."""
    mode = InterpolationMode(frame.interpolation)
    view = functional.resized_crop(image, *geometry.box, list(frame.size), mode, antialias=True)
    view = _moved(view, geometry)
    return _finished(functional.horizontal_flip(view) if geometry.flip else view, frame)


def render_plain(image: Tensor, frame: Frame) -> Tensor:
    """Render a plain image, uint8 [3, h, w], as float32 [C, H, W] in [0, 1]."""
    size, mode = list(frame.size), InterpolationMode(frame.interpolation)
    if frame.resize is None:
        return _finished(functional.resize(image, size, mode, antialias=True), frame)
    enlarged = functional.resize(image, [frame.resize], mode, antialias=True)
    return _finished(functional.center_crop(enlarged, size), frame)


def _moved(view: Tensor, geometry: Geometry) -> Tensor:
    """Turn, enlarge and shift a view; what comes in from outside is black."""
    height, width = view.shape[-2:]
    right, down = geometry.shift[0] * width, geometry.shift[1] * height
    turned = geometry.angle != 0 or geometry.scale != 1
    if not turned and right == round(right) and down == round(down):
        return functional.crop(view, -round(down), -round(right), height, width)
    mode = InterpolationMode.BILINEAR
    shift, scale = [right, down], geometry.scale
    return functional.affine(view, geometry.angle, shift, scale, [0.0, 0.0], mode, fill=0)


def _finished(image: Tensor, frame: Frame) -> Tensor:
    image = functional.to_dtype(image, torch.float32, scale=True)
    return functional.rgb_to_grayscale(image, frame.channels) if frame.grey else image
