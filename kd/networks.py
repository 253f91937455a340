"""Networks by name, and weights from files that never execute code."""

import difflib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import timm
from timm.models import PretrainedCfg
from torch import Tensor, nn
from torchvision import models

from base.errors import UserError
from base.size import Size, pixels_text
from kd.weight_files import read_checkpoint, unwrapped

RGB = tuple[float, float, float]
Channels = Literal["rgb", "bgr", "grey"]
Interpolation = Literal["nearest", "bilinear", "bicubic"]
SMALL_PREFIX = "small_resnet18:"


@dataclass(frozen=True)
class InputFormat:
    """The input format of a network; without a resolution it takes images as they are.

    Of a plain image it is shown the centre, after its shorter side was made `resize` pixels long;
    0 squeezes the whole image. None cuts it as students' images are cut.
    """

    mean: RGB = (0.0, 0.0, 0.0)
    std: RGB = (1.0, 1.0, 1.0)
    resolution: int | None = None  # pixels
    interpolation: Interpolation = "bilinear"
    resize: int | None = None  # pixels
    channels: Channels = "rgb"


def small_image_resnet18(classes: int, stride: int) -> nn.Module:
    """Build ResNet-18 (He et al. 2016) for 16 to 64 pixels: 3 x 3 stem, no max-pooling."""
    network = models.resnet18(num_classes=classes)
    network.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=stride, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


def build_network(name: str, classes: int, size: Size | None = None) -> nn.Module:
    """Build the untrained network called `name`, of timm for images of `size` where that matters.

    Raises `UserError`, with close matches, if it is unknown, and where it cannot have that size.
    """
    library, model = _known(name)
    if library == "small_resnet18":
        return small_image_resnet18(classes, int(model))
    if library == "torchvision":
        return models.get_model(model, weights=None, num_classes=classes)
    return _timm(model, size, num_classes=classes)


def _timm(model: str, size: Size | None, **options: object) -> nn.Module:
    """Build a network of timm; some are built for images of one size, their own when None."""
    config = timm.get_pretrained_cfg(model)
    if size is None or not config.fixed_input_size or size == tuple(config.input_size[-2:]):
        return timm.create_model(model, **options)
    try:
        return timm.create_model(model, img_size=size, **options)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"timm:{model}: cannot be built for images of {pixels_text(size)} pixels ({reason});"
            " give another --teacher-resolution, or leave it"
        ) from error


def _known(name: str) -> tuple[str, str]:
    """(library, model) of a name that exists."""
    library, _, model = name.partition(":")
    known = [f"{SMALL_PREFIX}{stride}" for stride in (1, 2)]
    known += [f"torchvision:{m}" for m in models.list_models(module=models)]
    known += [f"timm:{m}" for m in [*timm.list_models(), *timm.list_pretrained()]]
    if name in known:
        return library, model
    # A bare name is the usual slip, and timm has nearly all of them.
    wanted = name if model else f"timm:{name}"
    close = ", ".join(difflib.get_close_matches(wanted, known)) or f"{SMALL_PREFIX}2"
    raise UserError(f"{name}: unknown network; expected LIBRARY:NAME, such as {close}")


class OneChannel(nn.Module):
    """A network of grey images, shown the first of three channels."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, 3, H, W] to outputs [B, K]."""
        return self.network(images[:, :1])


def with_weights(
    name: str,
    checkpoint: Path | None,
    classes: int,
    key: str | None = None,
    size: Size | None = None,
) -> nn.Module:
    """Build the network with the weights of the checkpoint, or the published ones.

    `key` and `size` are those of `read_checkpoint` and `build_network`. A checkpoint of grey images
    makes a `OneChannel`.
    """
    if checkpoint is None:
        return _published(name, classes, size)
    network = build_network(name, classes, size)
    weights = read_checkpoint(checkpoint, key)
    weights = unwrapped(weights, network.state_dict().keys(), checkpoint)
    grey = _made_grey(network, weights)
    load_weights(network, weights, classes, checkpoint)
    return OneChannel(network) if grey else network


def _made_grey(network: nn.Module, weights: dict[str, Tensor]) -> bool:
    """Give the first convolution one channel where the weights have one; return whether so."""
    convolutions = (one for one in network.named_modules() if isinstance(one[1], nn.Conv2d))
    place, first = next(convolutions, ("", None))
    given = weights.get(f"{place}.weight")
    if given is None or given.ndim != 4 or given.shape[1] != 1 or first.in_channels == 1:
        return False
    first.in_channels, first.weight = 1, nn.Parameter(first.weight[:, :1].clone())
    return True


