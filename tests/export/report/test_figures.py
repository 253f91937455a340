"""Figures show their data: other data, other pixels; the same data, the same file."""

from itertools import combinations
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from export.report.figures import (
    GRID,
    Point,
    choices_figure,
    curves_figure,
    front_figure,
    predicted_figure,
    standard_errors,
    students_figure,
)

SEARCHED = [Point(2, 0.70), Point(5, 0.80), Point(9, 0.85)]
RANDOM = [Point(3, 0.66), Point(6, 0.75), Point(8, 0.72)]
ACCENT, DEEP, MUTED = "#e07a1f", "#0b5d7a", "#7b8794"


def share(path: Path, color: str) -> float:
    """The share of a PNG's pixels that have exactly this colour."""
    pixels = matplotlib.image.imread(path)[..., :3]
    assert min(pixels.shape[:2]) > 100
    return float(np.isclose(pixels, to_rgb(color), atol=2 / 255).all(axis=-1).mean())


def front(path: Path, searched: list[Point], random: list[Point], **more: object) -> bytes:
    front_figure(path, searched, random, "1 image at 16×16", "accuracy", "of the test", 400, **more)
    return path.read_bytes()


def test_front_depends_on_the_points_and_not_on_their_order(tmp_path: Path) -> None:
    path = tmp_path / "front.png"
    drawn = front(path, SEARCHED, RANDOM)
    assert drawn.startswith(b"\x89PNG")
    assert share(path, DEEP) > 0.003
    assert drawn == front(path, [*SEARCHED[1:], SEARCHED[0]], RANDOM)
    assert drawn != front(path, [*SEARCHED[:2], Point(9, 0.84)], RANDOM)
    assert drawn != front(path, SEARCHED, [*RANDOM[:2], Point(8, 0.70)])


def test_an_accuracy_has_a_bar_of_one_standard_error_and_a_cosine_has_none(tmp_path: Path) -> None:
    """That of a share of so many images: by hand, 0.8 of 400 is ± 0.02."""
    assert standard_errors([Point(1, 0.8), Point(2, 1.0)], 400) == pytest.approx([0.02, 0.0])
    told = (tmp_path / "front.png", SEARCHED, RANDOM, "1 image")
    drawn = []
    for quality, images in (("accuracy", 400), ("accuracy", 4000), ("cosine", 400)):
        front_figure(*told, quality, "here", images)
        drawn.append(share(tmp_path / "front.png", DEEP))
    assert drawn[0] > drawn[1] > drawn[2]


def test_a_long_unit_of_work_leaves_the_axes_their_width(tmp_path: Path) -> None:
    """The layout makes room for all that is written: grid lines still reach the right edge."""
    unit = "batch of 320 images at 16×16, 1 thread, fp32, ONNX Runtime CPUExecutionProvider"
    told = ("accuracy", "on the search split, shared weights", 288)
    front_figure(tmp_path / "front.png", SEARCHED, RANDOM, unit, *told)
    pixels = matplotlib.image.imread(tmp_path / "front.png")[..., :3]
    edge = pixels[:, int(0.85 * pixels.shape[1]) :]
    assert np.isclose(edge, to_rgb(GRID), atol=2 / 255).all(axis=-1).mean() > 0.01


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


@pytest.mark.parametrize("accuracy", [96.1, -1.1, float("nan")])
def test_an_accuracy_is_a_fraction_or_a_mean_cosine(accuracy: float) -> None:
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


@pytest.mark.parametrize("count", [1, 4, 5, 9])
def test_names_and_shares_of_choices_do_not_cover_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    drawn, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, *a, **k: drawn.append(figure) or save(figure, *a, **k)
    )
    widths = {str(100 + i): 1 / count for i in range(count)}
    choices_figure(tmp_path / "c.png", {f"stage2.width\nteacher {i}": widths for i in range(9)})
    texts = [text.get_window_extent() for axes in drawn[0].axes for text in axes.texts]
    assert len(texts) == 9 * 2 * count
    assert not any(a.overlaps(b) for a, b in combinations(texts, 2))


def test_many_decisions_fold_into_columns(tmp_path: Path) -> None:
    path = tmp_path / "choices.png"
    choices_figure(path, {f"layer {i}": {"3": 0.6, "5": 0.4} for i in range(60)})
    height, width, _ = matplotlib.image.imread(path).shape
    assert width > height


