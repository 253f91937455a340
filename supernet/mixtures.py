"""Mixtures of the forms of a layer: the operation runs once, on mixed weights and masks.

Masks stand where the map that follows is linear, so they fold into small tensors and still pass a
gradient to the choices not taken: hidden channels into the projection's weight, output channels
into its BatchNorm's scale and shift (FBNetV2, arXiv:2004.05565; TangleNAS, arXiv:2312.10440). None
stands in front of a ReLU, which at 0 passes no gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from einops import einsum
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation, SqueezeExcitation

from supernet.space import FORM_DECISIONS, FUSED, MBCONV, Choices, OperationSpace
from supernet.student import FusedMBConv, MBConv


@dataclass(frozen=True)
class MixedWidths:
    """Probabilities of a layer's input and output widths."""

    p_in: Tensor
    widths_in: Sequence[int]
    p_out: Tensor
    widths_out: Sequence[int]

    def output_mask(self) -> Tensor:
        """Return the expected mask of output channels."""
        return prefix_mask(self.p_out, self.widths_out, max(self.widths_out))

    def hidden_mask(self, form: "MixedForm", channels: int, *, least: int) -> Tensor:
        """Return the expected mask of hidden channels, of expansions from `least` on."""
        taken = [e for e in form.own.expansions if e >= least]
        p_taken = form.p_expansion[len(form.own.expansions) - len(taken) :]  # they ascend
        joint = einsum(self.p_in, p_taken, "width, expansion -> width expansion")
        sizes = [c * e for c in self.widths_in for e in taken]
        return prefix_mask(joint.flatten(), sizes, channels)

    def agree(self) -> Tensor:
        """Return the probability that input and output are equally wide."""
        pairs = (
            (i, self.widths_in.index(c))
            for i, c in enumerate(self.widths_out)
            if c in self.widths_in
        )
        return sum((self.p_out[o] * self.p_in[i] for o, i in pairs), self.p_out.new_zeros(()))


@dataclass(frozen=True)
class MixedForm:
    """Probabilities of an operation of a layer, and of its forms where it is that."""

    own: OperationSpace
    p: Tensor  # of the operation
    p_kernel: Tensor
    p_expansion: Tensor
    p_gate: Tensor

    @classmethod
    def of(cls, own: OperationSpace, p: Tensor, layer: str, choices: Choices) -> "MixedForm":
        """Take the forms of an operation that has probability `p` out of `choices`."""
        return cls(own, p, *(choices[f"{layer}.{own.name}.{field}"] for field in FORM_DECISIONS))

    @property
    def p_plain(self) -> Tensor:
        """Probability of expansion 1."""
        expansions = self.own.expansions
        return (
            self.p_expansion[expansions.index(1)]
            if 1 in expansions
            else self.p_kernel.new_zeros(())
        )

    @property
    def p_expanded(self) -> Tensor:
        """Probability of an expansion above 1."""
        return self.p_expansion.sum() - self.p_plain

    def gated(self, module: SqueezeExcitation, y: Tensor, mask: Tensor) -> Tensor:
        """Mix y [B, C, H, W], of which only masked channels exist, with y under its gate."""
        if not any(self.own.squeeze_excite):
            return y
        p_gated = self.p_gate[self.own.squeeze_excite.index(True)]
        gate = squeeze_excite_gate(module, y, mask)
        return y * (p_gated * gate + (self.p_gate.sum() - p_gated))


def mixed_mbconv(module: MBConv, x: Tensor, form: MixedForm, widths: MixedWidths) -> Tensor:
    """Map [B, C, H, W] to [B, C_out, H / stride, W / stride]: an MBConv of mixed forms."""
    y = x
    if max(form.own.expansions) > 1:
        y = conv_norm(module.expand, x)
        if 1 in form.own.expansions:
            y = form.p_expanded * y + fit_channels(form.p_plain * x, y.shape[1])
    mask = widths.hidden_mask(form, y.shape[1], least=1)
    kernel_mask = centre_mask(form.p_kernel, form.own.kernels)
    y = conv_norm(module.depthwise, y, module.depthwise[0].weight * kernel_mask)
    y = form.gated(module.squeeze_excite, y, mask)
    projection = module.project[0].weight * mask[:, None, None]
    return conv_norm(module.project, y, projection, widths.output_mask())


