"""The parts of every student: what the latency table has one entry for each of."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from base.size import Size, strided
from supernet.latency.graphs import with_biases
from supernet.latency.structures import Structure, structure
from supernet.latency_table import LatencyTable, Place, table_shapes
from supernet.space import SearchSpace
from supernet.student import Head, Stem, block


class Costs(NamedTuple):
    """Multiply-accumulates, and numbers that go in and that come out."""

    macs: int
    elements_in: int
    elements_out: int


@dataclass(frozen=True)
class Part:
    """A stem, block or head, with channels and size of its input."""

    module: nn.Module
    channels: int
    size: Size

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape [C, H, W] of the input."""
        return self.channels, *self.size

    @property
    def takes_features(self) -> bool:
        """Whether its input is what another part gives, not images."""
        return not isinstance(self.module, Stem)

    @property
    def gives_features(self) -> bool:
        """Whether another part takes its output, not the user."""
        return not isinstance(self.module, Head)

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
    found: dict[Place, Part] = {
        ("stem", c): Part(Stem(width, space.stem_stride, space.channels), space.channels, size)
        for c, width in enumerate(space.stem_widths)
    }
    size = strided(size, space.stem_stride)
    for s, stage in enumerate(space.stages):
        out = strided(size, stage.stride)
        for (c, width), (at, layer) in itertools.product(
            enumerate(stage.widths), enumerate(stage.layers)
        ):
            rest = block(space, s, 1, width, width, layer)
            found[("rest", s, c, at)] = Part(rest, width, out)
            for c_in, width_in in enumerate(space.widths_into(s)):
                first = block(space, s, 0, width_in, width, layer)
                found[("first", s, c_in, c, at)] = Part(first, width_in, size)
        size = out
    for (c_in, width_in), (c, width) in itertools.product(
        enumerate(space.stages[-1].widths), enumerate(space.head_widths)
    ):
        head = Head(width_in, width, space.classes, space.unit_length)
        found[("head", c_in, c)] = Part(head, width_in, size)
    for part in found.values():
        with_biases(part.module)
    return found


@cache
def structures(space: SearchSpace) -> tuple[Structure, ...]:
    """Return the structures of all parts, each once."""
    return tuple(dict.fromkeys(structure(part.module) for part in parts(space).values()))


def assemble(
    space: SearchSpace, values: Mapping[Place, float], provenance: Mapping[str, object]
) -> LatencyTable:
    """Lay out one value for every part as a table."""
    shapes = table_shapes(space)
    stem, head = (torch.zeros(shape, dtype=torch.float64) for shape in (shapes.stem, shapes.head))
    first = [torch.zeros(shape, dtype=torch.float64) for shape in shapes.first]
    rest = [torch.zeros(shape, dtype=torch.float64) for shape in shapes.rest]
    for (kind, *at), value in values.items():
        match kind:
            case "stem":
                stem[tuple(at)] = value
            case "head":
                head[tuple(at)] = value
            case "first":
                first[at[0]][tuple(at[1:])] = value
            case "rest":
                rest[at[0]][tuple(at[1:])] = value
    return LatencyTable(space, stem, tuple(first), tuple(rest), head, provenance)
