"""Parts quantised once a structure are what the quantiser would make of each of them."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import nn

from export.int8.quantise import quantised
from export.runtimes import in_openvino
from export.runtimes.network import Network
from export.runtimes.onnx_session import onnx_session
from supernet.latency.graphs import folded_weights, network_graph, part_graph
from supernet.latency.int8_graphs import SUFFIX, int8_part_graph
from supernet.latency.kit import PERIOD, with_repeated_weights
from supernet.latency.runners import one_part
from supernet.latency.structures import channels_into
from supernet.presets import preset_space
from supernet.space import MBCONV, Architecture, Layer, SearchSpace
from supernet.student import Head, MBConv, Stem
from tests.supernet.latency.test_graphs import PARTS, ops, optimised, with_statistics
from tests.tiny import UNIT

# What OpenVINO says of a layer that it runs.
LAYER = ("layerType", "runtimePrecision")
KINDS = {False: TensorProto.UINT8, True: TensorProto.INT8}
# Students that give vectors ship in fp32 alone.
OWN = {name: part for name, (part, _) in PARTS.items() if "vectors" not in name}
ALL = {**OWN, "grey stem": Stem(5, 1, channels=1)}
SIZE = (8, 8)


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {value.name: numpy_helper.to_array(value) for value in model.graph.initializer}


def whole(part: nn.Module) -> onnx.ModelProto:
    """A part quantised by itself, on images of its own: x is rounded here, not before."""
    x = torch.rand(16, channels_into(part), *SIZE, generator=torch.Generator().manual_seed(1))
    return quantised(part_graph(part, SIZE), [x])


@pytest.fixture(scope="module", params=ALL)
def part(request: pytest.FixtureRequest) -> nn.Module:
    return with_statistics(ALL[request.param])


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("batch", "size"), [(1, (8, 8)), (3, (13, 6))])
def test_parts_take_and_give_whole_numbers(
    part: nn.Module, signed: bool, batch: int, size: tuple[int, int]
) -> None:
    """But a stem takes images, and a head gives logits; for any batch."""
    model = int8_part_graph(part, size, signed)
    onnx.checker.check_model(model, full_check=True)
    (x,), (y,) = model.graph.input, model.graph.output
    kind = KINDS[signed]
    assert x.type.tensor_type.elem_type == (TensorProto.FLOAT if isinstance(part, Stem) else kind)
    assert y.type.tensor_type.elem_type == (TensorProto.FLOAT if isinstance(part, Head) else kind)
    images = np.random.default_rng(0).random((batch, channels_into(part), *size), np.float32)
    if not isinstance(part, Stem):
        images = (100 * images).astype(np.int8 if signed else np.uint8)
    (found,) = onnx_session(model.SerializeToString()).run(None, {x.name: images})
    plain = part(torch.from_numpy(images.astype(np.float32)))
    assert found.shape == tuple(plain.shape)
    assert found.std() > 0


def test_weights_are_those_of_the_part_rounded(part: nn.Module) -> None:
    """By numpy: to 127 steps either side of 0, for each output channel; groups are the part's."""
    model, own = int8_part_graph(part, SIZE), folded_weights(part)
    known = constants(model)
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    makers = {name: node for node in model.graph.node for name in node.output}
    seen = set()
    for layer in layers:
        data, weight, bias = (makers[name].input for name in layer.input)
        exact = own[weight[0].removesuffix(SUFFIX)].numpy().astype(np.float64)
        steps = known[weight[1]].reshape(-1, *[1] * (exact.ndim - 1))
        largest = np.abs(exact).reshape(len(exact), -1).max(axis=1)
        np.testing.assert_allclose(known[weight[1]], largest / 127, rtol=1e-6)
        assert known[weight[0]].dtype == np.int8
        assert known[weight[0]].shape == exact.shape
        assert np.abs(known[weight[0]] * steps - exact).max() <= 0.5001 * steps.max()
        assert (np.abs(known[weight[0]] * steps - exact) <= 0.5001 * steps).all()
        assert not known[weight[2]].any()
        exact = own[bias[0].removesuffix(SUFFIX)].numpy()
        np.testing.assert_allclose(known[bias[1]], known[weight[1]] * known[data[1]], rtol=1e-6)
        assert known[bias[0]].dtype == np.int32
        # Of a hundred thousand steps, as many as a bias has, fp32 loses some hundredths.
        off = np.abs(known[bias[0]] * known[bias[1]].astype(np.float64) - exact)
        assert (off <= 0.5001 * known[bias[1]] + 3e-7 * np.abs(exact)).all()
        seen |= {weight[0].removesuffix(SUFFIX), bias[0].removesuffix(SUFFIX)}
    ours = [m for m in part.modules() if isinstance(m, nn.Conv2d)]
    groups = [a.i for layer in layers for a in layer.attribute if a.name == "group"]
    assert sorted(groups) == sorted(conv.groups for conv in ours)
    statistics = ("running_mean", "running_var", "num_batches_tracked", ".1.weight", ".1.bias")
    assert seen == {name for name in own if not name.endswith(statistics)}


