"""One view, at any size: as torchvision draws it, the same for every network that sees it."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import Tensor
from torchvision.models import get_model_weights
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from kd.images.loader import batches
from kd.images.pixels import Decoded
from kd.images.rendering import Frame, Geometry, render_plain, render_view
from kd.images.splits import DataSettings, Split, load_data
from kd.images.views import Augment, draw_geometry
from kd.networks import InputFormat, published_input
from kd.teacher.model import Teacher

SIDE, LARGE = 16, Frame((40, 40), "bicubic", 46)
AUGMENTS = ("affine", "crop_flip", "resized_crop_flip")


def smooth(height: int, width: int, seed: int = 0) -> Tensor:
    """An image uint8 [3, h, w] that changes slowly, so that little is lost at any size."""
    draws = torch.Generator().manual_seed(seed)
    coarse = torch.rand(3, 4, 4, generator=draws)
    mode = InterpolationMode.BICUBIC
    large = functional.resize(coarse, [height, width], mode, antialias=True)
    return (255 * large.clamp(0, 1)).round().to(torch.uint8)


def augmentation(augment: Augment, side: int) -> v2.Transform:
    """What torchvision composes for it."""
    to_float, fit = v2.ToDtype(torch.float32, scale=True), v2.Resize([side, side])
    affine = v2.RandomAffine(10, (0.1, 0.1), (0.9, 1.1), interpolation=InterpolationMode.BILINEAR)
    flip = v2.RandomHorizontalFlip()
    steps = {
        "affine": [fit, affine],
        "crop_flip": [fit, v2.RandomCrop(side, padding=side // 8), flip],
        "resized_crop_flip": [v2.RandomResizedCrop(side), flip],
    }
    return v2.Compose([*steps[augment], to_float])


@pytest.mark.parametrize("augment", AUGMENTS)
@pytest.mark.parametrize(("height", "width"), [(SIDE, SIDE), (30, 30), (25, 41)])
def test_a_view_is_torchvisions_to_the_bit(augment: Augment, height: int, width: int) -> None:
    image, frame = smooth(height, width), Frame((SIDE, SIDE))  # whole images, squeezed
    for seed in range(20):
        geometry = draw_geometry(augment, seed, (height, width), frame)
        torch.manual_seed(seed)
        assert torch.equal(render_view(image, geometry, frame), augmentation(augment, SIDE)(image))


@given(
    augment=st.sampled_from(AUGMENTS),
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(40, 90),
    width=st.integers(40, 90),
    side=st.sampled_from((24, 32, 48)),
)
@settings(max_examples=60, deadline=None)
def test_two_sizes_show_the_same(
    augment: Augment, seed: int, height: int, width: int, side: int
) -> None:
    """The large rendering, made small, is the small one but for what interpolation loses."""
    image = smooth(height, width, seed % 7)
    white = torch.full_like(image, 255)
    geometry = draw_geometry(augment, seed, (height, width), Frame((side, side), resize=side))

    def both(of: Tensor) -> tuple[Tensor, Tensor]:
        small, large = (
            render_view(of, geometry, Frame((times * side, times * side))) for times in (1, 2)
        )
        return small, functional.resize(large, [side, side], antialias=True)

    small, shrunk = both(image)
    # At an edge to the black outside, a pixel is partly inside.
    inside = torch.minimum(*both(white)) > 0.999
    assert inside.double().mean() > 0.4
    apart = (shrunk - small).abs()[inside]
    assert apart.median() < 0.01
    assert apart.max() < 0.06


def test_the_comparison_sees_a_shift_of_a_pixel() -> None:
    image, frame = smooth(64, 64), Frame((32, 32))
    whole = Geometry((0, 0, 64, 64))
    moved = replace(whole, shift=(2 / 32, 0.0))
    large = render_view(image, whole, Frame((64, 64)))
    shrunk = functional.resize(large, [32, 32], antialias=True)
    assert (shrunk - render_view(image, whole, frame)).abs().median() < 0.01
    assert (shrunk - render_view(image, moved, frame)).abs().median() > 0.01


@pytest.mark.parametrize("frame", [LARGE, Frame((24, 32)), Frame((20, 20), "bilinear", 20)])
def test_plain_images_are_cut_as_pillow_cuts_them(frame: Frame) -> None:
    image = smooth(50, 70)
    method = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    height, width = frame.size
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    if frame.resize is None:
        picture = picture.resize((width, height), method[frame.interpolation])
    else:
        sides = (int(frame.resize * 70 / 50), frame.resize)
        picture = picture.resize(sides, method[frame.interpolation])
        left, top = round((sides[0] - width) / 2), round((sides[1] - height) / 2)
        picture = picture.crop((left, top, left + width, top + height))
    expected = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
    assert (render_plain(image, frame) - expected).abs().max() <= 1.01 / 255


@pytest.mark.parametrize("name", ["timm:test_resnet", "timm:vit_tiny_patch16_224"])
def test_a_teacher_is_shown_plain_images_as_timm_shows_them(name: str) -> None:
    config = resolve_data_config(model=timm.create_model(name.removeprefix("timm:")))
    own = create_transform(**config)
    assert shown_apart(name, lambda image: own(Image.fromarray(image))) < 2 / 255


def test_a_teacher_is_shown_plain_images_as_torchvision_shows_them() -> None:
    own = get_model_weights("squeezenet1_1").DEFAULT.transforms()
    found = shown_apart("torchvision:squeezenet1_1", lambda image: own(Image.fromarray(image)))
    assert found < 2 / 255


def shown_apart(name: str, transform: object) -> float:
    """How far at most a teacher's plain image is from that of its library, in [0, 1]."""
    wanted, image = published_input(name), smooth(190, 260)
    (frame,) = Teacher(torch.nn.Flatten(), wanted).frames(Frame((32, 32)))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (wanted.mean, wanted.std))
    expected = transform(image.permute(1, 2, 0).numpy()) * std + mean
    return (render_plain(image, frame) - expected).abs().max().item()


