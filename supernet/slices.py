"""One student cut out of the shared weights: its layers run on slices, and no module is built.

A slice is the leading channels of a tensor and the spatial centre of a kernel.
"""

from collections.abc import Iterator, Sequence

import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import Conv2dNormActivation, SqueezeExcitation

from supernet.shared_weights import SharedWeights
from supernet.space import MBCONV, Architecture, Layer
from supernet.student import MEAN, STD, FusedMBConv, MBConv


def sliced_student(shared: SharedWeights, architecture: Architecture, images: Tensor) -> Tensor:
    """Map images [B, C, H, W] to logits [B, K] with `architecture`'s slice of the shared weights.

    Gradients reach the shared weights; in training mode their running statistics move.
    """
    x = _conv_norm(shared.stem.conv, (images - MEAN) / STD, architecture.stem_width)
    for blocks, stage in zip(shared.stages, architecture.stages, strict=True):
        for block, layer in zip(blocks, stage.layers, strict=False):  # those that exist
            x = sliced_layer(block[layer.operation], x, layer, stage.width)
    classifier = shared.direct
    if architecture.head_width:
        x, classifier = (
            _conv_norm(shared.head.conv, x, architecture.head_width),
            shared.head.classifier,
        )
    features = x.mean((2, 3))
    weight = crop(classifier.weight, (classifier.out_features, features.shape[1]))
    return shared.ending(F.linear(features, weight, classifier.bias))


def sliced_layer(module: MBConv | FusedMBConv, x: Tensor, layer: Layer, width: int) -> Tensor:
    """Map [B, C, H, W] to [B, width, H / stride, W / stride] with `layer`'s slice of its operation.

    The residual stands wherever the shapes agree and the module has stride 1.
    """
    own = _mbconv if layer.operation == MBCONV else _fused
    y = own(module, x, layer, width)
    return x + y if module.residual and x.shape == y.shape else y


def _mbconv(module: MBConv, x: Tensor, layer: Layer, width: int) -> Tensor:
    hidden = x.shape[1] * layer.expansion
    y = _conv_norm(module.expand, x, hidden) if layer.expansion > 1 else x
    y = _conv_norm(module.depthwise, y, hidden, layer.kernel)
    if layer.squeeze_excite:
        y = _squeeze_excite(module.squeeze_excite, y)
    return _conv_norm(module.project, y, width)


def _fused(module: FusedMBConv, x: Tensor, layer: Layer, width: int) -> Tensor:
    projects = layer.expansion > 1
    hidden = x.shape[1] * layer.expansion if projects else width
    y = _conv_norm(module.expand, x, hidden, layer.kernel)
    if layer.squeeze_excite:
        y = _squeeze_excite(module.squeeze_excite, y)
    return _conv_norm(module.project, y, width) if projects else y


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


def shared_names(names: Sequence[str], architecture: Architecture) -> Iterator[tuple[str, str]]:
    """Yield every name in a student's state with that of the shared weights it is a slice of."""
    for name in names:
        kind, *rest = name.split(".")
        if kind == "stages":
            s, i, *rest = rest
            operation = architecture.stages[int(s)].layers[int(i)].operation
            yield name, ".".join([kind, s, i, operation, *rest])
        elif kind == "head" and architecture.head_width == 0:
            yield name, name.replace("head.classifier", "direct")
        else:
            yield name, name


def crop(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """View the leading channels (dimensions 0, 1) and the spatial centre (2, 3) of `tensor`."""
    for axis, (size, full) in enumerate(zip(shape, tensor.shape, strict=True)):
        if size < full:
            tensor = tensor.narrow(axis, 0 if axis < 2 else (full - size) // 2, size)
    return tensor