def load_weights(
    network: nn.Module, weights: dict[str, Tensor], classes: int, origin: Path | str
) -> None:
    """Copy `weights` into `network`; raise `UserError` unless every key and shape fits."""
    wanted = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in weights.items()}
    faults = [f"{key} missing" for key in sorted(wanted.keys() - given.keys())]
    faults += [f"{key} unexpected" for key in sorted(given.keys() - wanted.keys())]
    shared = [key for key in sorted(wanted.keys() & given.keys()) if wanted[key] != given[key]]
    heads = {given[k][0] for k in shared if _is_head(given[k], wanted[k], classes)}
    if len(heads) == 1 and not faults and len(shared) <= 4:
        raise _other_classes(origin, heads.pop(), classes)
    faults += [f"{key} is {list(given[key])}, expected {list(wanted[key])}" for key in shared]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise UserError(
            f"{origin}: does not fit the network: {'; '.join(faults[:3])}{more};"
            " give the checkpoint of this network or name another"
        )
    network.load_state_dict(weights)


def load_all_but_classifier(
    network: nn.Module, weights: dict[str, Tensor], classes: int, origin: Path | str
) -> None:
    """Copy `weights` into `network`, whose classifier stays where that is of other classes.

    Raises `UserError` unless every other key and shape fits.
    """
    own = network.state_dict()
    weights = unwrapped(weights, own.keys(), origin)
    other = {
        key
        for key in own.keys() & weights.keys()
        if weights[key].shape != own[key].shape
        and _is_head(tuple(weights[key].shape), tuple(own[key].shape), classes)
    }
    kept = {key: own[key] if key in other else value for key, value in weights.items()}
    load_weights(network, kept, classes, origin)


def _published(name: str, classes: int, size: Size | None) -> nn.Module:
    """The network with its author's weights, downloaded once by its library."""
    library, model = _known(name)
    if library == "small_resnet18":
        raise UserError(f"teacher {name}: has no weights; give --teacher-checkpoint")
    published = _published_classes(library, model)
    if published != classes:
        raise _other_classes(f"teacher {name}", published, classes)
    try:
        if library == "timm":
            return _timm(model, size, pretrained=True)
        return _torchvision_published(model)
    except UserError:
        raise
    except Exception as error:  # each hub raises a family of errors of its own
        raise UserError(
            f"teacher {name}: published weights cannot be fetched ({type(error).__name__});"
            " give --teacher-checkpoint"
        ) from error


def _torchvision_published(model: str) -> nn.Module:
    # torchvision's own loading would unpickle freely; the state dict alone is enough.
    network = models.get_model(model, weights=None)
    weights = models.get_model_weights(model).DEFAULT
    network.load_state_dict(weights.get_state_dict(check_hash=True, weights_only=True))
    if hasattr(network, "transform_input"):  # set by torchvision with published weights only
        network.transform_input = True
    return network


def _published_classes(library: str, model: str) -> int:
    if library == "timm":
        return timm.get_pretrained_cfg(model).num_classes
    return len(models.get_model_weights(model).DEFAULT.meta["categories"])


def published_input(name: str) -> InputFormat:
    """Return the input format of a network's published weights; the default for our own."""
    library, model = _known(name)
    if library == "timm":
        return _timm_input(timm.get_pretrained_cfg(model))
    if library == "torchvision":
        wanted = models.get_model_weights(model).DEFAULT.transforms()
        mean, std, mode = tuple(wanted.mean), tuple(wanted.std), wanted.interpolation.value
        return InputFormat(mean, std, wanted.crop_size[0], mode, wanted.resize_size[0])
    return InputFormat()


def _timm_input(config: PretrainedCfg) -> InputFormat:
    """Return the input format, with timm's own rule of what is cut out of a plain image."""
    size, mode = config.input_size[-1], config.interpolation
    resize = 0 if config.crop_mode == "squash" else math.floor(size / config.crop_pct)
    # Tensors cannot be resized in every way of Pillow's.
    mode = mode if mode in ("bilinear", "bicubic", "nearest") else "bicubic"
    return InputFormat(config.mean, config.std, size, mode, resize)


def _is_head(given: tuple[int, ...], wanted: tuple[int, ...], classes: int) -> bool:
    return bool(given and wanted) and wanted[0] == classes and given[1:] == wanted[1:]


def _other_classes(origin: Path | str, found: int, classes: int) -> UserError:
    return UserError(
        f"{origin}: {found} classes, the data has {classes};"
        " give a checkpoint trained on these classes, or name the teacher's with --teacher-classes"
    )
