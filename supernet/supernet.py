"""The supernet: one set of shared weights in which every student of the space is a slice.

The shared weights are those of the largest student. A student is had in two ways that agree (tests
hold them together): `Supernet.student_logits` cuts its weights out, cheap, for one architecture;
`Supernet.forward` mixes all choices in weights and masks *before* the operation (FBNetV2,
arXiv:2004.05565; TangleNAS, arXiv:2312.10440), so that every choice has a gradient at the cost of
one network.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import einsum
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation, SqueezeExcitation

from supernet.slices import crop, sliced_student
from supernet.space import Architecture, Choices, SearchSpace
from supernet.student import MEAN, STD, MBConv, Student


class Supernet(nn.Module):
    """Shared weights of all students of `space`."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.space = space
        self.largest = Student(space, space.largest())

    def forward(self, images: Tensor, choices: Choices) -> Tensor:
        """Map images [B, 3, R, R] and a probability vector a decision to logits [B, K].

        BatchNorm normalises with the batch's statistics in training mode and keeps none of them:
        they belong to one draw of `choices`.
        """
        choices = {name: p.to(images) for name, p in choices.items()}
        x = conv_norm(self.largest.stem.conv, (images - MEAN) / STD)
        p_in = images.new_ones(1)
        for s, blocks in enumerate(self.largest.stages):
            p_width, p_depth = choices[f"stage{s + 1}.width"], choices[f"stage{s + 1}.depth"]
            widths, depths = self.space.stages[s].widths, self.space.stages[s].depths
            width_mask = prefix_mask(p_width, widths, max(widths))
            for i, block in enumerate(blocks):
                exists = sum(p for p, depth in zip(p_depth, depths, strict=True) if depth > i)
                widths_in = self.space.widths_into(s) if i == 0 else widths
                p_hidden, hidden_sizes = self._hidden_choices(s, i, choices, p_in, widths_in)
                hidden_mask = prefix_mask(p_hidden, hidden_sizes, block.expand[0].out_channels)
                x = self._block(block, x, s, i, choices, hidden_mask, width_mask * exists)
                p_in = p_width
        x = conv_norm(self.largest.head.conv, x)
        return self.largest.head.classifier(x.mean((2, 3)))

    def _hidden_choices(
        self, s: int, i: int, choices: Choices, p_in: Tensor, widths_in: Sequence[int]
    ) -> tuple[Tensor, list[int]]:
        """Joint probabilities of input width and expansion, and the hidden channels of each."""
        p_expansion = choices[f"stage{s + 1}.layer{i + 1}.expansion"]
        joint = einsum(p_in, p_expansion, "width, expansion -> width expansion").flatten()
        return joint, [c * e for c in widths_in for e in self.space.stages[s].expansions]

    def _block(
        self,
        block: MBConv,
        x: Tensor,
        s: int,
        i: int,
        choices: Choices,
        hidden_mask: Tensor,
        output_mask: Tensor,
    ) -> Tensor:
        """One MBConv of mixed choices.

        Masks stand where the map that follows is linear, so they fold into small tensors and still
        pass a gradient to the choices not taken: hidden channels into the projection's weight,
        output channels and depth into its BatchNorm's scale and shift.
        """
        name, stage = f"stage{s + 1}.layer{i + 1}", self.space.stages[s]
        kernel_mask = centre_mask(choices[f"{name}.kernel"], stage.kernels)
        y = conv_norm(block.expand, x)
        y = conv_norm(block.depthwise, y, block.depthwise[0].weight * kernel_mask)
        if any(stage.squeeze_excite):
            p_gate = choices[f"{name}.squeeze_excite"]
            p_gated = p_gate[stage.squeeze_excite.index(True)]
            gate = squeeze_excite_gate(block.squeeze_excite, y, hidden_mask)
            y = y * (p_gated * gate + (p_gate.sum() - p_gated))
        projection = block.project[0].weight * hidden_mask[:, None, None]
        y = conv_norm(block.project, y, projection, output_mask)
        return x + y if block.residual else y

    def student_logits(self, images: Tensor, architecture: Architecture) -> Tensor:
        """Map images [B, 3, R, R] to logits [B, K] of one student cut out of the shared weights.

        Gradients reach the shared weights. In training mode the slices' running statistics move.
        Raises `UserError` for an architecture of another space.
        """
        self.space.positions(architecture)
        return sliced_student(self.largest, architecture, images)

    def extract(self, architecture: Architecture) -> Student:
        """Return a plain student with a copy of its slice of the shared weights."""
        student = Student(self.space, architecture).to(self.largest.head.classifier.weight)
        shared = self.largest.state_dict()
        own = student.state_dict().items()
        student.load_state_dict({name: crop(shared[name], part.shape) for name, part in own})
        return student


def prefix_mask(p: Tensor, sizes: Sequence[int], channels: int) -> Tensor:
    """Return the expected channel mask Σ_n p_n · 1[channel < sizes_n], shape [channels]."""
    positions = torch.arange(channels, device=p.device)
    inside = positions < torch.tensor(sizes, device=p.device)[:, None]
    return einsum(p, inside.to(p.dtype), "choice, choice channel -> channel")


def centre_mask(p: Tensor, kernels: Sequence[int]) -> Tensor:
    """Return the expected kernel mask, Σ_n p_n · 1[inside the centred square of side kernels_n]."""
    distance = (torch.arange(max(kernels), device=p.device) - max(kernels) // 2).abs()
    side = torch.maximum(distance[:, None], distance)
    inside = side <= torch.tensor(kernels, device=p.device)[:, None, None] // 2
    return einsum(p, inside.to(p.dtype), "choice, choice y x -> y x")


def squeeze_excite_gate(module: SqueezeExcitation, x: Tensor, hidden_mask: Tensor) -> Tensor:
    """Return the gate [B, C, 1, 1] of x [B, C, H, W], of which only masked channels exist."""
    squeezed = module.activation(module.fc1(module.avgpool(x) * hidden_mask[:, None, None]))
    return module.scale_activation(module.fc2(squeezed))


def conv_norm(
    part: Conv2dNormActivation, x: Tensor, weight: Tensor | None = None, scale: Tensor | None = None
) -> Tensor:
    """Apply convolution, BatchNorm and, where the part has one, ReLU.

    `weight` stands in for the convolution's own; `scale` [C] multiplies the normalised output.
    """
    conv, norm, *activation = part
    y = F.conv2d(
        x,
        conv.weight if weight is None else weight,
        stride=conv.stride,
        padding=conv.padding,
        groups=conv.groups,
    )
    gain, shift = (
        (norm.weight, norm.bias) if scale is None else (norm.weight * scale, norm.bias * scale)
    )
    statistics = (None, None) if norm.training else (norm.running_mean, norm.running_var)
    y = F.batch_norm(y, *statistics, gain, shift, training=norm.training, eps=norm.eps)
    return y.relu_() if activation else y