@dataclass
class Counted:
    """Images that count how often one is read."""

    pixels: Tensor
    reads: int = 0

    def picture(self, position: int) -> Decoded:
        self.reads += 1
        return Decoded(self.pixels[position])


def photographs(**settings_of_data: object) -> Split:
    """Images of 50 × 70 that students of 16 × 16 learn from."""
    split = load_data(DataSettings(resolution=(SIDE, SIDE), limit=60, **settings_of_data)).train
    images = Counted(torch.stack([smooth(50, 70, i) for i in range(len(split))]))
    return replace(split, images=images, positions=torch.arange(len(split)))


@pytest.mark.parametrize("augment", ["none", *AUGMENTS])
@pytest.mark.parametrize("version", [None, 3])
def test_all_frames_are_of_one_reading(augment: Augment, version: int | None) -> None:
    split = photographs(augment=augment).view(version)
    both = split.shown_in((split.frame, LARGE))
    small, large, label, index = both[5]
    assert split.images.reads == 1
    assert (small.shape, large.shape) == ((3, SIDE, SIDE), (3, 40, 40))
    assert (label, index) == (int(split.labels[5]), 5)
    assert torch.equal(small, split[5][0])
    assert torch.equal(large, split.shown_in((LARGE,))[5][0])
    if version is not None:
        (seed,) = split.view_seeds()[5:6].tolist()
        geometry = draw_geometry(augment, seed, (50, 70), split.frame)
        assert torch.equal(large, render_view(split.images.pixels[5], geometry, LARGE))


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_a_mixture_is_the_same_in_every_frame(mix: str) -> None:
    """Partner and share are drawn once; a box lies where it lies."""
    split = photographs(mix=mix, augment="none").view(2)
    twice = Frame((2 * SIDE, 2 * SIDE))
    both = split.shown_in((split.frame, twice))
    for index in range(20):
        small, large, _, _ = both[index]
        shrunk = functional.resize(large, [SIDE, SIDE], antialias=True)
        inner = (shrunk - small).abs().amax(0)
        assert inner.median() < 0.01
        assert (inner > 0.05).double().mean() < 0.3  # beside the edges of a box


