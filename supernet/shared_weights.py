"""The shared weights: every operation of every layer at its largest.

Operations do not nest, so each has weights of its own; its forms and all widths are slices of them.
"""

from torch import nn

from supernet.space import FUSED, Layer, OperationSpace, SearchSpace
from supernet.student import FusedMBConv, Head, MBConv, Stem, ending


class SharedWeights(nn.Module):
    """Modules from which every student of `space` is cut.

    `stages[s][i]` holds a module for each operation of layer i of stage s; `head` is the widest
    one, `direct` the classifier of students without a head's convolution. Either is None where no
    student has it. Both have the same `ending`.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.stem = Stem(max(space.stem_widths), space.stem_stride, space.channels)
        self.stages = nn.ModuleList(
            nn.ModuleList(_operations(space, s, i) for i in range(max(stage.depths)))
            for s, stage in enumerate(space.stages)
        )
        widest = max(space.stages[-1].widths)
        width = max(space.head_widths)
        self.head = Head(widest, width, space.classes) if width else None
        self.direct = nn.Linear(widest, space.classes) if 0 in space.head_widths else None
        self.ending = ending(space.unit_length)


def _operations(space: SearchSpace, s: int, i: int) -> nn.ModuleDict:
    return nn.ModuleDict({o.name: _largest(space, s, i, o) for o in space.stages[s].operations})


def _largest(space: SearchSpace, s: int, i: int, operation: OperationSpace) -> nn.Module:
    stage = space.stages[s]
    c_in, c_out = max(space.widths_into(s) if i == 0 else stage.widths), max(stage.widths)
    kernel, expansion = max(operation.kernels), max(operation.expansions)
    layer = Layer(operation.name, kernel, expansion, any(operation.squeeze_excite))
    stride, squeeze = stage.stride if i == 0 else 1, space.squeeze_width(s, i)
    if operation.name != FUSED:
        return MBConv(c_in, c_out, layer, stride, stride == 1, squeeze)
    # A dense convolution alone has as many outputs as the layer, however many it expands to.
    hidden = max(c_in * expansion, c_out) if 1 in operation.expansions else c_in * expansion
    return FusedMBConv(c_in, c_out, layer, stride, stride == 1, squeeze, hidden)
