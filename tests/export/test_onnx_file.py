"""The ONNX file is the module: same numbers at every batch size, one file, nothing private."""

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from base.errors import UserError
from export.onnx_file import add_metadata, read_metadata, to_onnx, write_onnx
from export.parity import onnx_logits, parity
from export.timing.unit_of_work import UnitOfWork
from supernet.presets import preset_space
from supernet.student import Student


class Block(nn.Module):
    """An inverted residual block with squeeze-excite."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.expand = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(),
            nn.Conv2d(wide, wide, 5, padding=2, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(),
        )
        self.gate = nn.Sequential(nn.Linear(wide, 4), nn.ReLU(), nn.Linear(4, wide), nn.Sigmoid())
        self.project = nn.Sequential(
            nn.Conv2d(wide, channels, 1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.expand(x)
        return x + self.project(h * self.gate(h.mean(dim=(2, 3)))[:, :, None, None])


class Net(nn.Module):
    """Normalisation, stem, two blocks, head: [B, 3, H, W] -> [B, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.4))
        self.register_buffer("std", torch.full((1, 3, 1, 1), 0.2))
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        )
        self.blocks = nn.Sequential(Block(8), Block(8))
        self.classifier = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 10))

    def forward(self, images: Tensor) -> Tensor:
        features = self.blocks(self.stem((images - self.mean) / self.std))
        return self.classifier(features.mean(dim=(2, 3)))


def make_net() -> Net:
    torch.manual_seed(0)
    net = Net()
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.5)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
            nn.init.uniform_(part.weight, 0.5, 2.0)
            nn.init.normal_(part.bias, std=0.5)
    return net.eval()


UNIT = UnitOfWork(1, (16, 16))
METADATA = {"classes": '["zero", "ünits"]', "target_ms": "20"}


@pytest.fixture(scope="module")
def net() -> Net:
    return make_net()


@pytest.fixture(scope="module")
def path(net: Net, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("student") / "student.onnx"
    write_onnx(net, torch.rand(1, 3, 16, 16), path, METADATA)
    return path


@pytest.mark.parametrize("batch", [1, 7])
def test_the_file_equals_the_module_at_any_batch_size(net: Net, path: Path, batch: int) -> None:
    images = torch.rand(batch, 3, 16, 16)
    result = parity(net(images), onnx_logits(path, [images], UNIT))
    assert result.passed, result
    assert result.images == batch


def test_parity_is_judged_on_the_cpu_whatever_the_provider(net: Net, path: Path) -> None:
    unit = UnitOfWork(1, (16, 16), provider="AbacusExecutionProvider")
    images = torch.rand(2, 3, 16, 16)
    assert parity(net(images), onnx_logits(path, [images], unit)).passed


def test_the_file_is_alone_valid_and_folded(path: Path) -> None:
    assert list(path.parent.iterdir()) == [path]
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    operators = {node.op_type for node in model.graph.node}
    assert "Conv" in operators
    assert not operators & {"BatchNormalization", "Reshape", "Shape", "Expand"}
    images, logits = model.graph.input[0], model.graph.output[0]
    assert (images.name, logits.name) == ("images", "logits")
    assert images.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert logits.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_metadata_round_trip_and_nothing_about_this_machine(path: Path) -> None:
    assert read_metadata(path) == METADATA
    assert Path(__file__).name.encode() not in path.read_bytes()


def test_export_is_silent_in_eval_mode_and_restores_every_mode(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    net = make_net().train()
    net.stem.eval()
    modes = [part.training for part in net.modules()]
    images = torch.rand(2, 3, 16, 16)
    model = to_onnx(net, images)
    onnx.save(model, tmp_path / "net.onnx")
    assert "Dropout" not in {node.op_type for node in model.graph.node}
    assert [part.training for part in net.modules()] == modes
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
    assert parity(net.eval()(images), onnx_logits(tmp_path / "net.onnx", [images], UNIT)).passed


@pytest.mark.parametrize("optimize", [True, False])
def test_every_free_axis_takes_any_size(net: Net, tmp_path: Path, optimize: bool) -> None:
    model = to_onnx(net, torch.rand(2, 3, 16, 16), dynamic=(0, 2, 3), optimize=optimize)
    onnx.save(model, tmp_path / "net.onnx")
    images = torch.rand(3, 3, 18, 24)
    assert parity(net(images), onnx_logits(tmp_path / "net.onnx", [images], UNIT)).passed


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "foreign"])
def test_a_damaged_file_is_refused_in_one_line(path: Path, tmp_path: Path, damage: str) -> None:
    whole = path.read_bytes()
    contents = {"empty": b"", "truncated": whole[: len(whole) // 2], "foreign": b"\x89PNG\r\n\x1a"}
    other = tmp_path / "other.onnx"
    if damage in contents:
        other.write_bytes(contents[damage])
    for read in (read_metadata, lambda path: onnx_logits(path, [torch.rand(1, 3, 16, 16)], UNIT)):
        with pytest.raises(UserError) as raised:
            read(other)
        assert str(other) in str(raised.value)
        assert "\n" not in str(raised.value)


def test_added_metadata_joins_the_old_and_leaves_the_graph(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    write_onnx(Net().eval(), torch.zeros(2, 3, 8, 8), path, {"a": "1", "b": "2"})
    graph = onnx.load(path).graph
    add_metadata(path, {"b": "3", "c": "4"})
    assert read_metadata(path) == {"a": "1", "b": "3", "c": "4"}
    assert onnx.load(path).graph == graph


def test_weights_in_channels_last_order_leave_no_trace_in_the_graph() -> None:
    """A student trained in that order must ship the same operations, and stay as it is."""
    space = preset_space("digits", 10)
    student, images = Student(space, space.smallest()), torch.zeros(2, 3, 16, 16)
    plain = [node.op_type for node in to_onnx(student, images).graph.node]
    student.to(memory_format=torch.channels_last)
    assert [node.op_type for node in to_onnx(student, images).graph.node] == plain
    weight = student.stages[0][0].depthwise[0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
