"""The int8 file is the fp32 one on a grid, and nothing else changes."""

import hashlib
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from base.errors import UserError
from export.int8.quantise import quantised
from export.onnx_file import to_onnx
from export.runtimes.onnx_session import onnx_session
from tests.smoke import ROOT

SIZE = (3, 6, 6)
INTEGERS = {TensorProto.UINT8: (0, 255), TensorProto.INT8: (-128, 127)}


@pytest.fixture(scope="module")
def conv() -> nn.Module:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3)
    with torch.no_grad():
        layer.weight *= torch.tensor([1.0, 0.1, 3.0, 0.01])[:, None, None, None]
    return layer


@pytest.fixture(scope="module")
def images() -> list[Tensor]:
    return list(torch.randn(4, 8, *SIZE, generator=torch.Generator().manual_seed(1)))


def model_of(module: nn.Module) -> onnx.ModelProto:
    model = to_onnx(module, torch.zeros(2, *SIZE))
    onnx.helper.set_model_props(model, {"classes": '["a", "b"]', "unit": "32 images"})
    return model


def run(model: onnx.ModelProto, images: Tensor) -> Tensor:
    session = onnx_session(model.SerializeToString())
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def constants(model: onnx.ModelProto) -> dict[str, TensorProto]:
    return {value.name: value for value in model.graph.initializer}


def test_a_convolution_is_rounded_as_its_scales_say(conv: nn.Module, images: list[Tensor]) -> None:
    """Input, weights and output each on their grid; the error is no larger than the steps allow."""
    model = quantised(model_of(conv), images)
    known = {name: numpy_helper.to_array(value) for name, value in constants(model).items()}
    nodes = model.graph.node
    (weight,) = (node for node in nodes if known.get(node.input[0], np.empty(0)).ndim == 4)
    steps = [node.input[1:3] for node in nodes if node.op_type == "QuantizeLinear"]
    (x_step, x_zero), (y_step, y_zero) = ((known[scale], known[zero]) for scale, zero in steps)

    def rounded(x: Tensor, step: np.ndarray, zero: np.ndarray) -> Tensor:
        whole = ((x / step.item()).round() + int(zero)).clamp(0, 255)
        return (whole - int(zero)) * step.item()

    w_step = known[weight.input[1]]
    assert w_step.shape == (4,)
    largest = conv.weight.detach().abs().flatten(1).amax(1)
    torch.testing.assert_close(torch.tensor(w_step), largest / 127)
    w_step = torch.tensor(w_step)[:, None, None]
    w = torch.tensor(known[weight.input[0]]) * w_step[..., None]
    x = torch.cat(images)
    found = run(model, x)
    with torch.no_grad():
        plain = conv(x)
        y = nn.functional.conv2d(rounded(x, x_step, x_zero), w, conv.bias)
        expected = rounded(y, y_step, y_zero)
    # A sum that lies between two steps may go either way.
    assert ((found - expected).abs() > 1e-5).double().mean() < 1e-3
    assert (found - expected).abs().max() < 1.001 * y_step
    with torch.no_grad():
        off = x_step.item() / 2 * w.abs().sum((1, 2, 3))[:, None, None]
        off = off + nn.functional.conv2d(x.abs(), torch.ones_like(w)) * w_step / 2
    assert ((found - plain).abs() <= 1.01 * (off + y_step.item() / 2)).all()


@pytest.mark.parametrize(("signed", "kind"), [(False, TensorProto.UINT8), (True, TensorProto.INT8)])
def test_integers_are_of_the_kind_asked_for(
    conv: nn.Module, images: list[Tensor], signed: bool, kind: int
) -> None:
    model = quantised(model_of(nn.Sequential(conv, nn.ReLU())), images, signed)
    known = constants(model)
    zeros = [known[n.input[2]] for n in model.graph.node if n.op_type == "QuantizeLinear"]
    assert [zero.data_type for zero in zeros] == [kind, kind]
    assert numpy_helper.to_array(zeros[1]) == INTEGERS[kind][0]  # nothing is below 0
    weights = [value for value in known.values() if len(value.dims) == 4]
    assert [weight.data_type for weight in weights] == [TensorProto.INT8]


def test_the_given_model_stays_and_its_metadata_are_kept(
    conv: nn.Module, images: list[Tensor]
) -> None:
    given = model_of(conv)
    before = given.SerializeToString()
    model = quantised(given, images)
    assert given.SerializeToString() == before
    assert list(model.metadata_props) == list(given.metadata_props)
    domains = [entry.domain for entry in model.opset_import]
    assert len(domains) == len(set(domains))


def test_it_leaves_no_trace(
    conv: nn.Module,
    images: list[Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    """No line, no log, no file, and no folder's name inside the model."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    handlers = list(logging.root.handlers)
    content = quantised(model_of(conv), images).SerializeToString()
    assert capfd.readouterr() == ("", "")
    assert logging.root.handlers == handlers
    assert not list(tmp_path.iterdir())
    for name in (str(tmp_path), str(ROOT), str(Path.home()), "site-packages"):
        assert name.encode() not in content


def digest() -> str:
    torch.manual_seed(0)
    seen = torch.randn(2, 4, *SIZE)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Sigmoid())
    return hashlib.sha256(quantised(model_of(net), seen).SerializeToString()).hexdigest()


def test_it_is_the_same_to_the_byte_in_every_process() -> None:
    """Sets of names have another order in every process."""
    told = subprocess.run(
        [sys.executable, "-c", f"from {__name__} import digest; print(digest())"],
        env=os.environ | {"PYTHONHASHSEED": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == f"{digest()}\n"


def test_no_images_and_images_that_do_not_fit_are_one_line(conv: nn.Module) -> None:
    for none in ([], [torch.zeros(0, *SIZE)]):
        with pytest.raises(UserError, match="no calibration images, expected a batch or more"):
            quantised(model_of(conv), none)
    with pytest.raises(UserError, match=r"cannot quantise this model \(.*keep it in fp32$") as told:
        quantised(model_of(conv), [torch.zeros(2, 1, 6, 6)])
    assert "\n" not in str(told.value)


def test_what_images_raise_is_not_taken_for_the_quantiser(conv: nn.Module) -> None:
    def images() -> object:
        yield torch.zeros(2, *SIZE)
        raise UserError("cat.png: damaged")

    with pytest.raises(UserError, match=r"^cat\.png: damaged$"):
        quantised(model_of(conv), images())
