"""The same graphs in int8: each structure is quantised once, and filled with a part's own weights.

Quantising takes a second, and a space has hundreds of blocks. A part takes and gives whole numbers,
as it does inside a network; a stem takes images, a head gives logits. The scales of activations are
made up: they cost what true ones cost. Where parts meet they are the same for all, as the one
tensor there has one scale: ONNX Runtime does not fuse what is rounded and read in two ways.
"""

from functools import cache

import numpy as np
import onnx
import torch
from onnx import compose, helper, numpy_helper
from onnx.utils import Extractor
from torch import Tensor, nn

from base.size import Size
from export.int8.quantise import quantised
from supernet.latency.graphs import (
    folded_weights,
    set_groups,
    set_sizes,
    with_one_import_each,
)
from supernet.latency.structures import Structure, channels_into, graph_of, structure
from supernet.student import Head, Stem

# How the quantiser names what it makes of a tensor.
QUANTISED, SUFFIX = "_QuantizeLinear_Output", "_quantized"
# Steps of a weight on either side of 0, and the least one.
STEPS, LEAST = 127, 1e-12
# Where parts meet: the scale, and the zero points of unsigned and signed whole numbers.
SCALE, ZEROS = 0.02, {False: 128, True: 0}


def int8_part_graph(part: nn.Module, size: Size, signed: bool = False) -> onnx.ModelProto:
    """Return the ONNX graph of a stem, block or head in int8, for any batch.

    Weights have a scale for each output channel; activations are `signed` or not.
    """
    model, weights = onnx.ModelProto(), folded_weights(part)
    model.CopyFrom(_quantised(structure(part), signed))
    makers = {name: node for node in model.graph.node for name in node.output}
    values = {initializer.name: initializer for initializer in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            data, weight, bias = (makers[name] for name in node.input)
            own, own_bias = (weights[dq.input[0].removesuffix(SUFFIX)] for dq in (weight, bias))
            scale = (own.abs().flatten(1).amax(1) / STEPS).clamp(min=LEAST)
            _fill(values, weight, own, scale)
            _fill(values, bias, own_bias, scale * _scalar(values[data.input[1]]))
            set_groups(node, own)
    set_sizes(model, channels_into(part), size)
    return model


def _fill(
    values: dict[str, onnx.TensorProto], dequantise: onnx.NodeProto, own: Tensor, scale: Tensor
) -> None:
    """Round `own` [C, ...] to whole numbers of `scale` [C], in place of what is dequantised."""
    name, scale_name, zero_name = dequantise.input
    steps = own / scale.reshape(-1, *[1] * (own.ndim - 1))
    kind = helper.tensor_dtype_to_np_dtype(values[name].data_type)
    limits = np.iinfo(kind)
    arrays = {
        name: steps.double().round().clamp(limits.min, limits.max).numpy().astype(kind),
        scale_name: scale.numpy(),
        zero_name: np.zeros(len(scale), kind),
    }
    for own_name, array in arrays.items():
        values[own_name].CopyFrom(numpy_helper.from_array(array, own_name))


def _scalar(tensor: onnx.TensorProto) -> float:
    return float(numpy_helper.to_array(tensor))


@cache
def _quantised(kind: Structure, signed: bool) -> onnx.ModelProto:
    """Quantise a structure's smallest part between neighbours, and cut it out of them."""
    model = graph_of(kind)
    images = torch.rand(2, _channels(model), 16, 16, generator=torch.Generator().manual_seed(0))
    if kind.kind is not Stem:
        before = _neighbour(_channels(model))
        joined = compose.merge_models(before, model, io_map=[("before", "x")])
        model = with_one_import_each(joined)
    found = onnx.shape_inference.infer_shapes(quantised(model, [images], signed))
    start = "x" if kind.kind is Stem else f"before{QUANTISED}"
    end = "y" if kind.kind is Head else f"y{QUANTISED}"
    cut = Extractor(found).extract_model([start], [end])
    ends = {"before"} if kind.kind is Head else {"before", "y"}
    shared = {f"{end}_scale": SCALE for end in ends}
    shared |= {f"{end}_zero_point": ZEROS[signed] for end in ends}
    for initializer in cut.graph.initializer:
        if (name := initializer.name) in shared:
            number = np.array(shared[name], helper.tensor_dtype_to_np_dtype(initializer.data_type))
            initializer.CopyFrom(numpy_helper.from_array(number, name))
    return cut


def _channels(model: onnx.ModelProto) -> int:
    return model.graph.input[0].type.tensor_type.shape.dim[1].dim_value


def _neighbour(channels: int) -> onnx.ModelProto:
    """Return a convolution, whose output is quantised as that of a block before is."""
    weight = helper.make_tensor("w", 1, (channels, channels, 1, 1), [0.5] * channels**2)
    images, before = (
        helper.make_tensor_value_info(name, 1, ("batch", channels, 16, 16))
        for name in ("images", "before")
    )
    node = helper.make_node("Conv", ["images", "w"], ["before"])
    graph = helper.make_graph([node], "neighbour", [images], [before], [weight])
    head = graph_of(Structure(Head))
    return helper.make_model(graph, opset_imports=head.opset_import, ir_version=head.ir_version)