def mixed_fused(module: FusedMBConv, x: Tensor, form: MixedForm, widths: MixedWidths) -> Tensor:
    """Map [B, C, H, W] to [B, C_out, H / stride, W / stride]: a fused layer of mixed forms."""
    kernel_mask = centre_mask(form.p_kernel, form.own.kernels)
    y = conv_norm(module.expand, x, module.expand[0].weight * kernel_mask)
    out_mask, mixed = widths.output_mask(), x.new_zeros(())
    plain_mask = form.p_plain * out_mask
    hidden_mask = widths.hidden_mask(form, y.shape[1], least=2)
    y = form.gated(
        module.squeeze_excite,
        y,
        hidden_mask + F.pad(plain_mask, (0, len(hidden_mask) - len(plain_mask))),
    )
    if max(form.own.expansions) > 1:
        projection = module.project[0].weight * hidden_mask[:, None, None]
        mixed = conv_norm(module.project, y, projection, form.p_expanded * out_mask)
    if 1 in form.own.expansions:
        mixed = mixed + y[:, : len(out_mask)] * plain_mask[:, None, None]
    return mixed


def mixed_layer(
    modules: nn.ModuleDict,
    x: Tensor,
    forms: Sequence[MixedForm],
    drawn: Sequence[bool],
    widths: MixedWidths,
) -> Tensor:
    """Map [B, C, H, W] to [B, C_out, H / stride, W / stride]: Σ p · y over a layer's operations.

    One that is not drawn, of probability 0, passes forward without a graph: the gradient of its
    probability needs its output alone, and nothing inside it has one.
    """
    mixed, graph = x.new_zeros(()), torch.is_grad_enabled()
    for form, is_drawn in zip(forms, drawn, strict=True):
        with torch.set_grad_enabled(graph and is_drawn):
            y = MIXED[form.own.name](modules[form.own.name], x, form, widths)
        mixed = mixed + form.p * y
    return mixed


MIXED = {MBCONV: mixed_mbconv, FUSED: mixed_fused}


def fit_channels(x: Tensor, channels: int) -> Tensor:
    """Cut or fill with zeros to [B, channels, H, W]."""
    return F.pad(x, (0, 0, 0, 0, 0, channels - x.shape[1]))


def prefix_mask(p: Tensor, sizes: Sequence[int], channels: int) -> Tensor:
    """Return the expected channel mask Σ_n p_n · 1[channel < sizes_n], shape [channels]."""
    inside = _prefixes(tuple(sizes), channels, p.device, p.dtype)
    return einsum(p, inside, "choice, choice channel -> channel")


def centre_mask(p: Tensor, kernels: Sequence[int]) -> Tensor:
    """Return the expected kernel mask, Σ_n p_n · 1[inside the centred square of side kernels_n]."""
    inside = _centres(tuple(kernels), p.device, p.dtype)
    return einsum(p, inside, "choice, choice y x -> y x")


# Made once for a device, or every step would send them there anew.
@cache
def _prefixes(
    sizes: tuple[int, ...], channels: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Return 1[channel < sizes_n], shape [n, channels]."""
    positions = torch.arange(channels, device=device)
    return (positions < torch.tensor(sizes, device=device)[:, None]).to(dtype)


@cache
def _centres(kernels: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return 1[inside the centred square of side kernels_n], shape [n, y, x]."""
    distance = (torch.arange(max(kernels), device=device) - max(kernels) // 2).abs()
    side = torch.maximum(distance[:, None], distance)
    return (side <= torch.tensor(kernels, device=device)[:, None, None] // 2).to(dtype)


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
