"""The search spaces that come with Oyster."""

import math
from dataclasses import dataclass
from typing import Annotated

import tyro

from base.errors import UserError
from base.exit_status import run_script
from base.size import Size, asked_as, parse_size
from supernet.space import FUSED, MBCONV, OperationSpace, SearchSpace, StageSpace

LEAST_PIXELS = 8
NO_SE, BOTH_SE = (False,), (False, True)


def mbconv(
    kernels: tuple[int, ...], expansions: tuple[int, ...], squeeze_excite: tuple[bool, ...] = NO_SE
) -> OperationSpace:
    """Return these forms of `mbconv`."""
    return OperationSpace(MBCONV, kernels, expansions, squeeze_excite)


def fused(*expansions: int) -> OperationSpace:
    """Return `fused` of side 3: wider dense convolutions cost more than they bring."""
    return OperationSpace(FUSED, (3,), expansions, NO_SE)


@dataclass(frozen=True)
class Preset:
    """Everything of a search space but the number of classes, which the data decides."""

    name: str
    resolution: Size
    stem_stride: int
    stem_widths: tuple[int, ...]
    stages: tuple[StageSpace, ...]
    head_widths: tuple[int, ...]

    def stride(self) -> int:
        """Return how many pixels of an image's side become one of the last features'."""
        return self.stem_stride * math.prod(stage.stride for stage in self.stages)

    def size(self, asked: str | None = None) -> Size:
        """Return the size of images: its own, or the one that is asked for, such as 96x160.

        Raises `UserError` for one that the strides do not divide, with the nearest that fit.
        """
        size, strides = parse_size(asked) if asked else self.resolution, self.stride()
        least = strides * -(-LEAST_PIXELS // strides)
        if any(side % strides or side < least for side in size):
            lower, upper = (
                tuple(max(least, strides * rounded(side / strides)) for side in size)
                for rounded in (math.floor, math.ceil)
            )
            others = " or ".join(dict.fromkeys(map(asked_as, (lower, upper))))
            raise UserError(
                f"resolution {asked_as(size)}: space {self.name} takes sides from {least} on in "
                f"steps of {strides}; give {others}"
            )
        return size

    def space(
        self,
        classes: int,
        size: Size | None = None,
        channels: int = 3,
        unit_length: bool = False,
    ) -> SearchSpace:
        """Return the search space for `classes` classes, or vectors of as many numbers."""
        fields = (self.stem_stride, self.stem_widths, self.stages, self.head_widths)
        size = size or self.resolution
        return SearchSpace(self.name, size, classes, *fields, channels, unit_length)


PRESETS = {
    "digits": Preset(
        name="digits",
        resolution=(16, 16),
        stem_stride=1,
        stem_widths=(16,),
        stages=(
            StageSpace(1, (16, 32), (1, 2), (mbconv((3, 5), (1, 3)), fused(1, 2))),
            StageSpace(2, (16, 32, 48), (1, 2, 3), (mbconv((3, 5), (2, 4)), fused(1, 2))),
            StageSpace(2, (32, 48, 64), (1, 2, 3), (mbconv((3, 5), (2, 4)), fused(1, 2))),
        ),
        head_widths=(0, 128),
    ),
    "cifar10": Preset(
        name="cifar10",
        resolution=(32, 32),
        stem_stride=1,
        stem_widths=(16, 32),
        stages=(
            StageSpace(1, (16, 24), (1, 2), (mbconv((3, 5), (1, 3)), fused(1, 2))),
            StageSpace(2, (24, 32, 48), (1, 2, 3), (mbconv((3, 5), (3, 6), BOTH_SE), fused(1, 2))),
            StageSpace(2, (48, 64, 96), (1, 2, 3), (mbconv((3, 5), (3, 6), BOTH_SE), fused(1, 2))),
            StageSpace(1, (96, 128, 160), (1, 2), (mbconv((3, 5), (3, 6), BOTH_SE), fused(1, 2))),
        ),
        head_widths=(0, 256),
    ),
    "imagenet": Preset(
        name="imagenet",
        resolution=(224, 224),
        stem_stride=2,
        stem_widths=(16, 32),
        stages=(
            StageSpace(1, (8, 16, 24), (1,), (mbconv((3,), (1,)), fused(1))),
            StageSpace(2, (16, 24, 40), (1, 2, 3), (mbconv((3, 5), (3, 6)), fused(2, 4))),
            StageSpace(2, (24, 40, 64), (1, 2, 3), (mbconv((3, 5), (3, 6), BOTH_SE), fused(2, 4))),
            StageSpace(2, (48, 80, 128), (1, 2, 3), (mbconv((3, 5), (3, 6), BOTH_SE),)),
            StageSpace(1, (64, 112, 160), (1, 2, 3), (mbconv((3, 5), (3, 6), BOTH_SE),)),
            StageSpace(2, (96, 160, 256), (1, 2, 3), (mbconv((3, 5), (3, 6), BOTH_SE),)),
        ),
        head_widths=(0, 640, 1280),
    ),
}


def preset(name: str) -> Preset:
    """Return the preset called `name`; an unknown one raises `UserError`."""
    if name not in PRESETS:
        raise UserError(f"preset {name!r} is unknown; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def preset_space(name: str, classes: int) -> SearchSpace:
    """Return the search space of a preset for `classes` classes; unknown names: `UserError`."""
    return preset(name).space(classes)


def preset_text(own: Preset) -> str:
    """Return a preset as a TOML file, to be changed and given as --space."""
    size = asked_as(own.resolution)
    lines = [
        f"# A search space for --space, begun from {own.name}; docs/spaces.md explains each field.",
        f"resolution = {size if size.isdecimal() else repr(size)}",
        f"stem_stride = {own.stem_stride}",
        f"stem_widths = {list(own.stem_widths)}",
        f"head_widths = {list(own.head_widths)}  # 0: the classifier alone",
    ]
    for number, stage in enumerate(own.stages, start=1):
        lines += ["", f"[[stages]]  # {number}", f"stride = {stage.stride}"]
        lines += [f"widths = {list(stage.widths)}", f"depths = {list(stage.depths)}"]
        for operation in stage.operations:
            gates = str(list(operation.squeeze_excite)).lower()
            lines += ["[[stages.operations]]", f'name = "{operation.name}"']
            lines += [f"kernels = {list(operation.kernels)}"]
            lines += [f"expansions = {list(operation.expansions)}", f"squeeze_excite = {gates}"]
    return "\n".join(lines) + "\n"


def main(name: Annotated[str, tyro.conf.Positional]) -> None:
    """Print a preset as a TOML file, to be changed and given as --space.

    Args:
        name: digits, cifar10 or imagenet.
    """
    print(preset_text(preset(name)), end="")


if __name__ == "__main__":
    run_script("presets", lambda: tyro.cli(main), "run it again")
