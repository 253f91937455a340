"""One student cut out of the shared weights: its layers run on slices, and no module is built.

A slice is the leading channels of a tensor and the spatial centre of a kernel.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import Conv2dNormActivation, SqueezeExcitation

from supernet.space import Architecture, Layer
from supernet.student import MEAN, STD, MBConv, Student


def sliced_student(largest: Student, architecture: Architecture, images: Tensor) -> Tensor:
    """Map images [B, 3, R, R] to logits [B, K] with `architecture`'s slice of `largest`.

    Gradients reach the weights of `largest`; in training mode its running statistics move.
    """
    stem = largest.stem.conv
    x = _conv_norm(stem, (images - MEAN) / STD, stem.out_channels)
    for blocks, stage in zip(largest.stages, architecture.stages, strict=True):
        for block, layer in zip(blocks, stage.layers, strict=False):  # those that exist
            x = _mbconv(block, x, layer, stage.width)
    x = _conv_norm(largest.head.conv, x, largest.head.conv.out_channels)
    return largest.head.classifier(x.mean((2, 3)))


def _mbconv(block: MBConv, x: Tensor, layer: Layer, width: int) -> Tensor:
    hidden = x.shape[1] * layer.expansion
    y = _conv_norm(block.expand, x, hidden)
    y = _conv_norm(block.depthwise, y, hidden, layer.kernel)
    if layer.squeeze_excite:
        y = _squeeze_excite(block.squeeze_excite, y)
    y = _conv_norm(block.project, y, width)
    return x + y if block.residual else y


def _squeeze_excite(module: SqueezeExcitation, x: Tensor) -> Tensor:
    channels, (fc1, fc2) = x.shape[1], (module.fc1, module.fc2)
    width = fc1.out_channels
    squeezed = F.conv2d(module.avgpool(x), crop(fc1.weight, (width, channels, 1, 1)), fc1.bias)
    weight, bias = crop(fc2.weight, (channels, width, 1, 1)), crop(fc2.bias, (channels,))
    gate = F.conv2d(module.activation(squeezed), weight, bias)
    return module.scale_activation(gate) * x


def _conv_norm(
    part: Conv2dNormActivation, x: Tensor, channels: int, kernel: int | None = None
) -> Tensor:
    """Apply convolution, BatchNorm and, where the part has one, ReLU, to `channels` outputs."""
    conv, norm, *activation = part
    depthwise, kernel = conv.groups > 1, kernel or conv.kernel_size[0]
    inputs, groups = (1, channels) if depthwise else (x.shape[1], 1)
    weight = crop(conv.weight, (channels, inputs, kernel, kernel))
    y = F.conv2d(x, weight, stride=conv.stride, padding=kernel // 2, groups=groups)
    if norm.training:
        norm.num_batches_tracked.add_(1)
    y = F.batch_norm(
        y,
        crop(norm.running_mean, (channels,)),
        crop(norm.running_var, (channels,)),
        crop(norm.weight, (channels,)),
        crop(norm.bias, (channels,)),
        norm.training,
        norm.momentum,
        norm.eps,
    )
    return F.relu_(y) if activation else y


def crop(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """View the leading channels (dimensions 0, 1) and the spatial centre (2, 3) of `tensor`."""
    for axis, (size, full) in enumerate(zip(shape, tensor.shape, strict=True)):
        if size < full:
            tensor = tensor.narrow(axis, 0 if axis < 2 else (full - size) // 2, size)
    return tensor
