"""What the parts of a space have in common: a few structures, each exported to ONNX once.

A space has hundreds of blocks. But the graph of a block depends only on its structure (operation,
kernel, stride, gate, residual), and all structures are exported together: the exporter takes a
second to begin, and little for each.
"""

import copy
import zlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import onnx
import torch
from onnx.utils import Extractor
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.ops import Conv2dNormActivation

from export.onnx_file import exported
from supernet.space import Layer
from supernet.student import FusedMBConv, Head, Stem, UnitLength


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


def channels_into(part: nn.Module) -> int:
    """Return how many channels a stem, block or head takes."""
    first = next(m for m in part.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    return first.in_channels if isinstance(first, nn.Conv2d) else first.in_features


# What was exported in this process.
_GRAPHS: dict[Structure, onnx.ModelProto] = {}


def graph_of(kind: Structure) -> onnx.ModelProto:
    """Return the graph of a structure's smallest part, `x` to `y`; its weights are placeholders.

    Never change it.
    """
    export_together([kind])
    return _GRAPHS[kind]


def export_together(kinds: Iterable[Structure]) -> None:
    """Export those structures that were not exported yet, so that `graph_of` knows them."""
    fresh = [kind for kind in dict.fromkeys(kinds) if kind not in _GRAPHS]
    if not fresh:
        return
    side_by_side = _SideBySide([_smallest_of(kind) for kind in fresh])
    for kind, part in zip(fresh, side_by_side.parts, strict=True):
        # The exporter joins equal ones; and a structure's are the same in any company.
        generator = torch.Generator().manual_seed(zlib.crc32(repr(kind).encode()))
        for parameter in part.parameters():
            nn.init.normal_(parameter, generator=generator)
    examples = [torch.zeros(2, channels_into(part), 16, 16) for part in side_by_side.parts]
    names = [[f"{end}{i}" for i in range(len(fresh))] for end in "xy"]
    whole = exported(side_by_side, (examples,), ([{0: "batch"}] * len(fresh),), *names)
    for i, kind in enumerate(fresh):
        _GRAPHS[kind] = _cut_out(whole, i)


class _SideBySide(nn.Module):
    """Parts that have nothing to do with each other."""

    def __init__(self, parts: Iterable[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(map(_folded, parts))

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        return [part(x) for part, x in zip(self.parts, inputs, strict=True)]


def _cut_out(whole: onnx.ModelProto, i: int) -> onnx.ModelProto:
    """Return the graph of one of the parts, with the names that it would have alone."""
    model = Extractor(whole).extract_model([f"x{i}"], [f"y{i}"])
    graph, ends = model.graph, {f"x{i}": "x", f"y{i}": "y"}
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = _own_name(value.name, i, ends)
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [_own_name(name, i, ends) for name in names]
    return model


def _own_name(name: str, i: int, ends: Mapping[str, str]) -> str:
    return ends.get(name, name.removeprefix(f"parts.{i}."))


def _folded(part: nn.Module) -> nn.Module:
    """Copy `part` with every BatchNorm folded into its convolution, as the runtime would do it."""
    part = copy.deepcopy(part).eval()
    for layer in part.modules():
        if isinstance(layer, Conv2dNormActivation):
            layer[0], layer[1] = fuse_conv_bn_eval(layer[0], layer[1]), nn.Identity()
    return part


def _smallest_of(own: Structure) -> nn.Module:
    if own.kind is Stem:
        return Stem(4, own.stride)
    if own.kind is Head:
        return Head(4, 0 if own.plain else 8, 2, own.unit_length)
    layer = Layer("", own.kernel, 1 if own.plain else 2, own.gated)
    return own.kind(4, 4, layer, own.stride, own.residual, 8)