STUDENTS = {"2ms": Point(2, 0.70), "5ms": Point(5, 0.80), "6ms": Point(6, 0.75)}


def students(path: Path, named: dict[str, Point], front: list[str], teacher: float = 0.9) -> bytes:
    students_figure(path, named, [named[name] for name in front], teacher, "1 image at 16×16")
    return path.read_bytes()


def test_students_are_drawn_with_their_names_front_and_teacher(tmp_path: Path) -> None:
    path = tmp_path / "pareto.png"
    drawn = students(path, STUDENTS, ["2ms", "5ms"])
    stars, line = share(path, ACCENT), share(path, DEEP)
    assert drawn == students(path, dict(STUDENTS), ["2ms", "5ms"])
    renamed = {name + " again": point for name, point in STUDENTS.items()}
    others = [
        students(path, STUDENTS, ["2ms", "5ms"], teacher=0.95),
        students(path, renamed, ["2ms again", "5ms again"]),
        students(path, {**STUDENTS, "6ms": Point(6, 0.72)}, ["2ms", "5ms"]),
    ]
    assert drawn not in others
    students(path, {"2ms": STUDENTS["2ms"], "5ms": STUDENTS["5ms"]}, ["2ms", "5ms"])
    assert 0 < share(path, ACCENT) < stars
    students(path, STUDENTS, ["2ms"])
    assert share(path, DEEP) < line


@pytest.mark.parametrize("slowest", [3.0, 30.0, 3000.0])
def test_students_may_be_far_apart_or_alone(tmp_path: Path, slowest: float) -> None:
    path = tmp_path / "pareto.png"
    students(path, {"a": Point(2, 0.7)}, ["a"])
    one = share(path, ACCENT)
    students(path, {"a": Point(2, 0.7), "b": Point(slowest, 0.8)}, ["a", "b"])
    assert 0 < one < share(path, ACCENT)


def predicted(path: Path, **panels: tuple[list[float], list[float]]) -> bytes:
    predicted_figure(path, panels)
    return path.read_bytes()


def test_predictions_are_drawn_against_measurements(tmp_path: Path) -> None:
    path = tmp_path / "predicted.png"
    drawn = predicted(path, table=([1, 2, 4], [1.1, 2.2, 4.1]))
    three = share(path, DEEP)
    assert drawn == predicted(path, table=([1, 2, 4], [1.1, 2.2, 4.1]))
    assert drawn != predicted(path, table=([1, 2, 4], [1.1, 2.5, 4.1]))
    assert drawn != predicted(path, other=([1, 2, 4], [1.1, 2.2, 4.1]))
    assert drawn != predicted(path, table=([1.1, 2.2, 4.1], [1, 2, 4]))
    predicted(path, table=([1], [1.1]))
    assert 0 < share(path, DEEP) < three


def test_perfect_predictions_lie_on_the_diagonal(tmp_path: Path) -> None:
    """The dots then hide more of the grey line than dots that are off it."""
    path = tmp_path / "predicted.png"
    ms = [float(x) for x in range(1, 13)]
    predicted(path, table=(ms, ms))
    hidden = share(path, MUTED)
    predicted(path, table=(ms, [1.0, *(x - 1 for x in ms[1:-1]), 12.0]))
    assert hidden < share(path, MUTED)


def test_predictions_lie_along_and_measurements_upwards(tmp_path: Path) -> None:
    path = tmp_path / "predicted.png"
    predicted(path, table=([2.0] * 5, [1.0, 1.5, 2.0, 2.5, 3.0]))
    pixels = matplotlib.image.imread(path)[..., :3]
    rows, columns = np.isclose(pixels, to_rgb(DEEP), atol=2 / 255).all(axis=-1).nonzero()
    assert np.ptp(rows) > 10 * np.ptp(columns) > 0


def test_every_panel_of_predictions_is_as_wide_as_one(tmp_path: Path) -> None:
    path = tmp_path / "predicted.png"
    sizes = []
    for count in (1, 2, 3):
        predicted(path, **{f"panel {i}": ([1, 2], [1, 2 + i]) for i in range(count)})
        sizes.append(matplotlib.image.imread(path).shape[:2])
    (height, width), *_ = sizes
    assert sizes == [(height, width * count) for count in (1, 2, 3)]
