"""The graphs inside a kit: those that are timed at home, valid, and fit for the quantiser."""

import json
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, quantize_static

from export.timing.unit_of_work import UnitOfWork
from supernet.latency.graphs import part_graph
from supernet.latency.kit import (
    PERIOD,
    list_graphs,
    with_repeated_weights,
    write_kit,
)
from supernet.latency.plan import timing_plan
from supernet.space import MBCONV, Layer, SearchSpace
from supernet.student import MBConv

UNIT = UnitOfWork(batch=2, resolution=(8, 8))


@pytest.fixture(scope="module", params=["fp32", "int8", "int8-signed"])
def unit(request: pytest.FixtureRequest) -> UnitOfWork:
    return replace(UNIT, precision=request.param)


@pytest.fixture(scope="module")
def kit(space: SearchSpace, unit: UnitOfWork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kit") / "kit.zip"
    write_kit(path, timing_plan(space, 0), unit)
    return path


def test_graphs_of_a_kit_are_those_that_are_timed_at_home(
    kit: Path, unit: UnitOfWork, space: SearchSpace
) -> None:
    """The same operations on weights of the same shapes."""

    def form(graph: onnx.GraphProto) -> tuple[Counter, list]:
        weights = [(tuple(w.dims), w.data_type) for w in graph.initializer]
        return Counter(node.op_type for node in graph.node), weights

    graphs = list(list_graphs(timing_plan(space, 0), unit))
    with zipfile.ZipFile(kit) as content:
        for i, (_, graph, *_) in enumerate(graphs):
            packed = onnx.load_from_string(content.read(f"graphs/{i}.onnx"))
            assert form(packed.graph) == form(graph.graph)
        assert f"graphs/{len(graphs)}.onnx" not in content.namelist()


class Noise(CalibrationDataReader):
    """One batch to calibrate on."""

    def __init__(self, name: str, shape: list[int]) -> None:
        images = np.random.default_rng(0).random((2, *shape), np.float32)
        self.left = iter([{name: images}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.left, None)


def test_every_graph_of_a_kit_is_valid_and_in_its_precision(
    kit: Path, unit: UnitOfWork, tmp_path: Path
) -> None:
    """Those in fp32 can be quantised."""
    with zipfile.ZipFile(kit) as content:
        manifest = json.loads(content.read("manifest.json"))
        entries = [*manifest["graphs"].values(), manifest["reference"]]
        graphs = [(content.read(entry["file"]), entry["shape"]) for entry in entries]
    written, quantised = tmp_path / "graph.onnx", tmp_path / "quantised.onnx"
    for graph, shape in graphs:
        model = onnx.load_from_string(graph)
        onnx.checker.check_model(model, full_check=True)
        if not unit.is_int8:
            written.write_bytes(graph)
            quantize_static(written, quantised, Noise(model.graph.input[0].name, shape))
            model = onnx.load(quantised)
        kinds = {node.op_type for node in model.graph.node}
        assert {"QuantizeLinear", "DequantizeLinear"} <= kinds


def test_repeated_weights_keep_shape_size_and_operations() -> None:
    graph = part_graph(MBConv(40, 40, Layer(MBCONV, 5, 3, True), 1, True, 10), (8, 8))
    before = {w.name: numpy_helper.to_array(w) for w in graph.graph.initializer}
    ops = [node.op_type for node in graph.graph.node]
    repeated = with_repeated_weights(graph)
    assert [node.op_type for node in repeated.graph.node] == ops
    after = {w.name: numpy_helper.to_array(w) for w in repeated.graph.initializer}
    large = {name for name, array in before.items() if array.size > PERIOD}
    assert large
    for name, array in before.items():
        assert after[name].shape == array.shape
        assert after[name].dtype == array.dtype
        if name in large:
            assert len(np.unique(after[name])) <= PERIOD
            assert after[name].std() == pytest.approx(array.std(), rel=0.2)
        else:
            assert np.array_equal(after[name], array)
    session = onnxruntime.InferenceSession(repeated.SerializeToString())
    (y,) = session.run(None, {"x": np.ones((2, 40, 8, 8), np.float32)})
    assert np.isfinite(y).all()
    assert np.abs(y).max() > 0
