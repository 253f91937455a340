"""Figures as PNG files, readable at the width of a README."""

import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from base.files import write_atomic
from base.streams import utf8

INK, MUTED, GRID = "#1f2933", "#7b8794", "#e4e7eb"
DEEP, PALE, ACCENT = "#0b5d7a", "#b8c4ce", "#e07a1f"
_SHADES = LinearSegmentedColormap.from_list("shades", ["#f4f7f9", "#8fc1d0", DEEP])
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "text.color": INK,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
}
ACCURACY = "accuracy"  # a quality that is drawn in %
_LOG_SPAN = 4.0
_MEAN_FRACTION = 20  # the dark line of a curve is the mean over 1/20 of its rows, centred
_PANEL_COLUMNS = 3
_DECISIONS_PER_COLUMN = 24
_BESIDE = 4  # choices of a decision whose name and probability have room beside each other


@dataclass(frozen=True)
class Point:
    """One network: milliseconds, and its quality, accuracy as a fraction or a mean cosine.

    What is not within -1 and 1 is a `ValueError`.
    """

    ms: float
    quality: float

    def __post_init__(self) -> None:
        if not -1 <= self.quality <= 1:
            raise ValueError(f"quality={self.quality}: expected a fraction or a mean cosine")


def front_figure(
    path: Path,
    searched: Sequence[Point],
    random: Sequence[Point],
    unit: str,
    quality: str,
    where: str,
    images: int,
    student: Point | None = None,
    target_ms: float | None = None,
) -> None:
    """Draw quality against latency: searched students as a line among random architectures.

    `quality` is the name of what is drawn, accuracy or cosine, found `where` it is said, on so many
    `images`: an accuracy has a bar of one standard error.

    `unit` says what was timed. A star marks the final `student`, a dashed line the budget. The
    latency axis is logarithmic when it spans more than a factor of 4.
    """
    searched = sorted(searched, key=lambda point: point.ms)
    with written(path, width=8.0, height=4.8) as figure:
        axes = figure.add_subplot()
        axes.grid(visible=True)
        if random:
            axes.plot(*_xy(random), "o", color=PALE, ms=7, mec="white", label="random")
        if searched:
            line = {"lw": 2.2, "ms": 8, "mec": "white", "mew": 1.2}
            name = "searched"
            if quality == ACCURACY:
                bars = {"fmt": "none", "ecolor": DEEP, "elinewidth": 1.2, "capsize": 3}
                axes.errorbar(*_xy(searched), standard_errors(searched, images), zorder=2, **bars)
                name = f"searched, ± one standard error of {images} images"
            axes.plot(*_xy(searched), "o-", color=DEEP, label=name, zorder=3, **line)
        if student is not None:
            star = {"color": ACCENT, "ms": 20, "mec": "white"}
            axes.plot(student.ms, student.quality, "*", label="student", zorder=4, **star)
        if target_ms is not None:
            budget = f"budget {target_ms:g} ms"
            axes.axvline(target_ms, color=ACCENT, ls=(0, (5, 4)), lw=1.5, label=budget, zorder=2)
        spots = [point.ms for point in (*searched, *random, *([student] if student else []))]
        _latency_axis(axes, [*spots, *([] if target_ms is None else [target_ms])])
        if quality == ACCURACY:
            axes.yaxis.set_major_formatter(lambda accuracy, _: f"{100 * accuracy:g} %")
        axes.set_ylabel(f"{quality} {where}")
        if spots:
            axes.legend(loc="best")
        _title(axes, f"{quality.capitalize()} against latency", unit)


def standard_errors(points: Sequence[Point], images: int) -> list[float]:
    """Return the standard error of every accuracy, found on so many images: that of a share."""
    return [math.sqrt(p.quality * (1 - p.quality) / images) for p in points]


def students_figure(
    path: Path,
    students: Mapping[str, Point],
    front: Sequence[Point],
    teacher: float | None,
    unit: str,
) -> None:
    """Draw the finished students by name, their Pareto front as a line, the teacher's accuracy."""
    with written(path, width=8.0, height=4.8) as figure:
        axes = figure.add_subplot()
        axes.grid(visible=True)
        if teacher is not None:
            line = {"color": MUTED, "ls": (0, (5, 4)), "lw": 1.5}
            axes.axhline(teacher, **line, label="teacher", zorder=2)
        axes.plot(*_xy(front), "-", color=DEEP, lw=2.2, label="Pareto front", zorder=3)
        star = {"color": ACCENT, "ms": 16, "mec": "white"}
        axes.plot(*_xy(list(students.values())), "*", label="students", zorder=4, **star)
        for name, point in students.items():
            below = {"xytext": (0, -16), "textcoords": "offset points", "ha": "center"}
            axes.annotate(utf8(name), (point.ms, point.quality), fontsize=9.5, color=MUTED, **below)
        _latency_axis(axes, [point.ms for point in students.values()])
        axes.yaxis.set_major_formatter(lambda accuracy, _: f"{100 * accuracy:g} %")
        axes.set_ylabel("accuracy on the test split")
        axes.margins(x=0.12, y=0.2)
        axes.legend(loc="best")
        _title(axes, "Students of this run", unit)


