"""Teachers that are no network of a library: ONNX files and the user's own code."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms.v2.functional import rgb_to_grayscale

from base.errors import UserError
from export.onnx_file import to_onnx
from kd.images.rendering import Frame
from kd.teacher.load import TeacherSource, load_teacher
from kd.teacher.model import Teacher
from kd.teacher.onnx_network import OnnxNetwork

NAMES = ("ant", "bee", "cow", "dog")
SIDE = 8


def classifier(channels: int = 3, classes: int = 4) -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(channels, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(6, classes))
    network[-1].weight.data *= 10
    return network.eval()


def write(
    path: Path,
    network: nn.Module,
    shape: Sequence[int] = (2, 3, SIDE, SIDE),
    dynamic: Sequence[int] = (0,),
) -> Path:
    path.write_bytes(to_onnx(network, torch.zeros(*shape), dynamic).SerializeToString())
    return path


def images(count: int, side: int = SIDE) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(count))


def expected(network: nn.Module, shown: Tensor) -> Tensor:
    with torch.no_grad():
        return network(shown).log_softmax(dim=1)


def load(path: Path, side: int = SIDE, **source: object) -> Teacher:
    return load_teacher(TeacherSource(f"onnx:{path}", **source), NAMES, (side, side))


@pytest.mark.parametrize("form", ["free batch", "batch of 3", "probabilities", "any size"])
def test_onnx_teacher_equals_its_module(tmp_path: Path, form: str) -> None:
    network = classifier()
    path = tmp_path / "teacher.onnx"
    if form == "free batch":
        write(path, network)
    elif form == "batch of 3":
        write(path, network, (3, 3, SIDE, SIDE), ())
    elif form == "probabilities":
        write(path, nn.Sequential(network, nn.Softmax(dim=1)))
    else:
        write(path, network, dynamic=(0, 2, 3))
    teacher = load(path)
    for count in (1, 2, 3, 4, 7, 9):
        found = teacher(images(count))
        assert found.shape == (count, 4)
        assert torch.allclose(found, expected(network, images(count)), atol=1e-4)
    assert teacher.input_format.resolution == (None if form == "any size" else SIDE)


def test_a_file_is_shown_the_size_that_it_asks_for(tmp_path: Path) -> None:
    network, own = classifier(), Frame((20, 20))
    teacher = load(write(tmp_path / "t.onnx", network), 20)
    assert teacher.frames(own) == (Frame((SIDE, SIDE)),)
    assert torch.allclose(teacher(images(3, SIDE)), expected(network, images(3, SIDE)), atol=1e-4)
    free = load(write(tmp_path / "free.onnx", network, dynamic=(0, 2, 3)), 20)
    assert free.frames(own) == (own,)
    assert torch.allclose(free(images(3, 20)), expected(network, images(3, 20)), atol=1e-4)
    small = load(tmp_path / "free.onnx", 20, resolution=SIDE)
    assert small.frames(own) == (Frame((SIDE, SIDE)),)


def test_a_file_of_grey_images_is_shown_one_channel(tmp_path: Path) -> None:
    """That of all three colours; to three equal ones it is what they are, but for rounding."""
    network = classifier(1)
    teacher = load(write(tmp_path / "t.onnx", network, (2, 1, SIDE, SIDE)))
    grey = images(3)[:, :1]
    assert torch.allclose(teacher(grey.expand(-1, 3, -1, -1)), expected(network, grey), atol=1e-3)
    seen = rgb_to_grayscale(images(3))
    assert torch.allclose(teacher(images(3)), expected(network, seen), atol=1e-4)


def test_onnx_teacher_is_known_by_its_file(tmp_path: Path) -> None:
    a = load(write(tmp_path / "a.onnx", classifier())).fingerprint()
    (tmp_path / "b.onnx").write_bytes((tmp_path / "a.onnx").read_bytes())
    assert load(tmp_path / "b.onnx").fingerprint() == a
    other = classifier()
    other[0].weight.data[0, 0, 0, 0] += 1e-3
    assert load(write(tmp_path / "a.onnx", other)).fingerprint() != a


class Rank3(nn.Module):
    def forward(self, shown: Tensor) -> Tensor:
        return shown.flatten(1)[:, :4]


class Two(nn.Module):
    def forward(self, shown: Tensor) -> Tensor:
        return shown.float().mean(dim=(2, 3)).repeat(1, 2)[:, :4]


@pytest.mark.parametrize(
    ("network", "shape", "said"),
    [
        (Rank3(), (2, SIDE, SIDE), r"takes images \['batch', 8, 8\]; expected one input"),
        (classifier(2), (2, 2, SIDE, SIDE), r"takes images \['batch', 2, 8, 8\]; expected one"),
        (classifier(), (2, 3, SIDE, SIDE + 2), r"8, 10\]; expected one input .* of square RGB"),
        (classifier(classes=5), (2, 3, SIDE, SIDE), "answers 5 classes, expected 4"),
        (nn.Flatten(0), (2, 3, SIDE, SIDE), "answers 2 images with"),
    ],
    ids=["rank 3", "2 channels", "not square", "5 classes", "flat"],
)
def test_files_that_are_no_classifier_of_the_images_are_refused(
    tmp_path: Path, network: nn.Module, shape: Sequence[int], said: str
) -> None:
    path = write(tmp_path / "t.onnx", network, shape)
    with pytest.raises(UserError, match=said) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_types_of_numbers_are_refused_by_name(tmp_path: Path) -> None:
    network, path = Two(), tmp_path / "t.onnx"
    shown = torch.zeros(2, 3, SIDE, SIDE)
    path.write_bytes(to_onnx(network, shown.int()).SerializeToString())
    with pytest.raises(UserError, match=r"takes tensor\(int32\), expected tensor\(float\)"):
        load(path)
    path.write_bytes(to_onnx(network, shown.half()).SerializeToString())
    assert torch.allclose(load(path)(images(3)), expected(network, images(3)), atol=2e-3)


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.onnx: no such file; expected an ONNX model"):
        load(tmp_path / "none.onnx")
    path = write(tmp_path / "t.onnx", classifier())
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"no model at all"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"t\.onnx") as caught:
            OnnxNetwork(path, len(NAMES))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["onnx:t.onnx", "program:t.pt2", "python:module:factory"])
def test_a_checkpoint_beside_what_holds_its_own_weights_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="holds its own weights; leave --teacher-checkpoint"):
        load_teacher(TeacherSource(name, Path("c.pt")), NAMES, SIDE)


def written_module(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, code: str) -> None:
    """Make `name` importable as it is for a user who runs in `folder`."""
    (folder / f"{name}.py").write_text(code)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))


CODE = """
import torch

