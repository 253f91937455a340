"""The plain student: the network that is retrained and shipped, made of torchvision's parts."""

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import Conv2dNormActivation, SqueezeExcitation

from supernet.space import FUSED, Architecture, Layer, SearchSpace

# Images come in [0, 1]; the student brings them to [-1, 1] itself, so nobody can forget to.
MEAN = STD = 0.5
SHORTEST = 1e-12  # length by which a vector is divided


class MBConv(nn.Module):
    """Expand 1x1, depthwise k x k, squeeze-and-excitation, project 1x1 (MobileNetV2, MnasNet).

    With expansion 1 nothing is expanded.
    """

    def __init__(
        self, c_in: int, c_out: int, layer: Layer, stride: int, residual: bool, squeeze: int
    ) -> None:
        super().__init__()
        hidden, expands = c_in * layer.expansion, layer.expansion > 1
        self.residual = residual
        self.expand = Conv2dNormActivation(c_in, hidden, 1) if expands else nn.Identity()
        self.depthwise = Conv2dNormActivation(hidden, hidden, layer.kernel, stride, groups=hidden)
        self.squeeze_excite = gate(hidden, squeeze, layer)
        self.project = Conv2dNormActivation(hidden, c_out, 1, activation_layer=None)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, c_in, H, W] to [B, c_out, H / stride, W / stride]."""
        y = self.project(self.squeeze_excite(self.depthwise(self.expand(x))))
        return x + y if self.residual else y


class FusedMBConv(nn.Module):
    """Expand by a dense k x k, squeeze-and-excitation, project 1x1 (EfficientNetV2).

    With expansion 1 nothing is projected: one dense convolution from c_in to c_out channels.
    `hidden` overrules the channels between.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        layer: Layer,
        stride: int,
        residual: bool,
        squeeze: int,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        projects = layer.expansion > 1
        hidden = hidden or (c_in * layer.expansion if projects else c_out)
        project = Conv2dNormActivation(hidden, c_out, 1, activation_layer=None)
        self.residual = residual
        self.expand = Conv2dNormActivation(c_in, hidden, layer.kernel, stride)
        self.squeeze_excite = gate(hidden, squeeze, layer)
        self.project = project if projects else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, c_in, H, W] to [B, c_out, H / stride, W / stride]."""
        y = self.project(self.squeeze_excite(self.expand(x)))
        return x + y if self.residual else y


def gate(channels: int, squeeze: int, layer: Layer) -> nn.Module:
    """Return the layer's squeeze-and-excitation, or nothing where it has none."""
    return SqueezeExcitation(channels, squeeze) if layer.squeeze_excite else nn.Identity()


class Stem(nn.Module):
    """Normalisation and the first 3x3 convolution."""

    def __init__(self, width: int, stride: int, channels: int = 3) -> None:
        super().__init__()
        self.conv = Conv2dNormActivation(channels, width, 3, stride)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, C, H, W] in [0, 1] to features."""
        return self.conv((images - MEAN) / STD)


class UnitLength(nn.Module):
    """Vectors [B, D] brought to length 1."""

    def forward(self, vectors: Tensor) -> Tensor:
        """Divide by the length; a vector of zeros stays."""
        return vectors / vectors.norm(dim=1, keepdim=True).clamp(min=SHORTEST)


def ending(unit_length: bool) -> nn.Module:
    """Return what follows the classifier: nothing, or vectors are brought to length 1."""
    return UnitLength() if unit_length else nn.Identity()


class Head(nn.Module):
    """1x1 convolution, average over space, linear classifier; with width 0 no convolution.

    With `unit_length` the classifier gives a vector, which is brought to length 1.
    """

    def __init__(self, c_in: int, width: int, classes: int, unit_length: bool = False) -> None:
        super().__init__()
        self.conv = Conv2dNormActivation(c_in, width, 1) if width else nn.Identity()
        self.classifier = nn.Linear(width or c_in, classes)
        self.ending = ending(unit_length)

    def features(self, x: Tensor) -> Tensor:
        """Map features [B, C, H, W] to those that are classified, [B, W]."""
        return self.conv(x).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Map features [B, C, H, W] to logits, or vectors, [B, K]."""
        return self.ending(self.classifier(self.features(x)))


def block(space: SearchSpace, s: int, i: int, c_in: int, c_out: int, layer: Layer) -> nn.Module:
    """Build layer `i` of stage `s`, from 0; the first has the stride.

    A residual stands wherever input and output have one shape.
    """
    stride = space.stages[s].stride if i == 0 else 1
    operation = FusedMBConv if layer.operation == FUSED else MBConv
    residual = stride == 1 and c_in == c_out
    return operation(c_in, c_out, layer, stride, residual, space.squeeze_width(s, i))


class Student(nn.Module):
    """The network of one `Architecture`: images [B, C, H, W] in [0, 1] to logits [B, K].

    In a space of `unit_length` these are vectors of length 1.
    """

    def __init__(self, space: SearchSpace, architecture: Architecture) -> None:
        super().__init__()
        space.positions(architecture)
        width = architecture.stem_width
        self.stem = Stem(width, space.stem_stride, space.channels)
        self.stages = nn.ModuleList()
        for s, stage in enumerate(architecture.stages):
            blocks = nn.Sequential()
            for i, layer in enumerate(stage.layers):
                blocks.append(block(space, s, i, width, stage.width, layer))
                width = stage.width
            self.stages.append(blocks)
        self.head = Head(width, architecture.head_width, space.classes, space.unit_length)

    def body(self, images: Tensor) -> Tensor:
        """Map images [B, C, H, W] in [0, 1] to what enters the head."""
        x = self.stem(images)
        for blocks in self.stages:
            x = blocks(x)
        return x

    def features(self, images: Tensor) -> Tensor:
        """Map images [B, C, H, W] in [0, 1] to features [B, W], before the classifier."""
        return self.head.features(self.body(images))

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, C, H, W] in [0, 1] to logits [B, K]."""
        return self.head(self.body(images))


def parameters_and_macs(space: SearchSpace, architecture: Architecture) -> tuple[int, int]:
    """Count the student's parameters and its multiply-accumulates for one image."""
    with torch.device("meta"):
        student = Student(space, architecture).eval()
        image = torch.empty(1, *space.image_shape)
    with FlopCounterMode(display=False) as counter:
        student(image)
    return sum(p.numel() for p in student.parameters()), counter.get_total_flops() // 2
