"""Render an image for a network: a view of it, or the plain image, at the network's own size."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from base.size import Size
from kd.images.pixels import Picture


@dataclass(frozen=True)
class Frame:
    """What a network is shown: images of `size`.

    Of a plain image it sees the whole, squeezed into the frame; or, where `resize` is given, the
    centre of the image, made so large that a frame whose shorter side had `resize` pixels would be
    filled. `grey` takes the colours away, and leaves `channels` equal ones.
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

    def share(self, size: Size) -> float:
        """Return what share of the image's pixels a view of `size` needs, along a side."""
        return max(size[0] / self.box[2], size[1] / self.box[3])

    def on(self, image: Size, decoded: Size) -> "Geometry":
        """Return the same view of an image that was decoded to fewer pixels."""
        if decoded == image:
            return self
        (top, bottom), (left, right) = (
            (round(start * there / here), round((start + length) * there / here))
            for start, length, here, there in zip(
                self.box[:2], self.box[2:], image, decoded, strict=True
            )
        )
        box = (top, left, max(1, bottom - top), max(1, right - left))
        return replace(self, box=box)


def centre_box(image: Size, view: Size) -> tuple[int, int, int, int]:
    """Return the largest box in the middle of an image that has the shape of a view."""
    scale = min(image[0] / view[0], image[1] / view[1])
    height, width = (
        min(whole, round(scale * side)) for whole, side in zip(image, view, strict=True)
    )
    return ((image[0] - height) // 2, (image[1] - width) // 2, height, width)


def render_views(
    picture: Picture, geometry: Geometry, frames: Sequence[Frame]
) -> dict[Frame, Tensor]:
    """Render a view in every frame; the image is decoded once, to what the largest needs."""
    image = picture.pixels(max(geometry.share(frame.size) for frame in frames))
    there = geometry.on(picture.size, (image.shape[1], image.shape[2]))
    return {frame: render_view(image, there, frame) for frame in frames}


def render_plain_images(picture: Picture, frames: Sequence[Frame]) -> dict[Frame, Tensor]:
    """Render the plain image in every frame, likewise."""
    image = picture.pixels(max(_plain_share(picture.size, frame) for frame in frames))
    return {frame: render_plain(image, frame) for frame in frames}


def _plain_share(image: Size, frame: Frame) -> float:
    sides = zip(_enlarged(image, frame), image, strict=True)
    return max(rendered / own for rendered, own in sides)


def _enlarged(image: Size, frame: Frame) -> Size:
    """Return the size that a plain image is brought to before the frame is cut out of it."""
    if frame.resize is None:
        return frame.size
    short = min(frame.size)
    height, width = (round(frame.resize * side / short) for side in frame.size)
    if height * image[1] >= width * image[0]:  # the height decides
        return height, max(width, int(height * image[1] / image[0]))
    return max(height, int(width * image[0] / image[1])), width


def render_view(image: Tensor, geometry: Geometry, frame: Frame) -> Tensor:
    """Render a view of an image, uint8 [3, h, w], as float32 [C, H, W] in [0, 1]."""
    mode = InterpolationMode(frame.interpolation)
    view = functional.resized_crop(image, *geometry.box, list(frame.size), mode, antialias=True)
    view = _moved(view, geometry)
    return _finished(functional.horizontal_flip(view) if geometry.flip else view, frame)


def render_plain(image: Tensor, frame: Frame) -> Tensor:
    """Render a plain image, uint8 [3, h, w], as float32 [C, H, W] in [0, 1]."""
    size, mode = (image.shape[1], image.shape[2]), InterpolationMode(frame.interpolation)
    enlarged = functional.resize(image, list(_enlarged(size, frame)), mode, antialias=True)
    return _finished(functional.center_crop(enlarged, list(frame.size)), frame)


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
