"""What a user would take off the shelf: families of networks, scaled to fill budgets."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from timm.models.efficientnet import _gen_mobilenet_v2
from timm.models.mobilenetv3 import _gen_lcnet, _gen_mobilenet_v3, _gen_mobilenet_v4
from torch import nn
from tqdm import tqdm

from export.timing.rough import quick_ms
from export.timing.stopwatch import Patience, Runner
from kd.rivals.library import fit_strides
from kd.rivals.rival import Outline, Rival, build_rival
from supernet.latency.runners import module_runner, unit_of_table
from supernet.latency.students import measure_students
from supernet.latency_table import LatencyTable

# Widths of the stages in those of the first one.
PLAIN = ((1, 4, 8), (1, 2, 4), (1, 3, 6), (1, 2, 2), (1, 4, 4))
RESNET = ((1, 2, 4), (1, 2, 3), (1, 3, 6), (1, 1, 2), (1, 4, 8))
FIRST_WIDTHS = (4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64)
# timm's own names end at 0.35 and 0.5, which small budgets are too small for.
MULTIPLIERS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0)
MOBILE: Mapping[str, Callable[..., nn.Module]] = {
    "mobilenetv2": partial(_gen_mobilenet_v2, "mobilenetv2_100"),
    "mobilenetv3": partial(_gen_mobilenet_v3, "mobilenetv3_small_100"),
    "mobilenetv4": partial(_gen_mobilenet_v4, "mobilenetv4_conv_small"),
    "lcnet": partial(_gen_lcnet, "lcnet_100"),
}


def network(name: str, outline: Outline) -> nn.Module:
    """Build plain:W1-W2-W3, resnet:W1-W2-W3, or FAMILY:MULTIPLIER of `MOBILE`."""
    family, _, scale = name.partition(":")
    if family not in MOBILE:
        return build_rival(name, outline)
    mobile = MOBILE[family](channel_multiplier=float(scale), num_classes=outline.classes)
    fit_strides(mobile, outline.image_shape[1:])
    return Rival(mobile, (0.5,) * 3, (0.5,) * 3)


def families() -> dict[str, list[str]]:
    """Return names from small to large, by family and shape."""
    found = {
        f"{kind}, {'-'.join(map(str, ratios))}": [
            f"{kind}:{'-'.join(str(ratio * width) for ratio in ratios)}" for width in FIRST_WIDTHS
        ]
        for kind, shapes in (("plain", PLAIN), ("resnet", RESNET))
        for ratios in shapes
    }
    return found | {family: [f"{family}:{m}" for m in MULTIPLIERS] for family in MOBILE}


def filling(
    table: LatencyTable, outline: Outline, budgets: Sequence[float], patience: Patience
) -> dict[tuple[float, str], str]:
    """Return for every budget and family the slowest network within it, where one is.

    A family's networks are timed from the smallest on until one is far over the largest budget, all
    of them interleaved, in the table's unit of work.
    """
    unit, runners = unit_of_table(table), {}
    for names in tqdm(families().values(), desc="exports", unit="family"):
        for name in names:
            runners[name] = module_runner(network(name, outline), unit)
            if quick_ms(runners[name]) > 1.5 * max(budgets):
                break
    ms, found = measured_ms(runners, table, patience), {}
    for target_ms in budgets:
        for family, names in families().items():
            if within := [name for name in names if ms.get(name, np.inf) <= target_ms]:
                found[target_ms, family] = within[-1]
    return found


def measured_ms(
    runners: Mapping[str, Runner], table: LatencyTable, patience: Patience
) -> dict[str, float]:
    """Return the milliseconds of every runner on the table's day, all timed interleaved."""
    about_ms = [quick_ms(runner) for runner in runners.values()]
    timings = measure_students(runners, about_ms, table, patience, seed=0)
    return {name: timing.ms for name, timing in timings.items()}
