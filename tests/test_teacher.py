"""The teacher is frozen, read without executing code, and refused when it is broken."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import kd.networks
from export.errors import UserError
from kd.networks import build_network, read_checkpoint
from kd.teacher import (
    Teacher,
    TeacherSource,
    check_teacher,
    load_teacher,
    restore_teacher,
    save_teacher,
    small_image_resnet18,
)

TINY = "torchvision:squeezenet1_1"  # 2.9 MB, the smallest that torchvision has


class Plant:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return build_network(TINY, 5).state_dict()


def small_teacher() -> Teacher:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )
    return Teacher(layers, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))


def test_teacher_normalises_with_its_own_mean_and_std() -> None:
    teacher = small_teacher()
    images = torch.rand(2, 3, 8, 8)
    mean = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
    std = torch.tensor([0.5, 0.6, 0.7]).view(1, 3, 1, 1)
    assert torch.equal(teacher(images), teacher.network((images - mean) / std))


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


def test_fingerprint_follows_weights_and_normalisation() -> None:
    a, b = small_teacher(), small_teacher()
    assert a.fingerprint() == b.fingerprint()
    b.network[0].weight.data[0, 0, 0, 0] += 1e-6
    c = Teacher(small_teacher().network, (0.1, 0.2, 0.3), (0.5, 0.6, 0.8))
    assert len({t.fingerprint() for t in (a, b, c)}) == 3


@pytest.mark.parametrize(("stride", "side"), [(1, 16), (2, 8)])
def test_small_resnet18_keeps_small_images_large(stride: int, side: int) -> None:
    network = small_image_resnet18(7, stride)
    sides = []
    network.layer1.register_forward_hook(lambda _m, _i, out: sides.append(out.shape[-1]))
    assert network(torch.rand(2, 3, 16, 16)).shape == (2, 7)
    assert sides == [side]


@pytest.mark.parametrize("key", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_checkpoint_forms(
    tmp_path: Path, weights: dict[str, torch.Tensor], key: str | None, prefix: str
) -> None:
    stored = {prefix + name: tensor for name, tensor in weights.items()}
    torch.save(stored if key is None else {key: stored, "epoch": 3}, tmp_path / "c.pth")
    teacher = load_teacher(TeacherSource(TINY, tmp_path / "c.pth"), 5)
    loaded = teacher.network.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())
    assert teacher.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


def test_safetensors_and_given_normalisation(
    tmp_path: Path, weights: dict[str, torch.Tensor]
) -> None:
    save_file(weights, tmp_path / "c.safetensors")
    source = TeacherSource(TINY, tmp_path / "c.safetensors", (0.0, 0.0, 0.5), (1.0, 1.0, 2.0))
    teacher = load_teacher(source, 5)
    assert torch.equal(teacher.network.state_dict()["features.0.bias"], weights["features.0.bias"])
    assert teacher.mean.flatten().tolist() == [0.0, 0.0, 0.5]
    assert teacher.std.flatten().tolist() == [1.0, 1.0, 2.0]


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    plant, path = tmp_path / "planted", tmp_path / "c.pth"
    torch.save({"state_dict": Plant(plant)}, path)
    with pytest.raises(UserError, match="holds code, which is never run"):
        load_teacher(TeacherSource(TINY, path), 5)
    assert not plant.exists()
    torch.load(path, weights_only=False)
    assert plant.exists()  # so the file would have run it


def test_unreadable_checkpoints(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "c.pth"
    with pytest.raises(UserError, match=r"c\.pth: no such file"):
        read_checkpoint(path)
    torch.save(weights, path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match="truncated"):
        read_checkpoint(path)
    torch.save({"state_dict": {"epoch": 3}}, path)
    with pytest.raises(UserError, match="no state dict"):
        read_checkpoint(path)


def test_unfitting_weights_name_the_first_keys(
    tmp_path: Path, weights: dict[str, torch.Tensor]
) -> None:
    weights["extra"] = weights.pop("features.0.bias")
    weights["features.0.weight"] = torch.zeros(1)
    torch.save(weights, tmp_path / "c.pth")
    with pytest.raises(UserError) as caught:
        load_teacher(TeacherSource(TINY, tmp_path / "c.pth"), 5)
    text = str(caught.value)
    assert "features.0.bias missing; extra unexpected; features.0.weight is [1]" in text
    assert "\n" not in text


def test_class_numbers_must_agree(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    torch.save(weights, tmp_path / "c.pth")
    with pytest.raises(UserError, match="5 classes, the data has 8"):
        load_teacher(TeacherSource(TINY, tmp_path / "c.pth"), 8)
    for name in (TINY, "timm:resnet18"):
        with pytest.raises(UserError, match="1000 classes, the data has 10"):
            load_teacher(TeacherSource(name), 10)


@pytest.mark.parametrize("name", [TINY, "timm:test_resnet.r160_in1k"])
def test_failed_download(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_args: object, **_kwargs: object) -> None:
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(UserError, match=r"ConnectionError\); give --teacher-checkpoint") as caught:
        load_teacher(TeacherSource(name), 1000)
    assert "\n" not in str(caught.value)


def test_published_torchvision_weights_are_read_without_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(1)
    published = build_network(TINY, 1000).state_dict()
    asked = {}

    def fetch(_url: str, **options: object) -> dict[str, torch.Tensor]:
        asked.update(options)
        return published

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetch)
    teacher = load_teacher(TeacherSource(TINY), 1000)
    assert asked == {"check_hash": True, "weights_only": True}
    assert torch.equal(
        teacher.network.state_dict()["features.0.bias"], published["features.0.bias"]
    )


def test_published_googlenet_transforms_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision sets the flag with published weights, and they need it."""

    class Network(nn.Module):
        transform_input = False

    network = Network()
    monkeypatch.setattr("kd.networks.models.get_model", lambda *_, **__: network)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: {})
    load_teacher(TeacherSource("torchvision:googlenet"), 1000)
    assert network.transform_input


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("resnet18", "timm:resnet18"),
        ("torchvision:resnet81", "torchvision:resnet18"),
        ("timm:resnte50", "timm:resnet50"),
        ("small_resnet18:3", "small_resnet18:2"),
        ("???", "small_resnet18:2"),
    ],
)
def test_unknown_names_bring_close_ones(name: str, close: str) -> None:
    with pytest.raises(UserError) as caught:
        build_network(name, 10)
    assert f"teacher {name}: unknown" in str(caught.value)
    assert close in str(caught.value)


