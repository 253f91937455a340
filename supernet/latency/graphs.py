"""ONNX graphs of the space's blocks, and networks chained of them.

A block's graph is that of its structure with the block's own weights.
"""

from collections.abc import Callable
from functools import reduce

import onnx
import torch
from onnx import compose, numpy_helper
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops import Conv2dNormActivation

from base.size import Size, strided
from supernet.latency.structures import channels_into, graph_of, structure
from supernet.space import Architecture, SearchSpace
from supernet.student import Student

# The graph of a stem, block or head whose input has that size.
PartGraph = Callable[[nn.Module, Size], onnx.ModelProto]


def with_biases(module: nn.Module) -> nn.Module:
    """Draw those biases of `module` anew that are all zeros, as trained ones never are.

    The exporter and OpenVINO leave out biases of zeros, so that a network that was never trained
    would take up to 5 % less time than the one that ships. Returns `module`.
    """
    generator = torch.Generator().manual_seed(0)
    for name, parameter in module.named_parameters():
        if name.endswith("bias") and not parameter.any():
            nn.init.normal_(parameter, std=0.1, generator=generator)
    return module


def folded_weights(part: nn.Module) -> dict[str, Tensor]:
    """Return a part's weights by name, BatchNorm folded in.

    They are those that an exported part has; a copy of the modules takes ten times as long.
    """
    weights = {name: tensor.detach().cpu() for name, tensor in part.state_dict().items()}
    for name, layer in part.named_modules():
        if isinstance(layer, Conv2dNormActivation):
            conv, norm = layer[0], layer[1]
            weight, bias = fuse_conv_bn_weights(
                conv.weight,
                conv.bias,
                norm.running_mean,
                norm.running_var,
                norm.eps,
                norm.weight,
                norm.bias,
            )
            weights[f"{name}.0.weight"] = weight.detach().cpu()
            weights[f"{name}.0.bias"] = bias.detach().cpu()
    return weights


def part_graph(part: nn.Module, size: Size) -> onnx.ModelProto:
    """Return the ONNX graph of a stem, block or head: `x` [batch, C, H, W] to `y`, any batch."""
    model = onnx.ModelProto()
    model.CopyFrom(graph_of(structure(part)))
    graph, weights = model.graph, folded_weights(part)
    for initializer in graph.initializer:
        if initializer.name in weights:
            array = weights[initializer.name].numpy()
            initializer.CopyFrom(numpy_helper.from_array(array, initializer.name))
    for node in graph.node:
        if node.op_type == "Conv":
            set_groups(node, weights[node.input[1]])
    set_sizes(model, channels_into(part), size)
    return model


def set_groups(convolution: onnx.NodeProto, weight: Tensor) -> None:
    """Give a depthwise convolution as many groups as its weight [C, 1, k, k] has channels."""
    for attribute in convolution.attribute:
        if attribute.name == "group" and attribute.i > 1:
            attribute.i = len(weight)


def set_sizes(model: onnx.ModelProto, channels: int, size: Size) -> None:
    """Fix the input's channels and pixels, and leave the output's open.

    Where sizes are not known, ONNX Runtime does not fuse a residual's sum into the convolution
    before it, not even inside a network.
    """
    graph = model.graph
    del graph.value_info[:]
    for axis, dimension in enumerate(graph.output[0].type.tensor_type.shape.dim):
        if axis > 0:
            dimension.dim_param = f"y{axis}"
    x = graph.input[0].type.tensor_type.shape.dim
    x[1].dim_value = channels
    x[2].dim_value, x[3].dim_value = size


def network_graph(
    space: SearchSpace, architecture: Architecture, one_part: PartGraph = part_graph
) -> onnx.ModelProto:
    """Return a whole student with random weights as ONNX, its parts' graphs chained end to end."""
    student = with_biases(Student(space, architecture)).eval()
    parts = [student.stem, *(block for stage in student.stages for block in stage), student.head]
    graphs, size = [], space.resolution
    for position, part in enumerate(parts):
        graphs.append(compose.add_prefix(one_part(part, size), f"part{position}/"))
        size = strided(size, stride(part))
    return with_one_import_each(reduce(_joined, graphs))


def with_one_import_each(model: onnx.ModelProto) -> onnx.ModelProto:
    """Keep one import of every operator set: merging leaves one for each part.

    ONNX Runtime runs such a file; its quantiser refuses it.
    """
    versions = {entry.domain: entry.version for entry in model.opset_import}
    del model.opset_import[:]
    model.opset_import.extend(onnx.helper.make_opsetid(*entry) for entry in versions.items())
    return model


def _joined(first: onnx.ModelProto, second: onnx.ModelProto) -> onnx.ModelProto:
    joint = [(first.graph.output[0].name, second.graph.input[0].name)]
    return compose.merge_models(first, second, io_map=joint)


def stride(part: nn.Module) -> int:
    """Return how many pixels of the input's side become one of the output's; a head keeps them."""
    return structure(part).stride
