"""Teachers that answer with vectors: loaded, and checked without classes."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from base.errors import UserError
from export.onnx_file import write_onnx
from kd.images.splits import DataSettings, Split, load_data
from kd.teacher.check_vectors import check_vectors, recognised
from kd.teacher.load import load_embedder, vector_size
from kd.teacher.model import Teacher, UnitLength
from kd.teacher.request import TeacherSource
from tests.kd.teacher import vector_networks

SIZE = (8, 8)


@pytest.fixture
def split(tmp_path: Path) -> Split:
    """Images of many colours, of two identities that are learned from."""
    draws = np.random.default_rng(0)
    for name in ("Ann", "Bo", "Cy", "Dee"):
        (tmp_path / name).mkdir()
        for number in range(1, 31):
            colour = draws.integers(0, 255, 3)
            pixels = np.clip(draws.normal(colour, 20, (9, 9, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{name}_{number:04d}.png")
    pairs = ["Ann 1 2", "Ann 3 4", "Ann 1 Bo 1", "Ann 2 Bo 2"]
    (tmp_path / "pairs.txt").write_text("\n".join(pairs))
    settings = DataSettings(str(tmp_path), pairs=tmp_path / "pairs.txt", resolution=SIZE)
    return load_data(replace(settings, search_fraction=0.5)).search


def teacher_of(network: nn.Module) -> Teacher:
    return Teacher(network, name="own", ending=UnitLength())


def test_a_teacher_that_knows_images_again_passes(split: Split) -> None:
    check = check_vectors(teacher_of(vector_networks.colours()), split, 16, 0)
    assert (check.images, check.numbers) == (30, 12)
    assert check.recognised > 0.9
    assert check.facts() == {"vector": 12, "recognised": check.recognised}
    assert "vectors of 12 numbers; of 30 images of the search split" in str(check)


def test_few_images_suffice_for_a_teacher_that_is_right_on_all(split: Split) -> None:
    few = replace(split, labels=split.labels[:8], positions=split.positions[:8], parts=(8,))
    few = replace(few, augment="none")
    check = check_vectors(teacher_of(vector_networks.colours()), few, 16, 0)
    assert (check.images, check.recognised) == (8, 1)


@pytest.mark.parametrize("network", ["constant", "noise"])
def test_one_that_knows_none_is_refused(split: Split, network: str) -> None:
    with pytest.raises(UserError, match="images again, which is chance"):
        check_vectors(teacher_of(getattr(vector_networks, network)()), split, 16, 0)


def test_vectors_that_are_not_finite_are_refused(split: Split) -> None:
    with pytest.raises(UserError, match="vectors of 30 of 30 images are not finite"):
        check_vectors(teacher_of(vector_networks.broken()), split, 16, 0)


def test_recognised_counts_views_nearer_than_another_image_s() -> None:
    vectors = torch.eye(3)
    assert recognised(vectors, vectors) == 1
    assert recognised(vectors, vectors.roll(-1, dims=0)) == 0
    # Of four, neighbours are of one identity: compared with the one two further on, all are right.
    two = torch.eye(2).repeat_interleave(2, dim=0)
    assert recognised(two, two) == 1
    assert recognised(vectors, torch.ones(3, 3)) == 0.5


def embedder(name: str) -> Teacher:
    return load_embedder(TeacherSource(f"python:tests.kd.teacher.vector_networks:{name}"), SIZE)


def test_a_loaded_one_answers_with_vectors_of_length_1(tmp_path: Path) -> None:
    images = torch.rand(5, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    write_onnx(vector_networks.colours(), images, tmp_path / "own.onnx", {})
    onnx = load_embedder(TeacherSource(f"onnx:{tmp_path / 'own.onnx'}", resolution=0), SIZE)
    for teacher in (onnx, embedder("colours")):
        found: Tensor = teacher(images)
        assert vector_size(teacher, SIZE) == found.shape[1] == 12
        own = vector_networks.colours()(images)
        torch.testing.assert_close(found, own / own.norm(dim=1, keepdim=True))
    assert math.isclose(onnx(images).norm(dim=1).min().item(), 1, rel_tol=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("maps", r"answers 2 images with \[2, 3, 2, 2\], expected \[2, numbers\]"),
        ("one_number", "answers with one number, expected a vector"),
        ("random", "answers the same images differently each time"),
    ],
)
def test_one_that_gives_no_vector_is_one_line(name: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        embedder(name)


@pytest.mark.parametrize("name", ["small_resnet18:1", "timm:resnet18"])
def test_a_library_s_classifier_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="needs a network that answers with a vector"):
        load_embedder(TeacherSource(name), SIZE)
