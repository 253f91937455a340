"""Graphs from shared exports compute what the modules compute."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from supernet.block_graphs import network_graph, part_graph
from supernet.presets import preset_space
from supernet.space import Layer, SearchSpace
from supernet.student import Head, MBConv, Stem, Student


def with_statistics(part: nn.Module) -> nn.Module:
    """Eval mode, with BatchNorm statistics that are not the initial ones."""
    generator = torch.Generator().manual_seed(0)
    for module in part.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return part.eval()


@pytest.mark.parametrize(
    ("part", "channels"),
    [
        (Stem(6, 2), 3),
        (MBConv(5, 7, Layer(3, 2, False), 2, False, 8), 5),
        (MBConv(6, 6, Layer(5, 3, True), 1, True, 8), 6),
        (MBConv(9, 9, Layer(5, 1, True), 1, True, 10), 9),
        (Head(5, 11, 4), 5),
    ],
    ids=["stem", "first", "gated", "same structure, other widths", "head"],
)
@pytest.mark.parametrize(("batch", "size"), [(1, 8), (3, 13)])
def test_part_graph_equals_the_part(part: nn.Module, channels: int, batch: int, size: int) -> None:
    part = with_statistics(part)
    x = torch.rand(batch, channels, size, size, generator=torch.Generator().manual_seed(1))
    session = onnxruntime.InferenceSession(part_graph(part).SerializeToString())
    with torch.no_grad():
        expected = part(x).numpy()
    np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], expected, atol=2e-5)


def test_network_graph_is_the_whole_student(space: SearchSpace) -> None:
    """Its weights are those that a student made under the same seed has."""
    for architecture in (space.smallest(), space.largest()):
        torch.manual_seed(3)
        graph = network_graph(space, architecture)
        torch.manual_seed(3)
        student = Student(space, architecture).eval()
        session = onnxruntime.InferenceSession(graph.SerializeToString())
        images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = student(images).numpy()
        (logits,) = session.run(None, {graph.graph.input[0].name: images.numpy()})
        np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_shipped_presets_have_graphs_of_few_structures() -> None:
    space = preset_space("imagenet", 10)
    graph = network_graph(space, space.smallest())
    assert {node.op_type for node in graph.graph.node} >= {"Conv", "Relu", "Gemm"}
