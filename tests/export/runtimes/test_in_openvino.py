"""OpenVINO runs what ONNX Runtime runs, and to the last digits where fp32 is asked for."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

pytest.importorskip("openvino")

from base.errors import UserError
from export.int8.quantise import quantised
from export.onnx_file import to_onnx
from export.runtimes import in_onnxruntime, in_openvino
from export.runtimes.network import Network
from export.timing.unit_of_work import UnitOfWork

UNIT = UnitOfWork(2, (12, 12), provider="openvino:CPU")
HAS_BF16 = "BF16" in in_openvino._core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    """A small network whose answers are about as large as those of a classifier."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten()]
    return to_onnx(nn.Sequential(*layers, nn.Linear(16 * 64, 10)), torch.zeros(2, 3, 12, 12))


def batches(*sizes: int) -> Iterator[np.ndarray]:
    draws = np.random.default_rng(0)
    return (10 * draws.random((size, 3, 12, 12), np.float32) for size in sizes)


def answers(model: bytes | Path, unit: UnitOfWork, *sizes: int) -> np.ndarray:
    runtime = in_openvino if unit.runtime == "openvino" else in_onnxruntime
    return np.concatenate(list(runtime.logits(model, batches(*sizes), unit)))


def test_logits_in_fp32_are_onnxruntimes(model: onnx.ModelProto, tmp_path: Path) -> None:
    """Whatever the batch, and from a file as well."""
    content = model.SerializeToString()
    found = answers(content, UNIT, 2, 5, 1, 2)
    assert found.shape == (10, 10)
    exact = answers(content, UnitOfWork(2, (12, 12)), 2, 5, 1, 2)
    np.testing.assert_allclose(found, exact, atol=1e-4)
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert np.array_equal(answers(path, UNIT, 2, 5, 1, 2), found)


@pytest.mark.skipif(not HAS_BF16, reason="this processor has no bf16")
def test_left_alone_it_takes_bf16(model: onnx.ModelProto) -> None:
    """So the hint of fp32 is what makes it exact; that of bf16 changes nothing."""
    content = model.SerializeToString()
    exact, rounded = (answers(content, replace(UNIT, precision=p), 4) for p in ("fp32", "bf16"))
    compiled = in_openvino._core().compile_model(in_openvino._opened(content), "CPU")
    (alone,) = (compiled(batch)[0].copy() for batch in batches(4))
    np.testing.assert_allclose(rounded, alone, atol=1e-4)
    off = np.abs(rounded - exact).max() / np.abs(exact).max()
    assert 1e-4 < off < 0.05


def test_int8_is_near_fp32(model: onnx.ModelProto) -> None:
    """And near what ONNX Runtime makes of the same file: a few steps of a tensor's 256."""
    seen = [torch.from_numpy(batch) for batch in batches(32)]
    content = quantised(model, seen).SerializeToString()
    units = replace(UNIT, precision="int8"), UnitOfWork(2, (12, 12), precision="int8")
    there, here = (answers(content, unit, 16) for unit in units)
    exact = answers(model.SerializeToString(), UNIT, 16)
    span = exact.max() - exact.min()
    assert 0 < np.abs(there - exact).max() < 0.1 * span
    assert np.abs(there - here).max() < 4 / 255 * span


IDENTITY = (
    '<ir_version: 10, opset_import: ["": 20]> g ({0}[{1}] x) => ({0}[{1}] y) {{ y = {2}(x) }}'
)


def parsed(kind: str, dimensions: str, operation: str = "Identity") -> bytes:
    text = IDENTITY.format(kind, dimensions, operation)
    return onnx.parser.parse_model(text).SerializeToString()


@pytest.mark.parametrize(
    ("kind", "least", "most"), [("float", 0, 1), ("uint8", 0, 255), ("int8", -128, 127)]
)
@pytest.mark.parametrize("dimensions", ["N, 3, 12, 12", "N, 3, H, W", "2, 3, 12, 12"])
def test_a_runner_runs_random_images_of_the_units_shape(
    kind: str, least: int, most: int, dimensions: str
) -> None:
    """Compiled for that shape, free or not in the file; those of another model are the same."""
    infer = in_openvino.runner(Network((3, 12, 12), lambda: parsed(kind, dimensions)), UNIT)
    infer()
    images = request_of(infer).get_input_tensor().data
    assert images.shape == (2, 3, 12, 12)
    assert request_of(infer).get_compiled_model().input(0).partial_shape.is_static
    assert least <= images.min() < least + (most - least) / 8
    assert most >= images.max() > most - (most - least) / 8
    assert np.array_equal(request_of(infer).get_output_tensor().data, images)


def request_of(infer: Callable) -> object:
    return infer.__self__


def test_a_runner_takes_the_units_hints_and_how_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it compiles with is what a program is told to compile with."""
    core, told = in_openvino._core(), []

    class Recorded:
        def compile_model(self, model: object, device: str, hints: dict) -> object:
            told.append((device, dict(hints)))
            return core.compile_model(model, device, hints)

        def __getattr__(self, name: str) -> object:
            return getattr(core, name)

    monkeypatch.setattr(in_openvino, "_core", Recorded)
    expected = {"fp32": "f32", "int8": "f32"} | ({"bf16": "bf16"} if HAS_BF16 else {})
    for precision, hint in expected.items():
        unit = replace(UNIT, precision=precision, threads=3)
        in_openvino.runner(Network((3, 12, 12), lambda: parsed("float", "N,3,H,W")), unit)
        list(in_openvino.logits(parsed("float", "N,3,H,W"), batches(1), unit))
        (device, hints), again = told
        assert again == (device, hints)
        assert hints["INFERENCE_PRECISION_HINT"] == hint
        assert hints["INFERENCE_NUM_THREADS"] == 3
        said = in_openvino.how(unit)
        assert repr(device) in said
        assert said.endswith(", ".join(f"{name}={value}" for name, value in hints.items()))
        told.clear()


def test_of_another_device_only_what_it_has_is_hinted() -> None:
    """Threads and pinning are the CPU's."""
    said = in_openvino.how(replace(UNIT, provider="openvino:GPU"))
    assert "'GPU'" in said
    assert "THREADS" not in said


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    missing, broken = tmp_path / "missing.onnx", tmp_path / "broken.onnx"
    broken.write_bytes(parsed("float", "N, 3, H, W")[:-20] + b"damage" * 9)
    for path in (missing, broken):
        with pytest.raises(UserError, match=rf"{path.name}: OpenVINO cannot open it.*make it") as e:
            list(in_openvino.logits(path, batches(1), UNIT))
        assert "\n" not in str(e.value)
        with pytest.raises(UserError, match=path.name):
            in_openvino.runner(Network((3, 12, 12), lambda path=path: path), UNIT)


def test_where_it_ran_is_told() -> None:
    told = in_openvino.machine(UNIT)
    assert told.keys() == {"openvino", "device"}
    assert all(told.values())
