"""A network in int8: what it answers, and what the rounding costs, counted by hand."""

import copy
import math
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto
from torch import Tensor, nn

from base.errors import UserError
from base.phase import Phase
from export.onnx_file import to_onnx
from export.timing.unit_of_work import UnitOfWork
from kd.batches import LabelOutputs, LoaderSettings, endless
from kd.evaluate import calibration_images, predict
from kd.fit import FitSettings, fit
from kd.images.splits import Data, DataSettings, load_data
from kd.loss import label_loss
from kd.student.int8 import answers, in_int8

UNIT = UnitOfWork(1, (8, 8), precision="int8")
BATCH = 30


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data(DataSettings(resolution=(8, 8), limit=400))


def small_network(channels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(channels, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(16 * 64, 10)),
    )


@pytest.fixture(scope="module")
def network(data: Data) -> nn.Module:
    """It tells most digits right."""
    model, labels = small_network(), LabelOutputs(data.train, 10)

    def batches(start: int) -> object:
        return endless(data.train, labels, LoaderSettings(32, 6), torch.device("cpu"), start)

    fit(model, batches, label_loss, FitSettings(4, 0.05), 10, Phase("test"))
    return model.eval()


@pytest.fixture(scope="module")
def images(data: Data) -> list[Tensor]:
    return calibration_images(data.train, BATCH, 0, 4)


@pytest.mark.parametrize("precision", ["int8", "int8-signed"])
def test_an_int8_network_answers_nearly_the_same(
    network: nn.Module, images: list[Tensor], data: Data, precision: str
) -> None:
    """Its numbers are those of the answers of both, counted one by one."""
    unit = replace(UNIT, precision=precision)
    found = in_int8(network, network, images, data.search, unit, BATCH)
    zeros = {
        initializer.data_type
        for initializer in onnx.load_from_string(found.model).graph.initializer
        if initializer.name.endswith("zero_point") and not initializer.dims
    }
    assert zeros == {TensorProto.UINT8 if precision == "int8" else TensorProto.INT8}
    exact, labels = predict(network, data.search.view(None), BATCH)
    rounded = answers(found.model, data.search, unit, BATCH)
    assert rounded.shape == exact.shape == (len(data.search), 10)
    assert 0 < (rounded - exact).abs().mean() < 0.05 * exact.std()
    told, still = exact.argmax(1).tolist(), rounded.argmax(1).tolist()
    truth, count = labels.tolist(), len(labels)
    cost = found.rounding
    assert cost.fp32_accuracy == pytest.approx(sum(map(int.__eq__, told, truth)) / count)
    assert cost.accuracy == pytest.approx(sum(map(int.__eq__, still, truth)) / count)
    assert cost.agreement == pytest.approx(sum(map(int.__eq__, told, still)) / count)
    assert cost.lost == cost.fp32_accuracy - cost.accuracy
    assert cost.fp32_accuracy > 0.8
    assert cost.agreement > 0.95


def test_what_was_trained_on_is_compared_with_what_it_was(
    network: nn.Module, images: list[Tensor], data: Data
) -> None:
    """Else one that has got worse in fp32, too, would seem to lose nothing."""
    dull = copy.deepcopy(network)
    dull[-1].weight.detach().zero_()
    found = in_int8(dull, network, images, data.search, UNIT, BATCH).rounding
    assert found.fp32_accuracy > 0.8
    assert found.lost > 0.5
    assert in_int8(dull, dull, images, data.search, UNIT, BATCH).rounding.lost == 0


def test_the_network_stays_as_it_is(network: nn.Module, images: list[Tensor], data: Data) -> None:
    before = {name: part.clone() for name, part in network.state_dict().items()}
    in_int8(network, network, images, data.search, UNIT, BATCH)
    assert all(torch.equal(part, before[name]) for name, part in network.state_dict().items())
    assert not network.training


@pytest.mark.parametrize("from_file", [False, True])
def test_answers_are_to_the_plain_images_in_order(
    network: nn.Module, data: Data, tmp_path: Path, from_file: bool
) -> None:
    """Whatever version of them the split shows; a last batch may be smaller."""
    model = to_onnx(network, torch.zeros(2, 3, 8, 8)).SerializeToString()
    path = tmp_path / "model.onnx"
    path.write_bytes(model)
    unit = replace(UNIT, precision="fp32")
    found = answers(path if from_file else model, data.search.view(3), unit, 37)
    exact, _ = predict(network, data.search.view(None), BATCH)
    torch.testing.assert_close(found, exact, atol=1e-4, rtol=0)


def test_grey_images() -> None:
    data = load_data(DataSettings(resolution=(8, 8), channels=1, limit=100))
    images, unit = calibration_images(data.train, 20, 0, 2), replace(UNIT, channels=1)
    grey = small_network(1).eval()
    found = in_int8(grey, grey, images, data.search, unit, BATCH)
    x = onnx.load_from_string(found.model).graph.input[0].type.tensor_type.shape.dim
    assert x[1].dim_value == 1
    assert found.rounding.agreement > 0.8


def test_without_images_it_is_refused(network: nn.Module, data: Data) -> None:
    with pytest.raises(UserError, match="no calibration images"):
        in_int8(network, network, [], data.search, UNIT, BATCH)


def test_in_openvino(network: nn.Module, images: list[Tensor], data: Data) -> None:
    """The same file, run there; and bf16, which is fp32's file."""
    pytest.importorskip("openvino")
    unit = replace(UNIT, provider="openvino:CPU")
    found = in_int8(network, network, images, data.search, unit, BATCH)
    assert found.model == in_int8(network, network, images, data.search, UNIT, BATCH).model
    assert found.rounding.agreement > 0.95
    assert math.isfinite(found.rounding.error)
