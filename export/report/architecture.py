"""A student drawn to scale: every part's channels and pixels, and its share of the milliseconds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from export.report.figures import ACCENT, DEEP, MUTED, PALE, written

ROW, DENSE = 0.36, "fused"  # inches of a row; the operation that is drawn in another colour
LEAST = 0.06  # of a row's height and of the widest part, so that every part is seen


@dataclass(frozen=True)
class DrawnPart:
    """A part's name and form, its output's channels (0 for none) and pixels, and its time."""

    name: str
    form: str
    width: int
    size: tuple[int, int]
    ms: float


def architecture_figure(path: Path, parts: Sequence[DrawnPart]) -> None:
    """Draw a row a part, stem to head.

    On the left a box as wide as the part has channels and as high as its output has pixels, on
    the right a bar as long as its predicted milliseconds.
    """
    with written(path, width=9.0, height=1.1 + ROW * len(parts)) as figure:
        boxes, bars = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.7))
        _boxes(boxes, parts)
        _bars(bars, parts)
        boxes.set_yticks(range(len(parts)), [part.name for part in parts], fontsize=10)
        for axes in (boxes, bars):
            axes.set(ylim=(len(parts) - 0.5, -0.5), xticks=[])
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)


def _boxes(axes: Axes, parts: Sequence[DrawnPart]) -> None:
    widest, highest = max(part.width for part in parts), max(part.size[0] for part in parts)
    for row, part in enumerate(parts):
        if not part.width:
            continue
        width = max(part.width / widest, LEAST)
        height = 0.86 * max(part.size[0] / highest, LEAST)
        axes.add_patch(Rectangle((0, row - height / 2), width, height, color=_colour(part)))
        told = f"{part.width} × {part.size[0]}×{part.size[1]}"
        axes.text(width + 0.04, row, told, fontsize=9.5, va="center_baseline", color=MUTED)
    axes.set_xlim(0, 1.7)
    axes.set_title("channels × pixels", loc="left", fontsize=10.5)


def _bars(axes: Axes, parts: Sequence[DrawnPart]) -> None:
    total, slowest = sum(part.ms for part in parts), max(part.ms for part in parts)
    for row, part in enumerate(parts):
        length = part.ms / slowest
        axes.barh(row, length, 0.7, color=_colour(part))
        told = f"{part.ms:.3g} ms, {part.ms / total:.0%}: {part.form}"
        axes.text(length + 0.02, row, told, fontsize=9.5, va="center_baseline", color=MUTED)
    axes.set_xlim(0, 2.3)
    axes.set_title(f"predicted milliseconds, {total:.3g} together", loc="left", fontsize=10.5)


def _colour(part: DrawnPart) -> str:
    if part.name in ("stem", "head"):
        return PALE
    return ACCENT if part.form.startswith(DENSE) else DEEP
