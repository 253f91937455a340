"""A student's two files give the same network back, and nothing else passes for them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from base.errors import UserError
from base.tensor_files import write_tensors
from supernet.choice.student_file import (
    FORM,
    WEIGHTS,
    load_student,
    take_weights,
    weights_identity,
    write_student,
)
from supernet.space import Architecture, SearchSpace
from supernet.student import Student

METADATA = {"classes": '["a", "b", "\u00e9"]', "resize": "9", "target_ms": "20"}


@pytest.fixture
def student(space: SearchSpace) -> Student:
    """Trained a little, so that BatchNorm has seen something."""
    torch.manual_seed(0)
    student = Student(space, space.middle())
    student(torch.rand(4, *space.image_shape))
    return student.eval()


@pytest.fixture
def folder(tmp_path: Path, student: Student, space: SearchSpace) -> Path:
    write_student(tmp_path / "20ms", student, space.middle(), space, METADATA)
    return tmp_path / "20ms"


def test_it_answers_as_it_did(folder: Path, student: Student, space: SearchSpace) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [FORM, WEIGHTS]
    shutil.copytree(folder, folder.parent / "elsewhere")
    loaded = load_student(str(folder.parent / "elsewhere"))
    images = torch.rand(3, *space.image_shape)
    with torch.no_grad():
        assert torch.equal(loaded(images), student(images))
    assert not any(module.training for module in loaded.modules())
    assert all(tensor.device.type == "cpu" for tensor in loaded.state_dict().values())


def test_it_knows_what_it_tells_apart_and_what_it_is_shown(
    folder: Path, space: SearchSpace
) -> None:
    loaded = load_student(folder)
    assert loaded.classes == ("a", "b", "é")
    assert (loaded.image_shape, loaded.resize) == (space.image_shape, 9)
    assert loaded.architecture == space.middle()
    assert (loaded.mean, loaded.std) == (0.5, 0.5)


def test_one_that_gives_vectors_knows_no_classes(tmp_path: Path, space: SearchSpace) -> None:
    own, images = replace(space, unit_length=True), torch.rand(3, *space.image_shape)
    student, none = Student(own, own.middle()).eval(), METADATA | {"classes": "[]"}
    write_student(tmp_path / "one", student, own.middle(), own, none)
    loaded = load_student(tmp_path / "one")
    assert loaded.classes == ()
    with torch.no_grad():
        assert torch.equal(loaded(images), student(images))
        torch.testing.assert_close(loaded(images).norm(dim=1), torch.ones(3))
    write_student(tmp_path / "two", student, own.middle(), own, METADATA)
    with pytest.raises(UserError, match="3 classes for 0"):
        load_student(tmp_path / "two")


@pytest.mark.parametrize("head", [0, 8])
def test_features_are_what_the_classifier_sees(
    tmp_path: Path, space: SearchSpace, head: int
) -> None:
    middle = space.middle()
    architecture = Architecture(middle.stem_width, middle.stages, head)
    write_student(tmp_path, Student(space, architecture), architecture, space, METADATA)
    loaded, images = load_student(tmp_path), torch.rand(5, *space.image_shape)
    seen: list[torch.Tensor] = []
    loaded.head.classifier.register_forward_hook(lambda _, inputs, __: seen.extend(inputs))
    with torch.no_grad():
        features, logits = loaded.features(images), loaded(images)
        assert torch.equal(seen[0], features)
        assert torch.equal(
            nn.functional.linear(features, *loaded.head.classifier.parameters()), logits
        )
    assert features.shape == (5, head or middle.stages[-1].width)


@pytest.mark.parametrize("name", [FORM, WEIGHTS])
def test_files_that_are_missing_or_cut_off_are_one_line(folder: Path, name: str) -> None:
    path = folder / name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=name):
        load_student(folder)
    path.unlink()
    with pytest.raises(UserError, match=name):
        load_student(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"classes": ["a", "b"]},
        {"classes": None},
        {"resize": "9"},
        {"space": None},
        {"stem_width": 5},
        {"stages": []},
        {"space": {"stem_stride": 10**12}},
    ],
    ids=str,
)
def test_another_form_is_one_line(folder: Path, change: dict) -> None:
    path = folder / FORM
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=r"not what search\.py writes"):
        load_student(folder)


def test_a_form_without_a_space_is_of_another_version(folder: Path, space: SearchSpace) -> None:
    (folder / FORM).write_text(json.dumps(space.middle().to_json()))
    with pytest.raises(UserError, match="'space'"):
        load_student(folder)


def test_weights_of_another_student_are_refused(folder: Path, space: SearchSpace) -> None:
    smallest = space.architecture({d.name: 0 for d in space.decisions()})
    assert smallest != space.middle()
    write_tensors(folder / WEIGHTS, Student(space, smallest).state_dict(), {})
    with pytest.raises(UserError, match="not those of"):
        load_student(folder)


def test_a_form_that_asks_for_much_memory_gets_none(folder: Path) -> None:
    """Of 10^9 channels, which would be gigabytes; the weights are not of that size."""
    path = folder / FORM
    stored = json.loads(path.read_text())
    stored["space"]["stem_widths"], stored["stem_width"] = [10**9], 10**9
    path.write_text(json.dumps(stored))
    with pytest.raises(UserError, match="not those of"):
        load_student(folder)


def test_weights_are_taken_wherever_they_fit(
    folder: Path, student: Student, space: SearchSpace
) -> None:
    """For other classes all but the classifier; the rest stays as it was."""
    other = replace(space, classes=space.classes + 2)
    torch.manual_seed(1)
    found = Student(other, space.middle())
    before = {name: tensor.clone() for name, tensor in found.state_dict().items()}
    told, known = take_weights(found, folder), student.state_dict()
    for name, tensor in found.state_dict().items():
        taken = not name.startswith("head.classifier")
        assert torch.equal(tensor, known[name] if taken else before[name]), name
    classifier = sum(p.numel() for p in found.head.classifier.parameters())
    share = 1 - classifier / sum(p.numel() for p in found.parameters())
    assert told == f"{share:.0%} of its parameters"
    assert take_weights(Student(space, space.middle()), folder) == "100% of its parameters"


def test_a_student_of_another_form_takes_what_it_has_in_common(
    folder: Path, student: Student, space: SearchSpace
) -> None:
    found, known = Student(space, space.smallest()), student.state_dict()
    take_weights(found, folder)
    fits = {n for n, t in found.state_dict().items() if n in known and t.shape == known[n].shape}
    assert 0 < len(fits) < len(found.state_dict())
    assert all(torch.equal(found.state_dict()[name], known[name]) for name in fits)


def test_weights_are_known_by_their_content(folder: Path, space: SearchSpace) -> None:
    copy = shutil.copytree(folder, folder.parent / "copy")
    assert weights_identity(copy) == weights_identity(str(folder))
    write_student(copy, Student(space, space.middle()), space.middle(), space, METADATA)
    assert weights_identity(copy) != weights_identity(folder)
    with pytest.raises(UserError, match="no weights of a student here"):
        weights_identity("nowhere")
