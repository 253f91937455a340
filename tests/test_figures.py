"""Figures show their data: other data, other pixels; the same data, the same file."""

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from export.figures import Point, choices_figure, curves_figure, front_figure

SEARCHED = [Point(2, 0.70), Point(5, 0.80), Point(9, 0.85)]
RANDOM = [Point(3, 0.66), Point(6, 0.75), Point(8, 0.72)]
ACCENT, DEEP = "#e07a1f", "#0b5d7a"


def share(path: Path, color: str) -> float:
    """The share of a PNG's pixels that have exactly this colour."""
    pixels = matplotlib.image.imread(path)[..., :3]
    assert min(pixels.shape[:2]) > 100
    return float(np.isclose(pixels, to_rgb(color), atol=2 / 255).all(axis=-1).mean())


def front(path: Path, searched: list[Point], random: list[Point], **more: object) -> bytes:
    front_figure(path, searched, random, "1 image at 16×16", "test accuracy", **more)
    return path.read_bytes()


def test_front_depends_on_the_points_and_not_on_their_order(tmp_path: Path) -> None:
    path = tmp_path / "front.png"
    drawn = front(path, SEARCHED, RANDOM)
    assert drawn.startswith(b"\x89PNG")
    assert share(path, DEEP) > 0.003
    assert drawn == front(path, [*SEARCHED[1:], SEARCHED[0]], RANDOM)
    assert drawn != front(path, [*SEARCHED[:2], Point(9, 0.84)], RANDOM)
    assert drawn != front(path, SEARCHED, [*RANDOM[:2], Point(8, 0.70)])


def test_front_marks_the_student_and_the_budget(tmp_path: Path) -> None:
    path = tmp_path / "front.png"
    front(path, SEARCHED, RANDOM)
    plain = share(path, ACCENT)
    front(path, SEARCHED, RANDOM, student=Point(5, 0.81))
    star = share(path, ACCENT)
    front(path, SEARCHED, RANDOM, student=Point(5, 0.81), target_ms=5.5)
    assert plain == 0 < star < share(path, ACCENT)


@pytest.mark.parametrize(
    "points", [([], []), (SEARCHED, []), ([], RANDOM), ([Point(20, 0.5)], [Point(1, 0.4)])]
)
def test_front_takes_any_number_of_points(
    tmp_path: Path, points: tuple[list[Point], list[Point]]
) -> None:
    assert front(tmp_path / "front.png", *points).startswith(b"\x89PNG")


@pytest.mark.parametrize("accuracy", [96.1, -0.1, float("nan")])
def test_an_accuracy_is_a_fraction(accuracy: float) -> None:
    with pytest.raises(ValueError, match="fraction"):
        Point(1.0, accuracy)


def curves(path: Path, rows: list[dict], panels: list[tuple[str, str]]) -> bytes:
    curves_figure(path, rows, panels)
    return path.read_bytes()


def test_curves_draw_their_own_phase_and_number(tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    rows = [{"phase": "weights", "step": i, "loss": 1 / (1 + i), "lr": None} for i in range(60)]
    noise = [{"phase": "alpha", "step": i, "loss": i, "other": 1.0} for i in range(9)]
    panels = [("weights", "loss")]
    drawn = curves(path, rows, panels)
    assert share(path, DEEP) > 0.002
    assert drawn == curves(path, rows + noise, panels)
    assert drawn != curves(path, rows[:-20], panels)
    assert drawn != curves(path, rows + noise, [("alpha", "loss")])
    curves(path, rows, [("weights", "lr")])
    assert share(path, DEEP) == 0


def test_no_panels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one"):
        curves_figure(tmp_path / "curves.png", [], [])


def test_a_certain_choice_is_dark_and_an_open_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "choices.png"
    choices_figure(path, {"kernel": {"3": 1.0, "5": 0.0}, "expansion": {"1": 0.5, "3": 0.5}})
    assert share(path, DEEP) > 0.05
    choices_figure(path, {"kernel": {"3": 0.5, "5": 0.5}, "expansion": {"1": 0.5, "3": 0.5}})
    assert share(path, DEEP) == 0


def test_many_decisions_fold_into_columns(tmp_path: Path) -> None:
    path = tmp_path / "choices.png"
    choices_figure(path, {f"layer {i}": {"3": 0.6, "5": 0.4} for i in range(60)})
    height, width, _ = matplotlib.image.imread(path).shape
    assert width > height
