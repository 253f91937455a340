"""What is wrong with a teacher is named: on colours, which one network tells apart exactly."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms.v2.functional import rgb_to_grayscale

from base.errors import UserError
from kd.evaluate import predict
from kd.images.pixels import InMemory
from kd.images.rendering import Frame
from kd.images.splits import Split
from kd.networks import InputFormat
from kd.teacher.check import (
    IMAGENET,
    Check,
    check_input,
    check_outputs,
    expected_calibration_error,
)
from kd.teacher.model import Teacher

SIDE, EACH = 8, 8
# The classes: every mixture of little, some and much of red, green and blue.
COLOURS = torch.tensor(list(itertools.product((0.1, 0.5, 0.9), repeat=3)))
NAMES = tuple("".join(map(str, mixture)) for mixture in itertools.product("012", repeat=3))


@pytest.fixture(scope="module")
def split() -> Split:
    """Noisy images of every colour, 8 of each, in random order."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(len(COLOURS)).repeat(EACH)
    labels = labels[torch.randperm(len(labels), generator=draws)]
    noise = 0.01 * torch.randn(len(labels), 3, SIDE, SIDE, generator=draws)
    pixels = (COLOURS[labels][:, :, None, None] + noise).clamp(0, 1)
    frame = Frame((SIDE, SIDE))
    return Split(
        InMemory((255 * pixels).round().to(torch.uint8)),
        *(labels, torch.arange(len(labels)), "affine", 0, frame),
        *("none", (len(labels),), (frame,)),
    )


class Nearest(nn.Module):
    """The class whose colour is nearest, for images that were prepared as `input_format` says.

    It sums over the pixels of a square of `side`, so it is blind to no difference of size.
    """

    def __init__(self, input_format: InputFormat, side: int = SIDE) -> None:
        super().__init__()
        mean, std = (torch.tensor(values) for values in (input_format.mean, input_format.std))
        shown = COLOURS.clone()
        if input_format.channels == "bgr":
            shown = shown.flip(dims=(1,))
        if input_format.channels == "grey":
            shown = rgb_to_grayscale(shown[:, :, None, None], 3).flatten(1)
        self.register_buffer("colours", (shown - mean) / std)
        self.side, self.grey, self.scale = side, input_format.channels == "grey", max(std) ** 2

    def forward(self, images: Tensor) -> Tensor:
        shown = images.sum(dim=(2, 3)) / self.side**2
        used = slice(0, 1) if self.grey else slice(0, 3)
        distances = torch.cdist(shown[:, used], self.colours[:, used])
        return -40 * self.scale * distances**2


RGB_01 = InputFormat()
HALVES = InputFormat((0.5,) * 3, (0.5,) * 3)
BYTES = InputFormat((0.0,) * 3, (1 / 255,) * 3)
INVERTED = InputFormat((1.0,) * 3, (-1.0,) * 3)


def check(teacher: Teacher, split: Split, **own: bool) -> Check:
    check_input(teacher, split, 64, 0, **own)
    return check_outputs(*predict(teacher, split.view(None), 64), NAMES)


def refusal(teacher: Teacher, split: Split) -> str:
    with pytest.raises(UserError) as caught:
        check(teacher, split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "input_format",
    [
        *(RGB_01, HALVES, BYTES, INVERTED, IMAGENET),
        *(replace(IMAGENET, channels="bgr"), replace(RGB_01, channels="grey")),
        InputFormat((0.3, 0.4, 0.2), (0.1, 0.3, 0.2)),
    ],
)
def test_a_good_teacher_passes(split: Split, input_format: InputFormat) -> None:
    found = check(Teacher(Nearest(input_format), input_format), split)
    assert found.images == len(split) == 216
    if input_format.channels == "grey":  # some colours are nearly of one luminance
        assert found.accuracy > 0.95
        return
    assert found.accuracy == 1.0
    assert found.calibration_error < 0.1
    assert found.confusions == ()
    assert "100.00% of 216 images of the search split" in str(found)


