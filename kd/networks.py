"""Networks by name, and weights from files that never execute code."""

import difflib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import timm
import torch
from timm.models import PretrainedCfg
from torch import Tensor, nn
from torchvision import models

from base.errors import UserError
from base.tensor_files import read_tensors

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


def build_network(name: str, classes: int) -> nn.Module:
    """Build the untrained network called `name`; `UserError`, with close matches, if unknown."""
    library, model = _known(name)
    if library == "small_resnet18":
        return small_image_resnet18(classes, int(model))
    if library == "torchvision":
        return models.get_model(model, weights=None, num_classes=classes)
    return timm.create_model(model, num_classes=classes)


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


def with_weights(name: str, checkpoint: Path | None, classes: int) -> nn.Module:
    """Build the network with the weights of the checkpoint, or the published ones."""
    if checkpoint is None:
        return _published(name, classes)
    network = build_network(name, classes)
    load_weights(network, read_checkpoint(checkpoint), classes, checkpoint)
    return network


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read a state dict from safetensors or torch.save (plain, or in "state_dict" or "model")."""
    if path.suffix == ".safetensors":
        weights, _ = read_tensors(path)
    else:
        weights = _unpickled(path)
    return {key.removeprefix("module."): value for key, value in weights.items()}


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
    other = {
        key
        for key in own.keys() & weights.keys()
        if weights[key].shape != own[key].shape
        and _is_head(tuple(weights[key].shape), tuple(own[key].shape), classes)
    }
    kept = {key: own[key] if key in other else value for key, value in weights.items()}
    load_weights(network, kept, classes, origin)


def _unpickled(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected .safetensors or a saved state dict")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage leads the unpickler anywhere
        raise UserError(
            f"{path}: no plain state dict (truncated, or it holds code, which is never run);"
            " save the state dict as .safetensors"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"{path}: no state dict; expected tensors by name, save model.state_dict()")
    return content


def _published(name: str, classes: int) -> nn.Module:
    """The network with its author's weights, downloaded once by its library."""
    library, model = _known(name)
    if library == "small_resnet18":
        raise UserError(f"teacher {name}: has no weights; give --teacher-checkpoint")
    published = _published_classes(library, model)
    if published != classes:
        raise _other_classes(f"teacher {name}", published, classes)
    try:
        if library == "timm":
            return timm.create_model(model, pretrained=True)
        return _torchvision_published(model)
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
