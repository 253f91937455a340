"""Sizes as people write them, and what strides make of them."""

import pytest
import torch
from torch import nn

from base.errors import UserError
from base.size import Size, asked_as, parse_size, pixels_text, strided


@pytest.mark.parametrize(
    ("text", "size"), [("96", (96, 96)), ("96x160", (96, 160)), ("8×16", (8, 16)), ("1", (1, 1))]
)
def test_a_size_is_read(text: str, size: Size) -> None:
    assert parse_size(text) == size
    assert parse_size(asked_as(size)) == size


@pytest.mark.parametrize("text", ["", "0", "96x", "x96", "96x0", "-8", "96 x 160", "9.5", "1x2x3"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"resolution .*: expected pixels, such as 96 or 96x160"):
        parse_size(text)


def test_sizes_and_shapes_are_said() -> None:
    assert (pixels_text((96, 160)), pixels_text((3, 8, 8))) == ("96×160", "3×8×8")
    assert (asked_as((96, 96)), asked_as((96, 160))) == ("96", "96x160")


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("size", [(8, 8), (13, 6), (1, 9)])
def test_a_stride_is_that_of_a_padded_convolution(size: Size, stride: int) -> None:
    found = nn.Conv2d(1, 1, 3, stride, padding=1)(torch.zeros(1, 1, *size)).shape[2:]
    assert strided(size, stride) == tuple(found)