@pytest.mark.parametrize(
    ("truth", "given", "mend"),
    [
        (IMAGENET, RGB_01, "--teacher-mean 0.485 0.456 0.406 --teacher-std 0.229 0.224 0.225"),
        (IMAGENET, BYTES, "--teacher-mean 0.485 0.456 0.406 --teacher-std 0.229 0.224 0.225"),
        (RGB_01, IMAGENET, "--teacher-mean 0 0 0 --teacher-std 1 1 1"),
        (RGB_01, InputFormat((0.5,) * 3, (1.0,) * 3), "--teacher-mean 0 0 0 --teacher-std 1 1 1"),
        (RGB_01, InputFormat((0.0,) * 3, (0.25,) * 3), "--teacher-mean 0 0 0 --teacher-std 1 1 1"),
        (HALVES, RGB_01, "--teacher-mean 0.5 0.5 0.5 --teacher-std 0.5 0.5 0.5"),
        (BYTES, IMAGENET, "--teacher-std 0.00392157 0.00392157 0.00392157"),
        (INVERTED, RGB_01, "--teacher-mean 1 1 1 --teacher-std -1 -1 -1"),
        (replace(RGB_01, channels="bgr"), RGB_01, "--teacher-channels bgr"),
        (IMAGENET, replace(IMAGENET, channels="bgr"), "--teacher-channels rgb"),
        (replace(HALVES, channels="grey"), HALVES, "--teacher-channels grey"),
    ],
)
def test_a_wrong_input_is_named_with_its_mend(
    split: Split, truth: InputFormat, given: InputFormat, mend: str
) -> None:
    said = refusal(Teacher(Nearest(truth), given), split)
    assert said.split("; ")[-1].startswith("give --teacher-")
    assert mend in said


def test_a_wrong_size_is_named(split: Split) -> None:
    said = refusal(Teacher(Nearest(RGB_01), replace(RGB_01, resolution=12)), split)
    assert "at 8 pixels; give --teacher-resolution 8" in said


def test_a_size_that_nothing_says_is_named(split: Split) -> None:
    """A network that was trained at 64 pixels is not told to look at its weights."""
    said = refusal(Teacher(Nearest(RGB_01, side=64)), split)
    assert "at 64 pixels; give --teacher-resolution 64" in said
    assert "weights" not in said


def test_the_mend_works(split: Split) -> None:
    """What is advised passes when it is given, and for bytes it is exact enough."""
    network = Nearest(BYTES)
    assert "values from 0 to 255" in refusal(Teacher(network, RGB_01), split)
    mended = InputFormat((0.0,) * 3, (0.00392157,) * 3)
    assert check(Teacher(network, mended), split).accuracy == 1.0


def test_what_the_user_asked_for_is_not_doubted(split: Split) -> None:
    wrong = Teacher(Nearest(IMAGENET), RGB_01)
    check_input(wrong, split, 64, 0, own_values=False)
    small = Teacher(Nearest(RGB_01), replace(RGB_01, resolution=12))
    check_input(small, split, 64, 0, own_resolution=False, own_values=False)


def test_random_weights_are_guesses(split: Split) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, len(NAMES)))
    assert "where guessing gives" in refusal(Teacher(network), split)


@pytest.mark.parametrize("input_format", [RGB_01, IMAGENET])
def test_answers_that_are_not_numbers(split: Split, input_format: InputFormat) -> None:
    class Broken(Nearest):
        def forward(self, images: Tensor) -> Tensor:
            found = super().forward(images)
            return found.where(found.argmax(dim=1, keepdim=True) != 5, float("nan"))

    said = refusal(Teacher(Broken(input_format), input_format), split)
    assert "answers for 8 of 216 images are not finite" in said


def permuted(order: Sequence[int]) -> Teacher:
    class Permuted(Nearest):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images)[:, list(order)]

    return Teacher(Permuted(RGB_01), RGB_01)


@pytest.mark.parametrize("moved", ["all", "some", "by one"])
def test_classes_in_another_order_are_named(split: Split, moved: str) -> None:
    order = list(range(27))
    if moved == "some":
        order[2:8] = reversed(order[2:8])
    elif moved == "all":
        order = np.random.default_rng(0).permutation(27).tolist()
    else:
        order = order[1:] + order[:1]
    said = refusal(permuted(order), split)
    assert "its classes are in another order" in said
    words = said.split()
    data, answered = (
        NAMES.index(words[words.index(w) + 1].rstrip(";")) for w in ("says", "answers")
    )
    assert order[answered] == data
    assert "in the best order 100.0% are right" in said
    assert "--teacher-classes" in said


