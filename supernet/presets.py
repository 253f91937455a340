"""The search spaces that come with Oyster."""

from dataclasses import dataclass

from base.errors import UserError
from supernet.space import SearchSpace, StageSpace

NO_SE, BOTH_SE = (False,), (False, True)


@dataclass(frozen=True)
class Preset:
    """Everything of a search space but the number of classes, which the data decides."""

    resolution: int
    stem_width: int
    stem_stride: int
    head_width: int
    stages: tuple[StageSpace, ...]


PRESETS = {
    "digits": Preset(
        resolution=16,
        stem_width=16,
        stem_stride=1,
        head_width=128,
        stages=(
            StageSpace(1, (8, 16), (1, 2), (3, 5), (1, 3), BOTH_SE),
            StageSpace(2, (16, 24, 32), (1, 2, 3), (3, 5), (2, 4), BOTH_SE),
            StageSpace(2, (32, 48, 64), (1, 2, 3), (3, 5), (2, 4), BOTH_SE),
        ),
    ),
    "cifar10": Preset(
        resolution=32,
        stem_width=16,
        stem_stride=1,
        head_width=256,
        stages=(
            StageSpace(1, (16, 24), (1, 2), (3, 5), (3, 6), BOTH_SE),
            StageSpace(2, (24, 32, 48), (1, 2, 3), (3, 5, 7), (3, 6), BOTH_SE),
            StageSpace(2, (48, 64, 96), (1, 2, 3), (3, 5, 7), (3, 6), BOTH_SE),
            StageSpace(1, (96, 128, 160), (1, 2), (3, 5), (3, 6), BOTH_SE),
        ),
    ),
    "imagenet": Preset(
        resolution=224,
        stem_width=32,
        stem_stride=2,
        head_width=1280,
        stages=(
            StageSpace(1, (16,), (1,), (3,), (1,), NO_SE),
            StageSpace(2, (24, 32), (2, 3), (3, 5), (3, 6), NO_SE),
            StageSpace(2, (40, 48), (2, 3), (3, 5), (3, 6), BOTH_SE),
            StageSpace(2, (80, 96), (2, 3), (3, 5), (3, 6), NO_SE),
            StageSpace(1, (112, 128), (1, 2), (3, 5), (3, 6), BOTH_SE),
            StageSpace(2, (160, 192), (2, 3), (3, 5), (3, 6), BOTH_SE),
            StageSpace(1, (320,), (1,), (3, 5), (3, 6), NO_SE),
        ),
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
        preset.stem_width,
        preset.stem_stride,
        preset.head_width,
        preset.stages,
    )