def test_timm_teacher_by_name(tmp_path: Path) -> None:
    network = build_network("timm:test_resnet.r160_in1k", 4)
    torch.save(network.state_dict(), tmp_path / "c.pth")
    teacher = load_teacher(TeacherSource("timm:test_resnet.r160_in1k", tmp_path / "c.pth"), 4)
    assert teacher(torch.rand(2, 3, 32, 32)).shape == (2, 4)
    assert teacher.std.flatten().tolist() == pytest.approx([0.5, 0.5, 0.5])


def test_a_teacher_trained_here_has_no_weights_to_load() -> None:
    assert TeacherSource().trained_here
    assert not TeacherSource(TINY).trained_here
    assert not TeacherSource(checkpoint=Path("c.pth")).trained_here
    with pytest.raises(UserError, match="has no weights"):
        load_teacher(TeacherSource(), 10)


def test_saved_teacher_comes_back(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    network = build_network(TINY, 5)
    network.load_state_dict(weights)
    teacher = Teacher(network, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    save_teacher(teacher, TeacherSource(TINY), tmp_path, {"test_accuracy": 0.75})
    again, facts = restore_teacher(tmp_path, 5)
    assert again.fingerprint() == teacher.fingerprint()
    assert (facts["name"], facts["test_accuracy"]) == (TINY, 0.75)
    with pytest.raises(UserError, match="5 classes, the data has 6"):
        restore_teacher(tmp_path, 6)
    (tmp_path / "teacher.json").write_text("{}")
    with pytest.raises(UserError, match="lacks mean, name, std"):
        restore_teacher(tmp_path, 5)


def answers(right: int, count: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Balanced labels, of which the first `right` are answered, the others by the next class."""
    labels = torch.arange(count) % classes
    given = torch.where(torch.arange(count) < right, labels, (labels + 1) % classes)
    return nn.functional.one_hot(given, classes).float(), labels


def test_check_teacher_draws_the_line_at_five_sigma() -> None:
    # 1,000 images of 10 classes: 0.1 + 5 * sqrt(0.09 / 1000) = 0.1474
    assert check_teacher(*answers(148, 1000, 10)) == pytest.approx(0.148)
    with pytest.raises(
        UserError, match=r"accuracy 0\.147 on 1000 images, where guessing gives 0\.100"
    ):
        check_teacher(*answers(147, 1000, 10))


def test_check_teacher_with_few_images_asks_for_half_way() -> None:
    assert check_teacher(*answers(10, 10, 2)) == 1.0
    with pytest.raises(UserError, match=r"more than 0\.750"):
        check_teacher(*answers(7, 10, 2))


def test_check_teacher_sees_through_unbalanced_classes() -> None:
    labels = (torch.arange(1000) < 50).long()
    constant = torch.tensor([[1.0, 0.0]]).repeat(1000, 1)
    with pytest.raises(UserError, match=r"accuracy 0\.950.*guessing gives 0\.950"):
        check_teacher(constant, labels)


def test_check_teacher_refuses_broken_logits() -> None:
    logits, labels = answers(100, 100, 10)
    with pytest.raises(UserError, match="9 classes, but the data has label 9"):
        check_teacher(logits[:, :9], labels)
    logits[3, 2] = float("nan")
    logits[5, 0] = float("inf")
    with pytest.raises(UserError, match="logits of 2 of 100 images are not finite"):
        check_teacher(logits, labels)


def test_kd_networks_is_the_only_reader_of_checkpoints() -> None:
    sources = list(Path(kd.networks.__file__).parent.glob("*.py"))
    calls = [p.name for p in sources if "torch.load(" in p.read_text()]
    assert calls == ["networks.py"]
    assert "weights_only=False" not in "".join(p.read_text() for p in sources)
