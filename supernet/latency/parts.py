"""The parts of every student: what the latency table has one entry for each of."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from supernet.latency_table import LatencyTable, Place, table_shapes
from supernet.space import Layer, SearchSpace
from supernet.student import Head, Stem, mbconv


class Costs(NamedTuple):
    """Multiply-accumulates, and numbers that go in and that come out."""

    macs: int
    elements_in: int
    elements_out: int


@dataclass(frozen=True)
class Part:
    """A stem, block or head, with the channels and the side of its square input."""

    module: nn.Module
    channels: int
    size: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape [C, H, W] of the input."""
        return self.channels, self.size, self.size

    @cached_property
    def costs(self) -> Costs:
        """Work for one image."""
        image = torch.zeros(1, *self.shape)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            out = self.module.eval()(image)
        return Costs(counter.get_total_flops() // 2, image.numel(), out.numel())


def parts(space: SearchSpace) -> dict[Place, Part]:
    """Build every part of every student of `space`, with random weights."""
    size = space.resolution
    found: dict[Place, Part] = {("stem",): Part(Stem(space.stem_width, space.stem_stride), 3, size)}
    size = -(-size // space.stem_stride)
    for s, stage in enumerate(space.stages):
        choices = (stage.kernels, stage.expansions, stage.squeeze_excite)
        layers = list(itertools.product(*map(enumerate, choices)))
        out = -(-size // stage.stride)
        for (c, width), picks in itertools.product(enumerate(stage.widths), layers):
            at, layer = tuple(i for i, _ in picks), Layer(*(choice for _, choice in picks))
            rest = mbconv(space, s, 1, width, width, layer)
            found[("rest", s, c, *at)] = Part(rest, width, out)
            for c_in, width_in in enumerate(space.widths_into(s)):
                first = mbconv(space, s, 0, width_in, width, layer)
                found[("first", s, c_in, c, *at)] = Part(first, width_in, size)
        size = out
    for c, width in enumerate(space.stages[-1].widths):
        found[("head", c)] = Part(Head(width, space.head_width, space.classes), width, size)
    return found


def assemble(
    space: SearchSpace, values: Mapping[Place, float], provenance: Mapping[str, object]
) -> LatencyTable:
    """Lay out one value for every part as a table."""
    shapes = table_shapes(space)
    first = [torch.zeros(shape, dtype=torch.float64) for shape in shapes.first]
    rest = [torch.zeros(shape, dtype=torch.float64) for shape in shapes.rest]
    head = torch.zeros(shapes.head, dtype=torch.float64)
    for (kind, *at), value in values.items():
        if kind == "first":
            first[at[0]][tuple(at[1:])] = value
        elif kind == "rest":
            rest[at[0]][tuple(at[1:])] = value
        elif kind == "head":
            head[at[0]] = value
    return LatencyTable(space, values[("stem",)], tuple(first), tuple(rest), head, provenance)