def predicted_figure(
    path: Path, panels: Mapping[str, tuple[Sequence[float], Sequence[float]]]
) -> None:
    """Draw predicted against measured milliseconds, one panel for each (predicted, measured)."""
    with written(path, width=4.2 * len(panels), height=4.4) as figure:
        grid = figure.subplots(1, len(panels), squeeze=False).ravel()
        for axes, (title, (predicted, measured)) in zip(grid, panels.items(), strict=True):
            axes.grid(visible=True)
            ends = [min(*predicted, *measured) * 0.95, max(*predicted, *measured) * 1.05]
            axes.plot(ends, ends, "-", color=MUTED, lw=1)
            axes.plot(predicted, measured, "o", color=DEEP, ms=6, mec="white")
            axes.set(xlabel="predicted (ms)", ylabel="measured (ms)", aspect="equal")
            axes.set_title(title, loc="left", fontsize=11)


def _xy(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [point.ms for point in points], [point.quality for point in points]


def _latency_axis(axes: Axes, ms: Sequence[float]) -> None:
    axes.set_xlabel("latency (ms)")
    if ms and max(ms) > _LOG_SPAN * min(ms):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())


def _title(axes: Axes, title: str, subtitle: str) -> None:
    text = {"xycoords": "axes fraction", "textcoords": "offset points"}
    axes.annotate(title, (0, 1), (0, 26), fontsize=14, fontweight="bold", **text)
    axes.annotate(subtitle, (0, 1), (0, 10), fontsize=9.5, color=MUTED, **text)


def curves_figure(
    path: Path, metrics: Sequence[Mapping[str, object]], panels: Sequence[tuple[str, str]]
) -> None:
    """Draw one small panel for each (phase, name): that number of that phase against its step.

    Pale: every row; dark: the centred mean over 1/20 of the rows. No panels: `ValueError`.
    """
    if not panels:
        raise ValueError("panels: expected at least one (phase, name)")
    columns = min(_PANEL_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    with written(path, width=max(3.0 * columns, 4.5), height=2.2 * rows + 0.3) as figure:
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, (phase, name) in zip(grid, panels, strict=False):
            _curve(axes, *_series(metrics, phase, name))
            axes.set_title(utf8(f"{phase} · {name}"), loc="left", fontsize=10.5)
        figure.supxlabel("step", fontsize=10)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()


def _series(
    metrics: Sequence[Mapping[str, object]], phase: str, name: str
) -> tuple[list[float], list[float]]:
    rows = [row for row in metrics if row.get("phase") == phase and row.get(name) is not None]
    return [float(row["step"]) for row in rows], [float(row[name]) for row in rows]


def _curve(axes: Axes, steps: list[float], values: list[float]) -> None:
    axes.grid(visible=True)
    axes.tick_params(labelsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    if not steps:
        axes.text(0.5, 0.5, "no rows", color=MUTED, ha="center", transform=axes.transAxes)
        return
    half = len(values) // _MEAN_FRACTION // 2
    width = 2 * half + 1
    means = np.convolve(values, np.full(width, 1 / width), mode="valid")
    if half:
        axes.plot(steps, values, color=PALE, lw=0.8)
    marker = "" if half else "."
    axes.plot(steps[half : len(steps) - half], means, color=DEEP, lw=1.8, marker=marker)


def choices_figure(path: Path, probabilities: Mapping[str, Mapping[str, float]]) -> None:
    """Draw each decision as a strip of its choices; the darker a cell, the more probable."""
    columns = max(1, math.ceil(len(probabilities) / _DECISIONS_PER_COLUMN))
    rows = math.ceil(len(probabilities) / columns)
    decisions = list(probabilities.items())
    with written(path, width=6.4 * columns, height=0.8 + 0.36 * rows) as figure:
        for column, axes in enumerate(figure.subplots(1, columns, squeeze=False).ravel()):
            _strips(axes, decisions[column * rows : (column + 1) * rows], rows)
        figure.suptitle("Probability of each choice", x=0.02, ha="left", fontweight="bold")


def _strips(axes: Axes, decisions: Sequence[tuple[str, Mapping[str, float]]], rows: int) -> None:
    for row, (_, choices) in enumerate(decisions):
        width, beside = 1 / len(choices), len(choices) <= _BESIDE
        for place, (choice, probability) in enumerate(choices.items()):
            left, right = place * width, (place + 1) * width
            color = _SHADES(probability)
            axes.barh(row, width, 0.86, left, color=color, edgecolor="white", lw=1.5)
            ink = "white" if probability > 0.75 else INK
            text = {"color": ink, "fontsize": 9.5 if beside else 7.5, "va": "center_baseline"}
            name, share = {"s": choice, "fontweight": "bold"}, f"{100 * probability:.0f} %"
            if beside:
                axes.text(left + 0.02, row, **name, **text)
                axes.text(right - 0.02, row, share, ha="right", **text)
            else:
                axes.text((left + right) / 2, row - 0.2, ha="center", **name, **text)
                axes.text((left + right) / 2, row + 0.22, share, ha="center", **text)
    axes.set_yticks(range(len(decisions)), [utf8(name) for name, _ in decisions], fontsize=10)
    axes.set(xlim=(0, 1), ylim=(rows - 0.5, -0.5), xticks=[])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


@contextmanager
def written(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure of the house style, `width` × `height` inches, written whole after the block."""
    with matplotlib.style.context(["default", _STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # boxes stand for letters that no font has
        figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
        yield figure
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=160, metadata={"Software": None})
    write_atomic(path, content.getvalue())
