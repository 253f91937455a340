"""ONNX graphs of the space's blocks, and networks chained of them, from a few shared exports.

An export takes a second, and a space has hundreds of blocks. But the graph of a block depends only
on its structure (operation, kernel, stride, gate, residual): it is exported once for each, and
another block of that structure is the same graph with that block's own weights.
"""

import copy
from collections.abc import Callable
from functools import cache, reduce
from typing import NamedTuple

import onnx
import torch
from onnx import compose, numpy_helper
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_conv_bn_weights
from torchvision.ops import Conv2dNormActivation

from base.size import Size, strided
from export.onnx_file import to_onnx
from supernet.space import Architecture, Layer, SearchSpace
from supernet.student import FusedMBConv, Head, Stem, Student, UnitLength

# The graph of a stem, block or head whose input has that size.
PartGraph = Callable[[nn.Module, Size], onnx.ModelProto]


class Structure(NamedTuple):
    """All that the graph of a part depends on, beside the shapes of its weights."""

    kind: type[nn.Module]
    kernel: int = 1
    stride: int = 1
    gated: bool = False
    residual: bool = False
    plain: bool = False  # expansion 1, or a head without a convolution
    unit_length: bool = False  # a head that gives vectors of length 1


def structure(part: nn.Module) -> Structure:
    """Return what the graph of a stem, block or head depends on."""
    if isinstance(part, Stem):
        return Structure(Stem, 3, part.conv[0].stride[0])
    if isinstance(part, Head):
        ends = isinstance(part.ending, UnitLength)
        return Structure(Head, plain=isinstance(part.conv, nn.Identity), unit_length=ends)
    is_fused = isinstance(part, FusedMBConv)
    spatial = (part.expand if is_fused else part.depthwise)[0]
    return Structure(
        type(part),
        spatial.kernel_size[0],
        spatial.stride[0],
        not isinstance(part.squeeze_excite, nn.Identity),
        part.residual,
        isinstance(part.project if is_fused else part.expand, nn.Identity),
    )


@cache
def exported(kind: Structure) -> onnx.ModelProto:
    """Export the smallest part of a structure: its weights are placeholders. Never change it."""
    part = _folded(_smallest_of(kind))
    generator = torch.Generator().manual_seed(0)
    for parameter in part.parameters():
        # The exporter joins equal ones.
        nn.init.normal_(parameter, generator=generator)
    example = torch.zeros(2, channels_into(part), 16, 16)
    return to_onnx(part, example, input_name="x", output_name="y")


def _smallest_of(own: Structure) -> nn.Module:
    if own.kind is Stem:
        return Stem(4, own.stride)
    if own.kind is Head:
        return Head(4, 0 if own.plain else 8, 2, own.unit_length)
    layer = Layer("", own.kernel, 1 if own.plain else 2, own.gated)
    return own.kind(4, 4, layer, own.stride, own.residual, 8)


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


def channels_into(part: nn.Module) -> int:
    """Return how many channels a stem, block or head takes."""
    first = next(m for m in part.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    return first.in_channels if isinstance(first, nn.Conv2d) else first.in_features


def _folded(part: nn.Module) -> nn.Module:
    """Copy `part` with every BatchNorm folded into its convolution, as the runtime would do it."""
    part = copy.deepcopy(part).eval()
    for layer in part.modules():
        if isinstance(layer, Conv2dNormActivation):
            layer[0], layer[1] = fuse_conv_bn_eval(layer[0], layer[1]), nn.Identity()
    return part


def folded_weights(part: nn.Module) -> dict[str, Tensor]:
    """Return a part's weights by name, BatchNorm folded in.

    They are those that `_folded` leaves; a copy of the modules takes ten times as long.
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
    model.CopyFrom(exported(structure(part)))
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
