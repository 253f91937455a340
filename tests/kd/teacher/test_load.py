"""The teacher is frozen, normalises for itself, and knows the data's classes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from base.errors import UserError
from kd.images.rendering import Frame
from kd.networks import InputFormat, build_network, published_input
from kd.teacher.load import TeacherSource, class_order, load_teacher, read_class_names
from kd.teacher.model import Teacher
from kd.teacher.saved import load_saved_teacher, read_facts, save_teacher, write_facts

TINY = "torchvision:squeezenet1_1"  # 2.9 MB, the smallest that torchvision has
NAMES = ("a", "b", "c", "d", "e")
WANTS = InputFormat((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))


@pytest.fixture
def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return build_network(TINY, 5).state_dict()


def small_teacher(input_format: InputFormat = WANTS) -> Teacher:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )
    return Teacher(layers, input_format)


def seen(images: Tensor, **input_format: object) -> Tensor:
    """What the network is shown, up to a constant an image: its log-softmax over all pixels."""
    return Teacher(nn.Flatten(), InputFormat(**input_format))(images)


def test_teacher_normalises_with_its_own_mean_and_std() -> None:
    teacher = small_teacher()
    images = torch.rand(2, 3, 8, 8)
    mean = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
    std = torch.tensor([0.5, 0.6, 0.7]).view(1, 3, 1, 1)
    assert torch.equal(teacher(images), teacher.network((images - mean) / std).log_softmax(dim=1))


@pytest.mark.parametrize(
    ("wanted", "own", "frame"),
    [
        (InputFormat(), Frame((8, 12), resize=9), Frame((8, 12), resize=9)),
        (InputFormat(resolution=8), Frame((8, 8)), Frame((8, 8))),
        (InputFormat(resolution=224), Frame((32, 32), resize=37), Frame((224,) * 2, resize=259)),
        (InputFormat(resolution=224, resize=0), Frame((32, 32), resize=37), Frame((224,) * 2)),
        (
            InputFormat(resolution=20, interpolation="bicubic", resize=24),
            Frame((32, 48)),
            Frame((20, 20), "bicubic", 24),
        ),
    ],
)
def test_what_a_teacher_has_to_be_shown(wanted: InputFormat, own: Frame, frame: Frame) -> None:
    """Its own size and cut; where it has none, that of the students, in proportion."""
    assert Teacher(nn.Flatten(), wanted).frames(own) == (frame,)


def test_a_cut_follows_another_resolution(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    save_file(weights, tmp_path / "w.safetensors")
    source = TeacherSource(TINY, tmp_path / "w.safetensors")
    known = published_input(TINY)
    assert load_teacher(source, NAMES, (16, 16)).input_format == known
    half = load_teacher(replace(source, resolution=112), NAMES, (16, 16)).input_format
    assert half == replace(known, resolution=112, resize=round(known.resize / 2))
    asked = replace(source, resolution=112, resize=120, interpolation="bicubic")
    found = load_teacher(asked, NAMES, (16, 16)).input_format
    assert (found.resolution, found.resize, found.interpolation) == (112, 120, "bicubic")
    with pytest.raises(UserError, match=r"--teacher-resize 100 leaves no 112 pixels"):
        load_teacher(replace(asked, resize=100), NAMES, (16, 16))


def test_channels_are_exchanged_or_made_grey_before_they_are_normalised() -> None:
    images = torch.rand(2, 3, 4, 4)
    mean = (0.1, 0.2, 0.3)
    shift = torch.tensor(mean).view(3, 1, 1)
    red, green, blue = images.unbind(dim=1)
    luma = 0.2989 * red + 0.587 * green + 0.114 * blue
    for channels, shown in (
        ("rgb", images),
        ("bgr", torch.stack([blue, green, red], dim=1)),
        ("grey", torch.stack([luma] * 3, dim=1)),
    ):
        expected = (shown - shift).flatten(1).log_softmax(dim=1)
        assert torch.allclose(seen(images, mean=mean, channels=channels), expected, atol=1e-5)


def test_train_leaves_the_teacher_in_eval_mode() -> None:
    teacher = small_teacher()
    around = nn.Sequential(teacher, nn.BatchNorm1d(3)).train()
    assert around.training
    assert not any(module.training for module in teacher.modules())
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    around(torch.rand(4, 3, 8, 8))
    assert all(torch.equal(before[n], t) for n, t in teacher.state_dict().items())


def test_no_gradient_reaches_the_teacher_but_its_output_can_be_used() -> None:
    teacher = small_teacher()
    images = torch.rand(2, 3, 8, 8, requires_grad=True)
    student = torch.zeros(2, 3, requires_grad=True)
    (teacher(images) * student).sum().backward()
    assert student.grad.abs().sum() > 0
    assert images.grad is None
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())


def test_fingerprint_follows_weights_and_input() -> None:
    a, b = small_teacher(), small_teacher()
    assert a.fingerprint() == b.fingerprint()
    b.network[0].weight.data[0, 0, 0, 0] += 1e-6
    changes = (
        *({"std": (0.5, 0.6, 0.8)}, {"mean": (0.1, 0.2, 0.4)}, {"resolution": 9}),
        *({"channels": "bgr"}, {"interpolation": "bicubic"}),
    )
    others = [small_teacher(replace(WANTS, **change)) for change in changes]
    other_file = Teacher(small_teacher().network, WANTS, identity="another file")
    prints = [teacher.fingerprint() for teacher in (a, b, other_file, *others)]
    assert len(set(prints)) == 8


def test_given_input_comes_before_that_of_the_library(
    tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    save_file(weights, tmp_path / "c.safetensors")
    source = TeacherSource(TINY, tmp_path / "c.safetensors")
    teacher = load_teacher(source, NAMES, (32, 32))
    assert teacher.input_format == published_input(TINY)
    assert torch.equal(teacher.network.state_dict()["features.0.bias"], weights["features.0.bias"])
    given = {"mean": (0.0, 0.0, 0.5), "std": (1.0, 1.0, 2.0), "channels": "bgr"}
    teacher = load_teacher(replace(source, **given, resolution=64), NAMES, (32, 32))
    assert teacher.input_format == InputFormat(**given, resolution=64, resize=73)
    assert teacher.mean.flatten().tolist() == [0.0, 0.0, 0.5]
    assert teacher.std.flatten().tolist() == [1.0, 1.0, 2.0]
    assert (
        load_teacher(replace(source, resolution=0), NAMES, (32, 32)).input_format.resolution is None
    )


def test_timm_teacher_by_name(tmp_path: Path) -> None:
    network = build_network("timm:test_resnet.r160_in1k", 4)
    torch.save(network.state_dict(), tmp_path / "c.pth")
    source = TeacherSource("timm:test_resnet.r160_in1k", tmp_path / "c.pth")
    teacher = load_teacher(source, NAMES[:4], (32, 32))
    found = teacher(torch.rand(2, 3, 32, 32))
    assert torch.allclose(found.exp().sum(dim=1), torch.ones(2))
    assert found.shape == (2, 4)
    assert teacher.std.flatten().tolist() == pytest.approx([0.5, 0.5, 0.5])


def test_images_too_small_for_the_network_name_the_option(
    tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    save_file(weights, tmp_path / "c.safetensors")
    source = TeacherSource(TINY, tmp_path / "c.safetensors", resolution=8)
    with pytest.raises(
        UserError, match=r"fails on 2 images of 8×8 pixels .* give --teacher-resolution 224"
    ):
        load_teacher(source, NAMES, (32, 32))


def answering(monkeypatch: pytest.MonkeyPatch, answer: Callable[[Tensor], object]) -> None:
    """Let every teacher of the library be this function of its images."""

    class Network(nn.Module):
        def forward(self, images: Tensor) -> object:
            return answer(images)

    monkeypatch.setattr("kd.teacher.load.with_weights", lambda *_: Network())


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (lambda x: x.flatten(1)[:, :4], r"answers 4 classes, expected 5; .*--teacher-classes"),
        (lambda x: x, r"answers 2 images with \[2, 3, 8, 8\], expected \[2, 5\]"),
        (lambda x: x.flatten(1)[:1, :5], r"answers 2 images with \[1, 5\]"),
        (lambda x: {"logits": x}, "answers 2 images with dict"),
    ],
)
def test_a_network_that_is_no_classifier_of_the_data_is_refused(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[Tensor], object], expected: str
) -> None:
    answering(monkeypatch, answer)
    with pytest.raises(UserError, match=expected) as caught:
        load_teacher(TeacherSource(resolution=0), NAMES, (8, 8))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_probabilities_are_taken_for_what_they_are(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    images = torch.rand(6, 3, 8, 8)
    logits = 4 * images.flatten(1)[:, :5]
    answering(monkeypatch, lambda x: (4 * x.flatten(1)[:, :5]).softmax(dim=1).to(dtype))
    teacher = load_teacher(TeacherSource(), NAMES, (8, 8))
    assert torch.allclose(teacher(images).exp(), logits.softmax(dim=1), atol=1e-3)
    answering(monkeypatch, lambda x: 4 * x.flatten(1)[:, :5])
    teacher = load_teacher(TeacherSource(), NAMES, (8, 8))
    assert torch.allclose(teacher(images), logits.log_softmax(dim=1), atol=1e-6)


def test_a_probability_of_zero_stays_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, lambda x: torch.eye(5)[[2] * len(x)])
    found = load_teacher(TeacherSource(), NAMES, (8, 8))(torch.rand(3, 3, 8, 8))
    assert found.isfinite().all()
    assert torch.allclose(found.exp(), torch.eye(5)[[2, 2, 2]])


def test_classes_of_its_own_are_put_in_the_datas_order(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, lambda x: x.flatten(1)[:, :5])
    images = torch.rand(4, 3, 8, 8)
    teacher = load_teacher(
        TeacherSource(classes=("e", "c", "x", "a", "b")), ("a", "c", "e"), (8, 8)
    )
    expected = images.flatten(1)[:, [3, 1, 0]].log_softmax(dim=1)
    assert torch.allclose(teacher(images), expected, atol=1e-6)


def test_class_order_names_what_is_missing() -> None:
    assert class_order(["b", "a"], ["a", "b"]) == [1, 0]
    with pytest.raises(UserError) as caught:
        class_order(["tench", "goldfish"], ["tench", "gold fish", "eel"])
    assert "lacks 2 of the data's 3 classes, such as gold fish, did you mean goldfish?" in str(
        caught.value
    )


def test_class_names_are_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("tench\n\n great white shark \n3\n")
    assert read_class_names(path) == ("tench", "great white shark", "3")
    path.write_text("a\nb\na\n")
    with pytest.raises(UserError, match="holds a more than once"):
        read_class_names(path)
    path.write_bytes(b"\xff\xfe\x00")
    for unreadable in (path, tmp_path / "none.txt"):
        with pytest.raises(UserError, match="expected one class name a line"):
            read_class_names(unreadable)


def test_a_teacher_trained_here_has_no_weights_to_load() -> None:
    assert TeacherSource().trained_here
    assert not TeacherSource(TINY).trained_here
    assert not TeacherSource(checkpoint=Path("c.pth")).trained_here
    with pytest.raises(UserError, match="has no weights"):
        load_teacher(TeacherSource(), NAMES, (16, 16))


def test_saved_teacher_comes_back(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    network = build_network(TINY, 5)
    network.load_state_dict(weights)
    teacher = Teacher(network, published_input(TINY))
    save_teacher(teacher, TeacherSource(TINY), tmp_path)
    assert (
        load_saved_teacher(TeacherSource(TINY), tmp_path, 5).fingerprint() == teacher.fingerprint()
    )
    with pytest.raises(UserError, match="5 classes, the data has 6"):
        load_saved_teacher(TeacherSource(TINY), tmp_path, 6)


def test_saved_teacher_answers_with_the_same_bits(tmp_path: Path) -> None:
    """As it was trained, in channels-last order; another order would round otherwise."""
    torch.manual_seed(0)
    name = "small_resnet18:2"
    teacher = Teacher(build_network(name, 5).to(memory_format=torch.channels_last))
    save_teacher(teacher, TeacherSource(name), tmp_path)
    again = load_saved_teacher(TeacherSource(name), tmp_path, 5)
    images = torch.rand(32, 3, 16, 16)
    assert torch.equal(again(images), teacher(images))


def test_facts_come_back_and_must_be_whole(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no teacher here; run train\.py to its end first"):
        read_facts(tmp_path)
    facts = {"classes": ["a", "b"], "fingerprint": "f", "search_accuracy": 0.75}
    facts["answers"] = [[], [-1.5, 0]]
    write_facts(tmp_path, facts)
    assert read_facts(tmp_path) == facts
    (tmp_path / "teacher.json").write_text('{"classes": []}')
    with pytest.raises(UserError, match="damaged: fingerprint is missing or odd"):
        read_facts(tmp_path)