def test_a_view_of_the_students_size_is_theirs_to_the_bit() -> None:
    split = photographs(augment="crop_flip")
    same = Frame((SIDE, SIDE), "bicubic", 20)
    own, other, _, _ = split.view(1).shown_in((split.frame, same))[7]
    assert torch.equal(own, other)
    own, other, _, _ = split.shown_in((split.frame, same))[7]
    assert not torch.equal(own, other)  # plain images are cut as each one's own are


def test_views_in_several_frames_replay_in_a_worker() -> None:
    split = load_data(DataSettings(augment="affine", mix="cutmix", limit=60)).train.view(1)
    both = split.shown_in((split.frame, LARGE))
    here, worker = (list(batches(both, 16, None, workers)) for workers in (0, 1))
    for one, other in zip(here, worker, strict=True):
        assert len(one) == 4
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("version", [None, 1])
def test_grey_images_have_one_channel_and_a_teacher_sees_three_equal_ones(
    version: int | None,
) -> None:
    split = photographs(channels=1, augment="affine").view(version)
    wanted = [InputFormat(), InputFormat(resolution=40)]
    frames = [Teacher(torch.nn.Flatten(), one).frames(split.frame)[0] for one in wanted]
    own, same, large, _, _ = split.shown_in((split.frame, *frames))[4]
    assert (own.shape, same.shape, large.shape) == (
        *((1, SIDE, SIDE), (3, SIDE, SIDE), (3, 40, 40)),
    )
    for shown in (same, large):
        assert torch.equal(shown, shown[:1].expand(3, -1, -1))
    assert torch.equal(same[:1], own)
    coloured = replace(split, frame=replace(split.frame, channels=3, grey=False))
    coloured, _, _ = coloured.shown_in((coloured.frame,))[4]
    luma = torch.tensor([0.2989, 0.587, 0.114]).view(3, 1, 1)
    torch.testing.assert_close((coloured * luma).sum(0, keepdim=True), own)


def test_a_teacher_of_a_larger_size_sees_what_is_lost_on_students() -> None:
    """Stripes one pixel wide: a student's image is grey, a teacher's own view is not."""
    stripes = (255 * (torch.arange(64) % 2)).to(torch.uint8).expand(3, 64, 64).contiguous()
    split = load_data(DataSettings(resolution=(SIDE, SIDE), augment="crop_flip", limit=60)).train
    split = replace(split, images=Counted(stripes[None]), positions=torch.zeros(48).long())
    (frame,) = Teacher(torch.nn.Flatten(), InputFormat(resolution=64)).frames(split.frame)
    for version in (None, 0):
        own, shown, _, _ = split.view(version).shown_in((split.frame, frame))[0]
        assert own[:, 4:-4, 4:-4].std() < 0.01
        assert shown[:, 10:-10, 10:-10].std() > 0.4


@pytest.mark.parametrize("resize", [16, 18])
@pytest.mark.parametrize(("height", "width"), [(40, 30), (31, 47), (16, 16), (9, 50)])
def test_a_plain_image_is_what_the_readme_composes(resize: int, height: int, width: int) -> None:
    """For whoever loads a student and shows it an image file."""
    image = smooth(height, width)
    shown = v2.Compose(
        [v2.Resize(resize), v2.CenterCrop((16, 16)), v2.ToDtype(torch.float32, scale=True)]
    )
    assert torch.equal(render_plain(image, Frame((16, 16), resize=resize)), shown(image))