def test_it_is_what_the_quantiser_makes_of_the_part(part: nn.Module) -> None:
    """The same weights to the bit; with its ranges, whole numbers that are the fp32 part's."""
    ours, theirs = int8_part_graph(part, SIZE), whole(part)
    # What only a mean is taken of is not rounded, but inside a network it is.
    unrounded = {"x_scale": np.float32(1 / 255), "x_zero_point": np.uint8(0)}
    own, known = constants(ours), unrounded | constants(theirs)
    (x,) = ours.graph.input
    start = "x" if isinstance(part, Stem) else "before"
    for value in ours.graph.initializer:
        name = f"x{value.name.removeprefix(start)}" if start in value.name else value.name
        if value.name.endswith(("weight_quantized", "weight_scale", "weight_zero_point")):
            off = own[value.name].astype(float) - known[name]
            # A weight between two steps may go either way.
            assert np.abs(off).max() <= (1 if "quantized" in name else 1e-6)
            assert (off != 0).mean() < 0.01 or "scale" in name
        value.CopyFrom(numpy_helper.from_array(known[name], value.name))
    images = torch.rand(4, channels_into(part), *SIZE, generator=torch.Generator().manual_seed(2))
    taken = images.numpy()
    if not isinstance(part, Stem):
        taken = (
            np.rint(taken / known["x_scale"] + known["x_zero_point"]).clip(0, 255).astype(np.uint8)
        )
    (found,) = onnx_session(ours.SerializeToString()).run(None, {x.name: taken})
    if not isinstance(part, Head):
        found = known["y_scale"] * (found.astype(np.float32) - known["y_zero_point"])
    (expected,) = onnx_session(theirs.SerializeToString()).run(None, {"x": images.numpy()})
    np.testing.assert_allclose(found, expected, atol=1.001 * known["y_scale"])
    with torch.no_grad():
        exact = part(images).numpy()
    assert np.abs(found - exact).mean() < 0.05 * exact.std()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    ("channels", "end"), [(3, "smallest"), (3, "middle"), (3, "largest"), (1, "middle")]
)
def test_a_chained_network_is_the_quantised_one(
    channels: int, end: str, signed: bool, tmp_path: Path
) -> None:
    """The same operations as written and as ONNX Runtime runs them, so it costs the same.

    All convolutions are of whole numbers then, but for signed activations on some processors.
    """
    space = replace(preset_space("digits", 10), channels=channels)
    architecture: Architecture = getattr(space, end)()
    unit = replace(UNIT, precision="int8-signed" if signed else "int8")
    chained = network_graph(space, architecture, one_part(unit))
    images = torch.rand(2, *space.image_shape, generator=torch.Generator().manual_seed(1))
    exact = network_graph(space, architecture)
    expected = quantised(exact, [images], signed)
    assert ops(chained.graph) == ops(expected.graph)
    runs = [optimised(m, tmp_path / f"{i}.onnx") for i, m in enumerate((chained, expected))]
    assert ops(runs[0]) == ops(runs[1])
    assert signed or ops(runs[0])["QLinearConv"] == ops(exact.graph)["Conv"] > 0


def test_openvino_runs_a_chained_network_as_the_quantised_one() -> None:
    """Layers of the same kinds in the same precisions."""
    pytest.importorskip("openvino")
    space = preset_space("digits", 10)
    unit = replace(UNIT, provider="openvino:CPU", precision="int8")
    images = torch.rand(2, *space.image_shape, generator=torch.Generator().manual_seed(1))
    exact = network_graph(space, space.middle())
    models = network_graph(space, space.middle(), one_part(unit)), quantised(exact, [images])
    kinds = []
    for model in models:
        network = Network(space.image_shape, lambda model=model: model.SerializeToString())
        request = in_openvino.runner(network, unit).__self__
        layers = request.get_compiled_model().get_runtime_model().get_ops()
        told = [tuple(o.get_rt_info()[k].astype(str) for k in LAYER) for o in layers]
        kinds.append(Counter(told))
    assert kinds[0] == kinds[1]
    assert {"i8", "u8"} & {precision for kind, precision in kinds[0] if kind == "Convolution"}


def test_another_part_of_the_structure_leaves_the_first_alone() -> None:
    """What is shared is copied, not filled in place."""
    first, other = (with_statistics(PARTS[n][0]) for n in ("gated", "same structure, other widths"))
    before = int8_part_graph(first, SIZE)
    content = before.SerializeToString()
    int8_part_graph(other, (5, 5))
    assert before.SerializeToString() == content == int8_part_graph(first, SIZE).SerializeToString()


def test_channels_of_nothing_but_zeros_stay_zero() -> None:
    part = with_statistics(MBConv(5, 7, Layer(MBCONV, 3, 2, False), 1, False, 8))
    with torch.no_grad():
        part.project[0].weight[2] = 0
    known = constants(int8_part_graph(part, SIZE))
    assert not known["project.0.weight_quantized"][2].any()
    assert known["project.0.weight_scale"][2] > 0


def test_repeated_weights_stay_whole_and_in_range(space: SearchSpace) -> None:
    """As spread as before, so that a kit's models cost what they cost at home."""
    part = with_statistics(MBConv(40, 40, Layer(MBCONV, 5, 3, True), 1, True, 10))
    model = int8_part_graph(part, SIZE)
    before = constants(model)
    after = constants(with_repeated_weights(model))
    large = [n for n, a in before.items() if a.dtype == np.int8 and a.size > PERIOD]
    assert len(large) >= 3
    for name in large:
        assert after[name].dtype == np.int8
        assert after[name].min() >= -127
        assert len(np.unique(after[name])) > 50
        assert after[name].std() == pytest.approx(before[name].std(), rel=0.15)
    for name in before.keys() - set(large):
        assert np.array_equal(after[name], before[name])
    onnx.checker.check_model(model, full_check=True)
