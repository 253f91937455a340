"""Families of networks that a person writes down in a minute: plain convolutions, and ResNets."""

from collections.abc import Iterable, Sequence

from torch import nn
from torchvision.models.resnet import BasicBlock
from torchvision.ops import Conv2dNormActivation


def plain_network(
    widths: Sequence[int], strides: Sequence[int], classes: int, channels: int = 3
) -> nn.Module:
    """Build 3x3 convolutions with BatchNorm and ReLU, mean over space, linear classifier.

    The first width is that of one convolution, each other one that of two; `strides` are those of
    the first convolution of every width. Maps images [B, C, H, W] to logits [B, K] (VGG,
    arXiv:1409.1556, without its large classifier).
    """
    layers: list[nn.Module] = [Conv2dNormActivation(channels, widths[0], 3, strides[0])]
    for c_in, c_out, stride in _steps(widths, strides):
        layers.append(Conv2dNormActivation(c_in, c_out, 3, stride))
        layers.append(Conv2dNormActivation(c_out, c_out, 3))
    return _classifier(layers, widths[-1], classes)


def resnet(
    widths: Sequence[int], strides: Sequence[int], classes: int, channels: int = 3
) -> nn.Module:
    """Build a 3x3 convolution and one basic block for every width (He et al., arXiv:1512.03385).

    `strides[0]` is that of the convolution, the others those of the blocks from the second on. Maps
    images [B, C, H, W] to logits [B, K].
    """
    layers: list[nn.Module] = [Conv2dNormActivation(channels, widths[0], 3, strides[0])]
    layers.append(BasicBlock(widths[0], widths[0]))
    for c_in, c_out, stride in _steps(widths, strides):
        shortcut = Conv2dNormActivation(c_in, c_out, 1, stride, activation_layer=None)
        layers.append(BasicBlock(c_in, c_out, stride, shortcut))
    return _classifier(layers, widths[-1], classes)


def _steps(widths: Sequence[int], strides: Sequence[int]) -> Iterable[tuple[int, int, int]]:
    return zip(widths, widths[1:], strides[1:], strict=False)


def _classifier(layers: Sequence[nn.Module], width: int, classes: int) -> nn.Module:
    pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*layers, *pool, nn.Linear(width, classes))
