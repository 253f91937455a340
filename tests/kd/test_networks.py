"""Teacher networks by name, and weights from files that never execute code."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import kd.networks
from base.errors import UserError
from kd.networks import (
    InputFormat,
    build_network,
    published_input,
    read_checkpoint,
    small_image_resnet18,
    with_weights,
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
    loaded = with_weights(TINY, tmp_path / "c.pth", 5).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())


def test_safetensors(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    save_file(weights, tmp_path / "c.safetensors")
    loaded = with_weights(TINY, tmp_path / "c.safetensors", 5).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    plant, path = tmp_path / "planted", tmp_path / "c.pth"
    torch.save({"state_dict": Plant(plant)}, path)
    with pytest.raises(UserError, match="holds code, which is never run"):
        with_weights(TINY, path, 5)
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
        with_weights(TINY, tmp_path / "c.pth", 5)
    text = str(caught.value)
    assert "features.0.bias missing; extra unexpected; features.0.weight is [1]" in text
    assert "\n" not in text


def test_class_numbers_must_agree(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    torch.save(weights, tmp_path / "c.pth")
    with pytest.raises(UserError, match="5 classes, the data has 8"):
        with_weights(TINY, tmp_path / "c.pth", 8)
    for name in (TINY, "timm:resnet18"):
        with pytest.raises(UserError, match="1000 classes, the data has 10"):
            with_weights(name, None, 10)


@pytest.mark.parametrize("name", [TINY, "timm:test_resnet.r160_in1k"])
def test_failed_download(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_args: object, **_kwargs: object) -> None:
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(UserError, match=r"ConnectionError\); give --teacher-checkpoint") as caught:
        with_weights(name, None, 1000)
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
    loaded = with_weights(TINY, None, 1000).state_dict()
    assert asked == {"check_hash": True, "weights_only": True}
    assert all(torch.equal(loaded[name], tensor) for name, tensor in published.items())


def test_published_googlenet_transforms_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision sets the flag with published weights, and they need it."""

    class Network(nn.Module):
        transform_input = False

    network = Network()
    monkeypatch.setattr("kd.networks.models.get_model", lambda *_, **__: network)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: {})
    with_weights("torchvision:googlenet", None, 1000)
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
    assert f"{name}: unknown network" in str(caught.value)
    assert close in str(caught.value)


def test_what_published_weights_want_to_see() -> None:
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert published_input(TINY) == InputFormat(*imagenet, 224, "bilinear", 256)
    halves = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert published_input("timm:test_resnet.r160_in1k") == InputFormat(
        *(*halves, 160, "bilinear", 168)
    )
    found = published_input("timm:vit_tiny_patch16_224")
    assert found == InputFormat(*halves, 224, "bicubic", 248)
    assert published_input("small_resnet18:2") == InputFormat()


def test_a_network_of_ours_has_no_published_weights() -> None:
    with pytest.raises(UserError, match="has no weights; give --teacher-checkpoint"):
        with_weights("small_resnet18:2", None, 10)


def test_checkpoints_are_never_unpickled_freely() -> None:
    sources = list(Path(kd.networks.__file__).parent.rglob("*.py"))
    calls = {p.name: p.read_text().count("torch.load(") for p in sources}
    # program_file.py reads sample inputs only to refuse those that are no plain data.
    assert {name: count for name, count in calls.items() if count} == {
        "weight_files.py": 1,
        "program_file.py": 1,
    }
    assert "weights_only=False" not in "".join(p.read_text() for p in sources)
