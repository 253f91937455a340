"""Checkpoints as trainers leave them: wrapped, with settings beside, with several state dicts."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.utils import CheckpointSaver, ModelEmaV2
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from base.errors import UserError
from kd.networks import OneChannel, build_network, with_weights
from kd.teacher.load import load_teacher
from kd.teacher.request import TeacherSource
from kd.weight_files import read_checkpoint

TINY = "timm:test_resnet.r160_in1k"
CLASSES = 5


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_network(TINY, CLASSES)


def loaded(path: Path, key: str | None = None) -> dict[str, Tensor]:
    return with_weights(TINY, path, CLASSES, key).state_dict()


def same(found: dict[str, Tensor], wanted: nn.Module) -> bool:
    return all(torch.equal(found[name], value) for name, value in wanted.state_dict().items())


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "model.",
        "module._orig_mod.",
        "model.module.",
        "net.",
        "a.backbone.",
    ],
)
def test_what_a_network_was_wrapped_in_is_left(
    tmp_path: Path, prefix: str, capsys: pytest.CaptureFixture
) -> None:
    path, own = tmp_path / "c.pth", network()
    stored = {prefix + name: value for name, value in own.state_dict().items()}
    torch.save(stored, path)
    assert same(loaded(path), own)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("prefix", ["model.", "net."])
def test_what_lies_beside_a_network_is_left_and_said(
    tmp_path: Path, prefix: str, capsys: pytest.CaptureFixture
) -> None:
    path, own = tmp_path / "c.pth", network()
    stored = {prefix + name: value for name, value in own.state_dict().items()}
    torch.save({"state_dict": {"loss.weight": torch.ones(3), **stored}}, path)
    assert same(loaded(path), own)
    assert "1 more are left, such as loss.weight" in capsys.readouterr().out


def test_a_part_that_was_compiled_or_wrapped_alone(tmp_path: Path) -> None:
    path, own = tmp_path / "c.pth", network()
    for word in ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"):
        names = {n: n.replace("layer1.", f"layer1.{word}.") for n in own.state_dict()}
        assert any(word in name for name in names.values())
        torch.save({names[name]: value for name, value in own.state_dict().items()}, path)
        assert same(loaded(path), own)


def test_a_network_that_is_there_twice_is_not_guessed(tmp_path: Path) -> None:
    path, one, other = tmp_path / "c.pth", network(), network(1)
    twice = {
        f"{place}.{name}": value
        for place in ("student", "ema")
        for name, value in one.state_dict().items()
    }
    torch.save(twice, path)
    with pytest.raises(UserError, match=r"holds this network 2 times \(student\., ema\.\)"):
        loaded(path)
    torch.save(
        {f"model.{n}": v for n, v in one.state_dict().items()}
        | {f"ema.{n}": v for n, v in other.state_dict().items()},
        path,
    )
    assert same(loaded(path), one)


def test_timms_own_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    own, averaged = network(), network(1)
    arguments = argparse.Namespace(model="resnet18", lr=0.1, output=tmp_path, mean=(0.5, 0.5, 0.5))
    optimizer = torch.optim.AdamW(own.parameters())
    own(torch.rand(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    ema = ModelEmaV2(averaged)
    saver = CheckpointSaver(
        own, optimizer, arguments, ema, checkpoint_dir=tmp_path, recovery_dir=tmp_path
    )
    saver.save_checkpoint(3, metric=np.float64(81.5))
    path = tmp_path / "last.pth.tar"
    assert same(loaded(path), own)
    said = capsys.readouterr().out
    assert said == (
        f"{path}: weights of state_dict; --teacher-checkpoint-key takes state_dict_ema\n"
    )
    assert same(loaded(path, "state_dict_ema"), averaged)
    with pytest.raises(UserError, match="no state dict called ema; name one of state_dict, state_"):
        loaded(path, "ema")


def test_torchvisions_own_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    own, path = network(), tmp_path / "model_9.pth"
    averaged = AveragedModel(network(1))
    checkpoint = {
        "model": own.state_dict(),
        "optimizer": torch.optim.SGD(own.parameters(), 0.1, momentum=0.9).state_dict(),
        "lr_scheduler": {"step_size": 30, "_last_lr": [0.1]},
        "epoch": 9,
        "args": argparse.Namespace(data_path="/data", amp=False, nested=argparse.Namespace(a=1)),
        "model_ema": averaged.state_dict(),
        "scaler": {"scale": 65536.0},
    }
    torch.save(checkpoint, path)
    assert same(loaded(path), own)
    assert "weights of model; --teacher-checkpoint-key takes model_ema" in capsys.readouterr().out
    assert same(loaded(path, "model_ema"), averaged.module)


def test_a_key_that_nobody_else_uses(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    own, path = network(), tmp_path / "c.pth"
    torch.save({"weights_of_mine": own.state_dict(), "epoch": 3}, path)
    assert same(loaded(path), own)
    assert "weights of weights_of_mine\n" in capsys.readouterr().out
    torch.save({"best": own.state_dict(), "last": network(1).state_dict()}, path)
    with pytest.raises(
        UserError, match=r"several state dicts; name one of best, last with --teach"
    ):
        loaded(path)
    assert same(loaded(path, "best"), own)
    torch.save({"trainer": {"net": own.state_dict(), "step": 3}}, path)
    assert same(loaded(path), own)
    torch.save(own.state_dict(), path)
    with pytest.raises(UserError, match="holds one state dict; leave --teacher-checkpoint-key"):
        loaded(path, "model")


class Trainer:
    """Whatever a framework pickles beside its weights."""


def test_what_could_run_code_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.pth"
    torch.save({"model": network().state_dict(), "trainer": Trainer()}, path)
    with pytest.raises(UserError, match=r"never run: \S*test_weight_files\.Trainer\)") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_network_of_one_channel_is_shown_grey(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for name, first in (("timm:test_resnet.r160_in1k", "conv1.0"), ("small_resnet18:1", "conv1")):
        own, path = build_network(name, CLASSES), tmp_path / "c.pth"
        convolution = own.get_submodule(first)
        convolution.weight = nn.Parameter(convolution.weight[:, :1].clone())
        convolution.in_channels = 1
        torch.save(own.state_dict(), path)
        assert isinstance(with_weights(name, path, CLASSES), OneChannel)
        source = TeacherSource(name, path, resolution=32, mean=(0, 0, 0), std=(1, 1, 1))
        teacher = load_teacher(source, tuple("abcde"), (32, 32))
        assert teacher.input_format.channels == "grey"
        images = torch.rand(3, 3, 32, 32)
        grey = (images * torch.tensor([0.2989, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
        with torch.no_grad():
            expected = own.eval()(grey).log_softmax(dim=1)
        assert torch.allclose(teacher(images), expected, atol=1e-4)


def test_a_transformer_is_built_for_the_size_that_it_is_shown(tmp_path: Path) -> None:
    name, names, path = "timm:test_vit.r160_in1k", tuple("abcde"), tmp_path / "c.pth"
    for resolution, size in ((64, (16, 16)), (0, (32, 48)), (None, (16, 16))):
        shown = size if resolution == 0 else (resolution or 160,) * 2
        torch.save(build_network(name, CLASSES, shown).state_dict(), path)
        teacher = load_teacher(TeacherSource(name, path, resolution=resolution), names, size)
        assert teacher(torch.rand(2, 3, *shown)).shape == (2, CLASSES)
    with pytest.raises(UserError, match=r"cannot be built for images of 0") as caught:
        build_network("timm:swin_tiny_patch4_window7_224", CLASSES, (0, 0))
    assert "--teacher-resolution" in str(caught.value)
