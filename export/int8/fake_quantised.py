"""A module that computes, while it is trained, as its 8-bit file will."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torchvision.ops import SqueezeExcitation

# A batch's share in the ranges, which are moving averages: with 0.01 they lag behind the weights
# and clip what grows.
AVERAGING = 0.1
_INPUT, _OUTPUT = "input_range", "output_range"


@contextmanager
def fake_quantised(module: nn.Module, signed: bool = False) -> Iterator[None]:
    """Let `module` round weights and activations as its int8 file will, until the block ends.

    Gradients pass as if nothing were rounded. The weights of every `Conv2d` and `Linear` are
    rounded to int8, symmetric, with a scale for each output channel. The export folds BatchNorm
    into them, which multiplies a channel and its scale by one number, so they round alike.
    Activations are rounded to uint8, or int8 where `signed`, with a range for each tensor, where
    the file rounds them: what goes into those layers, and what comes out of parts that are made of
    others and of the steps of a squeeze-and-excitation. Ranges follow the batches in train mode
    and stay in eval mode, where only one that has seen nothing takes the first batch's.

    `state_dict` has other keys within the block, the same ones each time. After it, also when it
    raises, the module is plain again, with the weights that were trained.
    """
    layers = [part for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    outputs = _rounded_outputs(module)
    device = next(module.parameters()).device
    nothing = torch.tensor([torch.inf, -torch.inf], device=device)
    least = -128 if signed else 0
    with ExitStack() as undo:
        for layer in layers:
            parametrize.register_parametrization(layer, "weight", _RoundedWeight())
            undo.callback(_make_plain, layer)
            layer.register_buffer(_INPUT, nothing.clone())
            undo.callback(delattr, layer, _INPUT)
            hook = layer.register_forward_pre_hook(partial(_round_input, least))
            undo.callback(hook.remove)
        for part in outputs:
            part.register_buffer(_OUTPUT, nothing.clone())
            undo.callback(delattr, part, _OUTPUT)
            hook = part.register_forward_hook(partial(_round_output, least))
            undo.callback(hook.remove)
        yield


def _rounded_outputs(module: nn.Module) -> list[nn.Module]:
    """Return the parts of `module` after which the file rounds.

    Not so the convolution, BatchNorm and activation inside a `Conv2dNormActivation`: they are one
    operation of the file. What the others hand on unchanged is not rounded again.
    """
    made_of_others = [part for part in module.modules() if next(part.children(), None) is not None]
    gates = [part for part in made_of_others if isinstance(part, SqueezeExcitation)]
    steps = [step for gate in gates for step in (gate.fc2, gate.scale_activation)]
    return list(dict.fromkeys([module, *made_of_others, *steps]))


class _RoundedWeight(nn.Module):
    """Rounds weights [C, ...] to int8 and back, symmetric, with a scale for each channel."""

    def forward(self, weight: Tensor) -> Tensor:
        largest = weight.detach().abs().flatten(1).amax(dim=1)
        scales = (largest / 127).clamp(min=torch.finfo(weight.dtype).tiny)
        zeros = torch.zeros_like(scales, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scales, zeros, 0, -127, 127)


def _make_plain(layer: nn.Module) -> None:
    parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    bias = layer.bias  # behind the weight again, as in any other layer
    del layer.bias
    layer.register_parameter("bias", bias)


def _round_input(least: int, layer: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    return _rounded(inputs[0], layer.get_buffer(_INPUT), least, layer.training)


def _round_output(least: int, part: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    return _rounded(output, part.get_buffer(_OUTPUT), least, part.training)


def _rounded(x: Tensor, bounds: Tensor, least: int, training: bool) -> Tensor:
    """Round `x` to 256 steps between `bounds` [2], which follow it in training, and to 0 exactly.

    A tensor that was rounded before, by the part that made it, is returned as it is.
    """
    if getattr(x, "is_rounded", False):
        return x
    seen = torch.stack(x.detach().aminmax())
    moved = bounds.lerp(seen, AVERAGING) if training else bounds
    bounds.copy_(torch.where(bounds.isinf(), seen, moved))
    lowest, highest = bounds.clamp(max=0)[0], bounds.clamp(min=0)[1]
    scale = ((highest - lowest) / 255).clamp(min=torch.finfo(x.dtype).tiny)
    zero_point = least - (lowest / scale).round().int()
    x = torch.fake_quantize_per_tensor_affine(x, scale, zero_point, least, least + 255)
    x.is_rounded = True
    return x
