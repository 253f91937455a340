"""Views: where each lies in its image, drawn from a seed alone, so that it can be replayed."""

import hashlib
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal

import torch
from torchvision.transforms import v2

from base.size import Size
from kd.images.rendering import Frame, Geometry, centre_box

Augment = Literal["affine", "crop_flip", "resized_crop_flip", "none"]
MIRRORED = 0.5  # of the views
AFFINE = v2.RandomAffine(10, (0.1, 0.1), (0.9, 1.1))


def draw_geometry(augment: Augment, seed: int, image: Size, frame: Frame) -> Geometry:
    """Draw where a view lies in an image of `image` pixels (height, width).

    It is drawn in the centre of the image, as plain images are shown; where these are squeezed, or
    views are boxes, in all of it.
    """
    view = frame.size
    whole = (0, 0, *image) if frame.resize is None else centre_box(image, view)
    with _seeded(seed):
        match augment:
            case "none":
                return Geometry(whole)
            case "affine":
                drawn = AFFINE.make_params([_empty(view)])
                right, down = drawn["translate"]
                shift = right / view[1], down / view[0]
                return Geometry(whole, drawn["angle"], drawn["scale"], shift)
            case "crop_flip":
                shift = _shift(view)
                return Geometry(whole, shift=shift, flip=_mirrored())
            case "resized_crop_flip":
                drawn = _resized_crop(view).make_params([_empty(image)])
                box = tuple(drawn[side] for side in ("top", "left", "height", "width"))
                return Geometry(box, flip=_mirrored())


def _shift(view: Size) -> tuple[float, float]:
    """Shift by up to an eighth of each side, by whole pixels of the view."""
    height, width = view
    drawn = _padded_crop(view).make_params([_empty(view)])
    return (width // 8 - drawn["left"]) / width, (height // 8 - drawn["top"]) / height


@cache
def _padded_crop(view: Size) -> v2.RandomCrop:
    height, width = view
    return v2.RandomCrop(view, (width // 8, height // 8))


@cache
def _resized_crop(view: Size) -> v2.RandomResizedCrop:
    return v2.RandomResizedCrop(view)


def _mirrored() -> bool:
    return torch.rand(1).item() < MIRRORED


def _empty(size: Size) -> torch.Tensor:
    """Return an image that has nothing but a size."""
    return torch.empty(1, *size, device="meta")


def view_seed(seed: int, version: int, position: int) -> int:
    """Return a seed of 32 bits, all that torch's CPU generator takes, for a version of an image."""
    key = struct.pack("<3q", seed, version, position)
    return int.from_bytes(hashlib.blake2b(key, digest_size=4).digest(), "little")


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Run a block with torch's global generator at `seed`, then put the generator back."""
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(seed)
        yield
