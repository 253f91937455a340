"""Structures that were exported together are what each would be alone."""

import onnx
import pytest
import torch
from onnx import numpy_helper

from export.onnx_file import exported, to_onnx
from supernet.latency import structures as module
from supernet.latency.parts import parts, structures
from supernet.latency.runners import student_model
from supernet.latency.structures import channels_into, export_together, graph_of, structure
from supernet.presets import preset_space
from supernet.space import SearchSpace
from tests.tiny import UNIT


def outline(model: onnx.ModelProto) -> tuple[object, ...]:
    """Operations with their attributes, what each takes by position, and the weights' shapes."""
    graph = model.graph
    known = {name: i for i, node in enumerate(graph.node) for name in node.output}
    # The exporter numbers its own constants, which are told by their values.
    weights = {
        one.name: (one.name, *one.dims) if "." in one.name else str(numpy_helper.to_array(one))
        for one in graph.initializer
    }
    nodes = [
        (
            node.op_type,
            sorted(attribute.SerializeToString() for attribute in node.attribute),
            [(known | weights).get(name, name) for name in node.input],
        )
        for node in graph.node
    ]
    ends = (graph.input[0].name, graph.input[0].type, graph.output[0].name)
    return nodes, sorted(map(str, weights.values())), ends


@pytest.mark.parametrize(("preset", "every"), [("digits", 1), ("imagenet", 4)])
def test_exported_together_each_is_what_it_is_alone(
    preset: str, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = preset_space(preset, 10)
    monkeypatch.setattr(module, "_GRAPHS", {})
    export_together(structures(space))
    assert set(module._GRAPHS) == {structure(part.module) for part in parts(space).values()}
    for kind in structures(space)[::every]:
        part = module._folded(module._smallest_of(kind))
        generator = torch.Generator().manual_seed(1)
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, generator=generator)
        example = torch.zeros(2, channels_into(part), 16, 16)
        assert outline(graph_of(kind)) == outline(
            to_onnx(part, example, input_name="x", output_name="y")
        )


def test_a_space_is_exported_once(space: SearchSpace, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(module, "_GRAPHS", {})
    monkeypatch.setattr(module, "exported", lambda *own: calls.append(own) or exported(*own))
    for architecture in (space.smallest(), space.middle(), space.largest()):
        student_model(space, architecture, UNIT)
    assert len(calls) == 1


def test_a_structure_is_the_same_in_any_company(
    space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its placeholders too, which the scales of its int8 graph come from."""
    kinds = structures(space)[:3]
    found = []
    for company in (kinds, kinds[1:2]):
        monkeypatch.setattr(module, "_GRAPHS", {})
        export_together(company)
        weights = graph_of(kinds[1]).graph.initializer
        found.append({w.name: w.raw_data for w in weights if "." in w.name})
    assert found[0] == found[1]
    assert found[0]