def module():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 4))

def function():
    return lambda images: images.flatten(1)[:, 50:54]

def fails():
    raise ValueError("no weights\\nat all")

def three():
    return 3

def needs(argument):
    return module()
"""


def test_python_teachers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written_module(monkeypatch, tmp_path, "own_teachers", CODE)
    for factory in ("module", "function"):
        source = TeacherSource(f"python:own_teachers:{factory}")
        teacher = load_teacher(source, NAMES, (SIDE, SIDE))
        found = expected(teacher.network, images(5))
        assert torch.equal(teacher(images(5)), found)
    assert torch.equal(found, images(5).flatten(1)[:, 50:54].log_softmax(dim=1))


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("no_such_module:f", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("faulty_teachers:absent", "AttributeError"),
        ("faulty_teachers:fails", "ValueError: no weights at all"),
        ("faulty_teachers:three", "returned int, expected a torch module"),
        ("faulty_teachers:needs", "TypeError"),
        ("faulty_teachers", "expected python:MODULE:FACTORY"),
        (":fails", "expected python:MODULE:FACTORY"),
        ("broken_teachers:f", "SyntaxError"),
    ],
)
def test_faults_of_the_users_code_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str, said: str
) -> None:
    written_module(monkeypatch, tmp_path, "faulty_teachers", CODE)
    written_module(monkeypatch, tmp_path, "broken_teachers", "def f(:\n")
    with pytest.raises(UserError) as caught:
        load_teacher(TeacherSource(f"python:{reference}"), NAMES, (SIDE, SIDE))
    assert str(caught.value).startswith(f"teacher python:{reference}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_changed_code_is_another_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prints = set()
    for answer in ("50:54", "60:64"):
        written_module(monkeypatch, tmp_path, "changing_teacher", CODE.replace("50:54", answer))
        monkeypatch.delitem(sys.modules, "changing_teacher", raising=False)
        source = TeacherSource("python:changing_teacher:function")
        prints.add(load_teacher(source, NAMES, (SIDE, SIDE)).fingerprint())
    assert len(prints) == 2


def test_classes_of_an_onnx_teacher_are_reordered_and_chosen(tmp_path: Path) -> None:
    network = classifier(classes=6)
    path = write(tmp_path / "t.onnx", network)
    known = ("dog", "eel", "ant", "cow", "fox", "bee")
    teacher = load(path, classes=known)
    with torch.no_grad():
        logits = network(images(5))
    assert torch.allclose(teacher(images(5)), logits[:, [2, 5, 3, 0]].log_softmax(1), atol=1e-4)
    with pytest.raises(
        UserError, match="lacks 1 of the data's 4 classes, such as bee, did you"
    ) as e:
        load(path, classes=("dog", "eel", "ant", "cow", "fox", "bees"))
    assert "did you mean bees?" in str(e.value)
    with pytest.raises(UserError, match="answers 6 classes, expected 5"):
        load(path, classes=known[:5])


def test_probabilities_of_chosen_classes_are_those_given_one_of_them(tmp_path: Path) -> None:
    network = classifier(classes=6)
    path = write(tmp_path / "t.onnx", nn.Sequential(network, nn.Softmax(dim=1)))
    teacher = load(path, classes=("dog", "eel", "ant", "cow", "fox", "bee"))
    with torch.no_grad():
        whole = network(images(5)).softmax(dim=1)[:, [2, 5, 3, 0]]
    conditional = whole / whole.sum(dim=1, keepdim=True)
    assert torch.allclose(teacher(images(5)).exp(), conditional, atol=1e-5)
