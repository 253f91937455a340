"""Sizes of images: height and width, in pixels."""

import re
from collections.abc import Sequence

from base.errors import UserError

Size = tuple[int, int]


def strided(size: Size, stride: int) -> Size:
    """Return the size of what a padded convolution of this stride makes of an image."""
    height, width = size
    return -(-height // stride), -(-width // stride)


def pixels_text(size: Sequence[int]) -> str:
    """Say a size, such as 96×160, or a shape, such as 3×96×160."""
    return "×".join(map(str, size))


def parse_size(text: str) -> Size:
    """Read 96, or 96x160 (height x width); anything else raises `UserError`."""
    if not (found := re.fullmatch(r"([1-9]\d*)(?:[x×]([1-9]\d*))?", text)):
        raise UserError(
            f"resolution {text}: expected pixels, such as 96 or 96x160 (height x width)"
        )
    height, width = found.groups()
    return int(height), int(width or height)


def asked_as(size: Size) -> str:
    """Say a size as `parse_size` reads it: 96, or 96x160."""
    height, width = size
    return str(height) if height == width else f"{height}x{width}"