def answers(
    right: int, count: int, classes: int, seed: int = 0
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Balanced labels; `right` are answered, the others by every other class in turn."""
    labels, place = torch.arange(count) % classes, torch.arange(count)
    wrong = (labels + 1 + place // classes % (classes - 1)) % classes
    given = torch.where(place < right, labels, wrong)
    shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    log_p = torch.eye(classes)[given].log()
    return log_p[shuffled], labels[shuffled], tuple(map(str, range(classes)))


def test_guessing_ends_at_five_sigma() -> None:
    # 1,000 images of 10 classes: 0.1 + 5 * sqrt(0.09 / 1000) = 0.1474
    assert check_outputs(*answers(148, 1000, 10)).accuracy == pytest.approx(0.148)
    with pytest.raises(
        UserError, match=r"accuracy 0\.147 on 1000 images, where guessing gives 0\.100"
    ):
        check_outputs(*answers(147, 1000, 10))


def test_with_few_images_half_way_is_asked_for() -> None:
    assert check_outputs(*answers(10, 10, 2)).accuracy == 1.0
    with pytest.raises(UserError, match=r"more than 0\.750"):
        check_outputs(*answers(7, 10, 2))


def test_unbalanced_classes_are_seen_through() -> None:
    labels = (torch.arange(1000) < 50).long()
    constant = torch.tensor([[1.0, 0.0]]).log().repeat(1000, 1)
    with pytest.raises(UserError, match=r"accuracy 0\.950.*guessing gives 0\.950"):
        check_outputs(constant, labels, ("a", "b"))


def test_one_certain_zero_is_no_broken_answer() -> None:
    log_p, labels, names = answers(100, 100, 10)
    assert log_p.isinf().any()
    assert check_outputs(log_p, labels, names).accuracy == 1.0
    log_p[3], log_p[5, 0] = float("nan"), float("inf")
    with pytest.raises(UserError, match="answers for 2 of 100 images are not finite"):
        check_outputs(log_p, labels, names)


@pytest.mark.parametrize("sharpness", [0.2, 1.0, 5.0])
def test_calibration_error_equals_a_loop(sharpness: float) -> None:
    draws = torch.Generator().manual_seed(0)
    probabilities = (sharpness * torch.randn(500, 4, generator=draws)).softmax(dim=1)
    probabilities[0] = torch.tensor([1.0, 0.0, 0.0, 0.0])
    labels = torch.randint(4, (500,), generator=draws)
    error = 0.0
    for b in range(15):
        inside = [
            (p, y)
            for p, y in zip(probabilities.double().tolist(), labels.tolist(), strict=True)
            if b / 15 < max(p) <= (b + 1) / 15
        ]
        if inside:
            right = sum(p.index(max(p)) == y for p, y in inside) / len(inside)
            sure = sum(max(p) for p, _ in inside) / len(inside)
            error += len(inside) / 500 * abs(right - sure)
    assert expected_calibration_error(probabilities, labels) == pytest.approx(error, rel=1e-9)


def test_the_largest_confusions_by_hand() -> None:
    """Of 20 images each: a is taken 8 times for b, b twice for c, c 6 times for a and 4 for b."""
    counts = np.array([[12, 8, 0], [0, 18, 2], [6, 4, 10]])
    pairs = [(i, j) for i in range(3) for j in range(3) for _ in range(counts[i, j])]
    labels, given = torch.tensor(pairs).T
    found = check_outputs(torch.eye(3)[given].log(), labels, ("a", "b", "c"))
    assert found.accuracy == pytest.approx(40 / 60)
    assert found.confusions == (("a", "b", 0.4), ("c", "a", 0.3), ("c", "b", 0.2))
    assert "; a mistaken for b: 40%, c mistaken for a: 30%, c mistaken for b: 20%" in str(found)
