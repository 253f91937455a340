"""A teacher is known by what it answers, and one that fails on a batch says which in one line."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from base.errors import UserError
from kd.teacher.answers import fixed_images, remembered, same_answers
from kd.teacher.load import TeacherSource, load_teacher
from kd.teacher.model import Teacher

NAMES, SIDE = ("ant", "bee", "cow", "dog"), 8

READS_WEIGHTS = """
import torch

def factory():
    weights = torch.load("weights.pt")
    return lambda images: images.flatten(1) @ weights
"""
RANDOM = """
import torch

def factory():
    return lambda images: torch.nn.functional.dropout(images.flatten(1)[:, :4])
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Teacher]:
    """Load the teacher that some code makes, as for a user who runs in that folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def load(code: str) -> Teacher:
        (tmp_path / "answering.py").write_text(code)
        monkeypatch.delitem(sys.modules, "answering", raising=False)
        return load_teacher(TeacherSource("python:answering:factory"), NAMES, (SIDE, SIDE))

    return load


def test_other_weights_behind_the_same_code_are_another_teacher(
    own: Callable[[str], Teacher], tmp_path: Path
) -> None:
    weights = torch.randn(3 * SIDE * SIDE, 4, generator=torch.Generator().manual_seed(0))
    found = []
    for change in (0, 0, 1e-5, 0.1):
        torch.save(weights + change * weights.flip(0), tmp_path / "weights.pt")
        found.append(own(READS_WEIGHTS))
    assert len({teacher.fingerprint() for teacher in found}) == 1
    first, *others = (teacher.remembered for teacher in found)
    assert [same_answers(first, other) for other in others] == [True, True, False]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_rounding_leaves_answers_the_same_whatever_their_scale(scale: float) -> None:
    draws = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(2, 1000, generator=draws)
    found = remembered(logits.log_softmax(dim=1))
    for share, same in ((1e-3, True), (0.5, False)):
        other = logits + share * scale * torch.randn(2, 1000, generator=draws)
        assert same_answers(found, remembered(other.log_softmax(dim=1))) == same
    assert not same_answers(found, found[:-1])


def test_the_images_that_are_always_the_same_differ_from_each_other() -> None:
    images = fixed_images((9, 16))
    assert images.shape == (2, 3, 9, 16)
    assert torch.equal(images, fixed_images((9, 16)))
    noise, spots = (image.diff(dim=-1).abs().mean() for image in images)
    assert noise > 3 * spots
    assert images.min() >= 0
    assert images.max() <= 1


def test_a_teacher_that_answers_at_random_is_refused(own: Callable[[str], Teacher]) -> None:
    with pytest.raises(UserError, match="answers the same images differently each time") as caught:
        own(RANDOM)
    assert "\n" not in str(caught.value)


def in_memory(_: Tensor) -> Tensor:
    raise MemoryError("cannot\nallocate")


class Answering(nn.Module):
    def __init__(self, answer: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, images: Tensor) -> object:
        return self.answer(images)


@pytest.mark.parametrize(
    ("answer", "count", "said"),
    [
        (lambda x: x.reshape(2, 192), 5, r"fails on 5 images of 8×8 pixels \(RuntimeError: shape"),
        (lambda x: x.reshape(2, -1), 4, r"answers 4 images with \[2, 384\], expected \[4, classes"),
        (lambda x: x.flatten(1)[:, :4].squeeze(), 1, r"answers 1 images with \[4\], expected \[1,"),
        (in_memory, 3, r"fails on 3 images of 8×8 pixels \(MemoryError: cannot allocate\)"),
    ],
    ids=["fixed size", "rows are lost", "the last of all", "memory"],
)
def test_a_batch_that_fails_is_one_line(
    answer: Callable[[Tensor], object], count: int, said: str
) -> None:
    teacher = Teacher(Answering(answer), name="python:mine:f")
    with pytest.raises(UserError, match=said) as caught:
        teacher(torch.rand(count, 3, SIDE, SIDE))
    assert str(caught.value).startswith("teacher python:mine:f: ")
    assert "another --batch" in str(caught.value)
    assert "--teacher-resolution" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_with_sides_of_one_are_rows() -> None:
    images, pooled = torch.rand(5, 3, SIDE, SIDE), nn.AdaptiveAvgPool2d(1)
    rows = nn.Sequential(pooled, nn.Flatten())
    assert torch.equal(Teacher(pooled)(images), Teacher(rows)(images))
