"""Transforms from stored pixels to images, and augmentation that can be replayed."""

import hashlib
import struct
from typing import Literal

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

Augment = Literal["affine", "crop_flip", "resized_crop_flip"]


def transforms(augment: Augment, resolution: int) -> tuple[v2.Transform, v2.Transform]:
    """Return plain transform and augmentation: uint8 [3, h, w] to float32 [3, R, R] in [0, 1]."""
    to_float = v2.ToDtype(torch.float32, scale=True)
    fit = v2.Resize([resolution, resolution])
    affine = v2.RandomAffine(10, (0.1, 0.1), (0.9, 1.1), interpolation=InterpolationMode.BILINEAR)
    crop = v2.RandomCrop(resolution, padding=resolution // 8)
    flip = v2.RandomHorizontalFlip()
    plain = v2.Compose([fit, to_float])
    if augment == "affine":
        return plain, v2.Compose([fit, affine, to_float])
    if augment == "crop_flip":
        return plain, v2.Compose([fit, crop, flip, to_float])
    centre = [v2.Resize(round(resolution * 256 / 224)), v2.CenterCrop(resolution)]
    random = [v2.RandomResizedCrop(resolution), flip]
    return v2.Compose([*centre, to_float]), v2.Compose([*random, to_float])


def view_seed(seed: int, version: int, position: int) -> int:
    """Return a seed of 32 bits, all that torch's CPU generator takes, for a version of an image."""
    key = struct.pack("<3q", seed, version, position)
    return int.from_bytes(hashlib.blake2b(key, digest_size=4).digest(), "little")


def seeded(transform: v2.Transform, image: Tensor, seed: int) -> Tensor:
    """Run `transform` with torch's global generator at `seed`, then put the generator back."""
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        return transform(image)
    finally:
        torch.default_generator.set_state(state)
