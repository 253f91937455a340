"""A rival by its name, and ladders of rivals that fill any budget."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torchvision import models

from base.errors import UserError
from kd.networks import build_network, load_all_but_classifier, published_input, read_checkpoint
from kd.rivals.families import plain_network, resnet
from kd.rivals.library import check_network, fit_strides

FAMILIES = {"plain": plain_network, "resnet": resnet}
AUTO = "auto"
SCRATCH = Path("scratch")
# For a family's first width; the others follow by its ratios.
RUNGS = (4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64, 80, 96, 128)
RATIOS: Mapping[str, Sequence[int]] = {"plain": (1, 4, 8, 16, 32), "resnet": (1, 2, 4, 8, 16)}
# Mobile networks of timm, each family from fast to slow.
LADDERS: Mapping[str, Sequence[str]] = {
    "mobilenetv2": tuple(f"timm:mobilenetv2_{x}" for x in ("035", "050", "075", "100", "140")),
    "mobilenetv3": (
        *(f"timm:mobilenetv3_small_{x}" for x in ("050", "075", "100")),
        *(f"timm:mobilenetv3_large_{x}" for x in ("075", "100", "150d")),
    ),
    "mobilenetv4": (
        *("timm:mobilenetv4_conv_small_035", "timm:mobilenetv4_conv_small_050"),
        *("timm:mobilenetv4_conv_small", "timm:mobilenetv4_conv_medium"),
        "timm:mobilenetv4_conv_large",
    ),
    "lcnet": tuple(f"timm:lcnet_{x}" for x in ("035", "050", "075", "100", "150")),
}


@dataclass(frozen=True)
class Outline:
    """What every rival has in common with the students: images [C, H, W], classes and strides.

    `strides` are the stem's and those of the stages that have one above 1.
    """

    image_shape: tuple[int, int, int]
    classes: int
    strides: tuple[int, ...]


class Rival(nn.Module):
    """A network with its normalisation: images [B, C, H, W] in [0, 1] to logits [B, K].

    A network of colours takes a grey image as three equal channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, C, H, W] in [0, 1] to logits [B, K]."""
        return self.network((images - self.mean) / self.std)


def build_rival(name: str, outline: Outline, checkpoint: Path | None = None) -> Rival:
    """Build the rival called `name`: plain:W1-W2-W3, resnet:W1-W2-W3, or a library's network.

    Names of timm and torchvision need no prefix. A library's network is fitted to small images, and
    gets the weights of `checkpoint`, where one is given, but for a classifier of other classes.
    Raises `UserError` for an unknown name, widths that do not fit, or a network that does not take
    such images.
    """
    family, _, widths = name.partition(":")
    if family in FAMILIES:
        if checkpoint is not None:
            raise UserError(f"rival {name}: takes no checkpoint; give scratch in its place")
        sizes, channels = _widths(name, widths, outline), outline.image_shape[0]
        network, halves = (
            FAMILIES[family](sizes, outline.strides, outline.classes, channels),
            (0.5,),
        )
        return Rival(network, halves * channels, halves * channels)
    known = _library_name(name)
    network = build_network(known, outline.classes)
    if checkpoint is not None:
        weights = read_checkpoint(checkpoint)
        load_all_but_classifier(network, weights, outline.classes, checkpoint)
    fit_strides(network, outline.image_shape[1:])
    check_network(name, network, outline.image_shape[1:], outline.classes)
    wanted = published_input(known)
    return Rival(network, wanted.mean, wanted.std)


def build_rivals(
    names: Sequence[str], checkpoints: Sequence[Path], outline: Outline, seed: int
) -> dict[str, Rival]:
    """Build the rivals that are named, but for `auto`, each from the same seed.

    `checkpoints` are one for each, `SCRATCH` for none; or there are none at all. Raises `UserError`
    as `build_rival` does.
    """
    if checkpoints and len(checkpoints) != len(names):
        raise UserError(
            f"--rival-checkpoint: {len(checkpoints)} for {len(names)} rivals; give one each, "
            f"{SCRATCH} for none"
        )
    found = {}
    for name, path in zip(names, checkpoints or (SCRATCH,) * len(names), strict=True):
        if name != AUTO:
            torch.manual_seed(seed)
            found[name] = build_rival(name, outline, None if path == SCRATCH else path)
    return found


def _widths(name: str, widths: str, outline: Outline) -> list[int]:
    sizes = [int(width) if width.isdecimal() else 0 for width in widths.split("-")]
    if len(sizes) != len(outline.strides) or min(sizes) < 1:
        example = "-".join(str(16 * 2**i) for i in range(len(outline.strides)))
        raise UserError(
            f"rival {name}: expected {len(outline.strides)} widths, one for each of the strides "
            f"{'-'.join(map(str, outline.strides))}, such as {name.partition(':')[0]}:{example}"
        )
    return sizes


def _library_name(name: str) -> str:
    """Return a library's network with its library; raise `UserError` where there is none."""
    if name.partition(":")[0] in ("timm", "torchvision"):
        return name
    if name in timm.list_models():
        return f"timm:{name}"
    if name in models.list_models(module=models):
        return f"torchvision:{name}"
    known = [*timm.list_models(), *(f"{family}:16-32-64" for family in FAMILIES), AUTO]
    close = ", ".join(difflib.get_close_matches(name, known)) or "mobilenetv3_small_100"
    raise UserError(
        f"rival {name}: unknown; expected a network of timm or torchvision such as {close}, "
        f"plain:W1-W2-W3, resnet:W1-W2-W3 or {AUTO}"
    )


def ladders(outline: Outline) -> dict[str, list[str]]:
    """Return names of rivals by family, from fast to slow: what `auto` chooses among."""
    count = len(outline.strides)
    own = {
        family: [
            f"{family}:{'-'.join(str(rung * ratio) for ratio in ratios[:count])}" for rung in RUNGS
        ]
        for family, ratios in RATIOS.items()
    }
    return own | {family: list(names) for family, names in LADDERS.items()}
