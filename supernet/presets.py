"""The search spaces that come with Oyster."""

from dataclasses import dataclass

from base.errors import UserError
from supernet.space import FUSED, MBCONV, OperationSpace, SearchSpace, StageSpace

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

    resolution: int
    stem_stride: int
    stem_widths: tuple[int, ...]
    stages: tuple[StageSpace, ...]
    head_widths: tuple[int, ...]


PRESETS = {
    "digits": Preset(
        resolution=16,
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
        resolution=32,
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
        resolution=224,
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


def preset_resolution(name: str) -> int:
    """Return the pixels of a preset's images; unknown names raise `UserError`."""
    if name not in PRESETS:
        raise UserError(f"preset {name!r} is unknown; choose one of {', '.join(PRESETS)}")
    return PRESETS[name].resolution


def preset_space(name: str, classes: int) -> SearchSpace:
    """Return the search space of a preset for `classes` classes; unknown names: `UserError`."""
    resolution, preset = preset_resolution(name), PRESETS[name]
    return SearchSpace(
        name,
        resolution,
        classes,
        preset.stem_stride,
        preset.stem_widths,
        preset.stages,
        preset.head_widths,
    )
