"""Photographs as cameras make them: large, on their side, not square."""

import io
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional

from kd.images.pixels import ORIENTATION, Encoded, opened
from kd.images.rendering import (
    Frame,
    centre_box,
    render_plain,
    render_plain_images,
    render_view,
    render_views,
)
from kd.images.splits import DataSettings, student_frame
from kd.images.views import draw_geometry
from tests.kd.images.test_rendering import smooth

HEIGHT, WIDTH = 1200, 1600


def jpeg(image: Tensor, orientation: int = 1) -> bytes:
    exif, content = Image.Exif(), io.BytesIO()
    exif[ORIENTATION] = orientation
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(content, "jpeg", quality=95, exif=exif)
    return content.getvalue()


PHOTOGRAPH = jpeg(smooth(HEIGHT, WIDTH))


def photograph() -> Encoded:
    return opened(PHOTOGRAPH, "photograph")


@pytest.mark.parametrize(
    ("share", "times"), [(1.0, 1), (0.6, 1), (0.5, 2), (0.26, 2), (0.25, 4), (0.1, 8), (0.01, 8)]
)
def test_no_more_is_decoded_than_is_needed(share: float, times: int) -> None:
    image = photograph().pixels(share)
    assert image.shape == (3, -(-HEIGHT // times), -(-WIDTH // times))
    whole = photograph().pixels()
    shrunk = functional.resize(whole, list(image.shape[1:]), antialias=True)
    assert (image.int() - shrunk.int()).abs().double().mean() < 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("share", [1.0, 0.2])
def test_a_camera_may_lie_on_its_side(orientation: int, share: float) -> None:
    picture = opened(jpeg(smooth(120, 200), orientation), "it")
    image = picture.pixels(share)
    assert picture.size == ((200, 120) if orientation > 4 else (120, 200))
    times = 1 if share == 1 else 4
    assert image.shape[1:] == tuple(side // times for side in picture.size)


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_other_files_are_decoded_whole(kind: str) -> None:
    content = io.BytesIO()
    Image.fromarray(smooth(80, 60).permute(1, 2, 0).numpy()).save(content, kind, lossless=True)
    picture = opened(content.getvalue(), "it")
    assert torch.equal(picture.pixels(0.1), smooth(80, 60))


@given(
    augment=st.sampled_from(("none", "affine", "crop_flip", "resized_crop_flip")),
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from(((32, 32), (96, 96), (48, 80))),
    squeeze=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_a_view_of_a_photograph_is_that_of_all_its_pixels(
    augment: str, seed: int, size: tuple[int, int], squeeze: bool
) -> None:
    frame = student_frame(DataSettings(augment=augment, resolution=size, squeeze=squeeze))
    geometry = draw_geometry(augment, seed, (HEIGHT, WIDTH), frame)
    found = render_views(photograph(), geometry, (frame,))[frame]
    expected = render_view(photograph().pixels(), geometry, frame)
    # The box is cut at whole pixels of what is decoded.
    apart = (found - expected).abs()
    assert apart.median() < 0.01
    assert apart.mean() < 0.02
    plain = render_plain_images(photograph(), (frame,))[frame]
    assert (plain - render_plain(photograph().pixels(), frame)).abs().mean() < 0.01


def test_a_large_frame_beside_a_small_one_gets_its_pixels() -> None:
    """The image is decoded once, to what the larger needs."""
    small, large = Frame((32, 32), resize=32), Frame((500, 500), resize=500)
    geometry = draw_geometry("none", 0, (HEIGHT, WIDTH), small)
    both = render_views(photograph(), geometry, (small, large))
    expected = render_view(
        photograph().pixels(0.5), geometry.on((HEIGHT, WIDTH), (600, 800)), large
    )
    assert torch.equal(both[large], expected)


@given(
    image=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    view=st.tuples(st.integers(8, 200), st.integers(8, 200)),
)
def test_the_centre_has_the_shape_of_the_view_and_touches_two_edges(
    image: tuple[int, int], view: tuple[int, int]
) -> None:
    top, left, height, width = centre_box(image, view)
    assert height == image[0] or width == image[1]
    assert abs(height * view[1] - width * view[0]) <= max(view) / 2 + 1e-9
    assert 0 <= image[0] - height - 2 * top <= 1
    assert 0 <= image[1] - width - 2 * left <= 1


@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
@pytest.mark.parametrize("augment", ["affine", "crop_flip", "none", "resized_crop_flip"])
@pytest.mark.parametrize("shape", [(90, 60), (40, 120)])
def test_nothing_is_squeezed_unless_asked_for(
    augment: str, size: tuple[int, int], shape: tuple[int, int]
) -> None:
    """A disc in the middle stays a disc."""
    y, x = torch.meshgrid(*(torch.arange(side) - (side - 1) / 2 for side in shape), indexing="ij")
    disc = (255 * ((y**2 + x**2).sqrt() < 12)).to(torch.uint8).expand(3, -1, -1)
    settings_of_data = DataSettings(augment=augment, resolution=size)
    for squeeze in (False, True):
        frame = student_frame(replace(settings_of_data, squeeze=squeeze))
        shown = render_plain(disc, frame)[0] > 0.5
        height, width = (int(shown.any(dim=d).sum()) for d in (1, 0))
        assert (abs(height - width) <= 2) != squeeze
        if augment == "none":
            geometry = draw_geometry(augment, 0, shape, frame)
            assert (
                render_view(disc, geometry, frame) - render_plain(disc, frame)
            ).abs().mean() < 0.02
