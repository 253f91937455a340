"""Graphs from shared exports compute what the modules compute."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from base.size import Size
from export.onnx_file import to_onnx
from export.timing.unit_of_work import UnitOfWork
from supernet.latency.graphs import network_graph, part_graph, with_biases
from supernet.latency.parts import parts
from supernet.latency.runners import module_model
from supernet.presets import preset_space
from supernet.space import FUSED, MBCONV, Architecture, Layer, SearchSpace
from supernet.student import FusedMBConv, Head, MBConv, Stem, Student
from tests.tiny import mbconv

# Every structure once, and one of them twice: a part, and its channels.
PARTS = {
    "stem": (Stem(6, 2), 3),
    "first": (MBConv(5, 7, Layer(MBCONV, 3, 2, False), 2, False, 8), 5),
    "gated": (MBConv(6, 6, Layer(MBCONV, 5, 3, True), 1, True, 8), 6),
    "same structure, other widths": (MBConv(9, 9, Layer(MBCONV, 5, 3, True), 1, True, 10), 9),
    "separable": (MBConv(5, 7, Layer(MBCONV, 3, 1, True), 2, False, 8), 5),
    "fused": (FusedMBConv(5, 7, Layer(FUSED, 3, 2, False), 2, False, 8), 5),
    "fused, gated": (FusedMBConv(9, 9, Layer(FUSED, 3, 4, True), 1, True, 8), 9),
    "dense": (FusedMBConv(5, 7, Layer(FUSED, 3, 1, False), 1, False, 8), 5),
    "dense, gated": (FusedMBConv(6, 6, Layer(FUSED, 5, 1, True), 1, True, 8), 6),
    "head": (Head(5, 11, 4), 5),
    "classifier alone": (Head(5, 0, 4), 5),
    "head of vectors": (Head(5, 11, 4, unit_length=True), 5),
    "vectors alone": (Head(5, 0, 6, unit_length=True), 5),
}


def with_statistics(part: nn.Module) -> nn.Module:
    """Eval mode, with BatchNorm statistics that are not the initial ones."""
    generator = torch.Generator().manual_seed(0)
    for module in part.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return part.eval()


@pytest.mark.parametrize(("part", "channels"), PARTS.values(), ids=PARTS)
@pytest.mark.parametrize(("batch", "size"), [(1, (8, 8)), (3, (13, 6))])
def test_part_graph_equals_the_part(part: nn.Module, channels: int, batch: int, size: Size) -> None:
    part = with_statistics(part)
    x = torch.rand(batch, channels, *size, generator=torch.Generator().manual_seed(1))
    session = onnxruntime.InferenceSession(part_graph(part, size).SerializeToString())
    with torch.no_grad():
        expected = part(x).numpy()
    np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], expected, atol=2e-5)


@pytest.mark.parametrize("unit_length", [False, True])
@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 12, 7), (1, 8, 10)])
def test_network_graph_is_the_whole_student(
    space: SearchSpace, shape: tuple[int, ...], unit_length: bool
) -> None:
    """Its weights are those that a student made under the same seed has."""
    channels, *size = shape
    space = replace(space, resolution=tuple(size), channels=channels, unit_length=unit_length)
    for architecture in (space.smallest(), space.largest()):
        torch.manual_seed(3)
        graph = network_graph(space, architecture)
        torch.manual_seed(3)
        student = with_biases(Student(space, architecture)).eval()
        session = onnxruntime.InferenceSession(graph.SerializeToString())
        images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = student(images).numpy()
        (logits,) = session.run(None, {graph.graph.input[0].name: images.numpy()})
        np.testing.assert_allclose(logits, expected, atol=1e-5)


def biases(model: onnx.ModelProto) -> list[np.ndarray]:
    """Those of convolutions and of the classifier; none is left out."""
    values = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    assert layers
    return [values[node.input[2]] for node in layers]


def test_what_is_timed_has_biases(space: SearchSpace) -> None:
    """OpenVINO leaves out those of zeros, and is faster then than with the trained student."""
    graphs = [part_graph(part.module, part.size) for part in parts(space).values()]
    graphs += [network_graph(space, a) for a in (space.smallest(), space.largest())]
    unit = UnitOfWork(1, space.resolution)
    graphs += [module_model(Student(space, space.middle()), unit)]
    for graph in graphs:
        assert all(bias.all() for bias in biases(graph))


def test_biases_that_were_trained_stay() -> None:
    layer = nn.Linear(3, 2)
    known = layer.bias.detach().clone()
    assert with_biases(layer) is layer
    assert torch.equal(layer.bias, known)


def test_shipped_presets_have_graphs_of_few_structures() -> None:
    space = preset_space("imagenet", 10)
    graph = network_graph(space, space.smallest())
    assert {node.op_type for node in graph.graph.node} >= {"Conv", "Relu", "Gemm"}


def optimised(graph: onnx.ModelProto, path: Path) -> onnx.GraphProto:
    """What ONNX Runtime makes of a graph before it runs it on this CPU."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3  # errors only: it warns that the file suits this CPU alone
    onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return onnx.load(path).graph


def ops(graph: onnx.GraphProto) -> Counter[str]:
    return Counter(node.op_type for node in graph.node)


def fused_sums(graph: onnx.GraphProto) -> int:
    """Convolutions that add a fourth input to what they give out."""
    return sum(len(node.input) == 4 for node in graph.node if node.op_type.endswith("Conv"))


@pytest.mark.parametrize("gated", [False, True])
def test_the_sum_of_a_residual_block_is_fused_into_its_convolution(
    tmp_path: Path, gated: bool
) -> None:
    """Of a width that needs no layout of the runtime's own: only inside a network do others."""
    graph = part_graph(MBConv(9, 9, Layer(MBCONV, 3, 2, gated), 1, True, 8), (8, 8))
    assert ops(graph.graph)["Add"] == 1
    found = optimised(graph, tmp_path / "block.onnx")
    assert (ops(found)["Add"], fused_sums(found)) == (0, 1)


def test_the_sums_of_a_network_are_fused_where_sizes_are_known(tmp_path: Path) -> None:
    """One in every gated MBConv that has stride 1 and keeps its width.

    Without a gate it is fused where sizes are not known, too.
    """
    digits, gated = preset_space("digits", 10), mbconv((3, 5), (2, 4), (False, True))
    stages = (replace(stage, operations=(gated,)) for stage in digits.stages)
    space = replace(digits, stages=tuple(stages))
    student = Student(space, space.largest())
    sums = sum(block.residual for blocks in student.stages for block in blocks)
    graph = network_graph(space, space.largest())
    assert ops(graph.graph)["Add"] == sums >= 5
    found = optimised(graph, tmp_path / "network.onnx")
    assert (ops(found)["Add"], fused_sums(found)) == (0, sums)
    for axis in (2, 3):
        graph.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"size{axis}"
    assert ops(optimised(graph, tmp_path / "unknown.onnx"))["Add"] == sums


@pytest.mark.parametrize("end", ["smallest", "middle", "largest"])
def test_a_chained_network_is_optimised_as_the_exported_one(end: str, tmp_path: Path) -> None:
    """So that a student timed by its graph costs what the shipped file costs."""
    space = preset_space("digits", 10)
    architecture: Architecture = getattr(space, end)()
    student = with_statistics(Student(space, architecture))
    exported = to_onnx(student, torch.zeros(2, *space.image_shape))
    chained = ops(optimised(network_graph(space, architecture), tmp_path / "chained.onnx"))
    assert chained == ops(optimised(exported, tmp_path / "exported.onnx"))
