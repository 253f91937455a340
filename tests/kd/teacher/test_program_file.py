"""A saved program answers as its module did; a file that is none is refused in one line."""

import os
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from base.errors import UserError
from kd.teacher.load import TeacherSource, load_teacher
from kd.teacher.program_file import Program, check_archive

NAMES = ("ant", "bee", "cow", "dog")
SIDE = 8


class Shaped(nn.Module):
    """Works on sizes, so that a free batch leaves expressions of its size in the file."""

    def forward(self, features: Tensor) -> Tensor:
        count, channels, height, width = features.shape
        return features.reshape(count * channels, height * width).mean(1).reshape(count, -1)


def classifier() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), Shaped(), nn.Linear(6, 4))
    return nn.Sequential(*layers).eval()


def images(count: int) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(count))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("programs") / "teacher.pt2"
    shapes = ({0: Dim("batch")},)
    torch.export.save(torch.export.export(classifier(), (images(2),), dynamic_shapes=shapes), path)
    return path


@pytest.mark.parametrize("batch", ["free", 2, 5])
def test_a_program_equals_its_module(tmp_path: Path, batch: str | int) -> None:
    network, path = classifier(), tmp_path / "teacher.pt2"
    example = images(2 if batch == "free" else batch)
    shapes = ({0: Dim("batch")},) if batch == "free" else None
    torch.export.save(torch.export.export(network, (example,), dynamic_shapes=shapes), path)
    teacher = load_teacher(TeacherSource(f"program:{path}"), NAMES, (SIDE, SIDE))
    for count in (1, 2, 5, 8):
        with torch.no_grad():
            expected = network(images(count)).log_softmax(dim=1)
        assert torch.allclose(teacher(images(count)), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("batch", "example"),
    [
        (Dim("batch", min=2, max=8), 4),
        (Dim("batch", max=8), 2),
        (Dim("batch", min=4), 4),
        (2 * Dim("half", min=1, max=8), 4),
        (2 * Dim("half", max=4) + 1, 5),
        (Dim.AUTO, 2),
    ],
    ids=["2 to 8", "to 8", "from 4", "even", "odd", "auto"],
)
def test_a_program_is_given_parts_of_as_many_images_as_it_takes(
    tmp_path: Path, batch: Dim, example: int
) -> None:
    network, path = classifier(), tmp_path / "teacher.pt2"
    shapes = ({0: batch},)
    torch.export.save(torch.export.export(network, (images(example),), dynamic_shapes=shapes), path)
    teacher = load_teacher(TeacherSource(f"program:{path}"), NAMES, (SIDE, SIDE))
    for count in (1, 2, 3, 8, 9, 21):
        with torch.no_grad():
            expected = network(images(count)).log_softmax(dim=1)
        assert torch.allclose(teacher(images(count)), expected, atol=1e-5)


def test_a_program_is_known_by_its_file(saved: Path, tmp_path: Path) -> None:
    source = TeacherSource(f"program:{saved}")
    again = tmp_path / "moved.pt2"
    again.write_bytes(saved.read_bytes())
    moved = TeacherSource(f"program:{again}")
    one, two = (load_teacher(s, NAMES, (SIDE, SIDE)).fingerprint() for s in (source, moved))
    assert one == two


def test_a_name_twice_is_refused(saved: Path, tmp_path: Path) -> None:
    """Two readers may take different ones of them."""
    path = tmp_path / "twice.pt2"
    path.write_bytes(saved.read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other/models/model.json", b"{}")
    with pytest.raises(UserError, match="a name twice"):
        check_archive(path)


def test_files_that_are_no_program(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.pt2"
    whole = saved.read_bytes()
    for content in (b"", b"no archive", whole[: len(whole) // 2], whole[:-30]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"bad\.pt2: no program of torch\.export") as caught:
            Program(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"none\.pt2: no program"):
        Program(tmp_path / "none.pt2")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("teacher/notes.txt", "no program")
    with pytest.raises(UserError, match="no program"):
        Program(path)


def test_a_program_of_any_name_is_opened(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"teacher\xff.pt2")
    path.write_bytes(saved.read_bytes())
    assert torch.equal(Program(path)(images(2)), Program(saved)(images(2)))
