"""The list of students: read, sorted, laid out in columns, and their front by brute force."""

import json
import os
import re
from pathlib import Path
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest

from base.errors import UserError
from export.report.figures import Point, students_figure
from export.report.students import (
    HEADER,
    budget_kept,
    milliseconds,
    pareto,
    promises_kept,
    read_students,
    students_text,
    write_students_report,
)

FACTS = {
    **{"target_ms": 20.0, "predicted_ms": 19.5, "measured_ms": 19.75, "meets_target": True},
    **{"test_accuracy": 0.98, "teacher_test_accuracy": 0.99, "params": 1234567, "macs": 89},
    "table": "table 1",
}


def facts(**more: object) -> dict:
    return {**FACTS, **more}


def write(folder: Path, **students: dict) -> Path:
    for name, content in students.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "metrics.json").write_text(json.dumps(content))
    return folder


def test_a_student_that_was_not_measured_has_its_predicted_milliseconds() -> None:
    assert milliseconds(facts()) == 19.75
    assert milliseconds(facts(measured_ms=None)) == 19.5


@pytest.mark.parametrize(("meets", "kept"), [(True, True), (False, False), (None, True)])
def test_a_budget_is_kept_unless_measured_over_it(meets: bool | None, kept: bool) -> None:
    assert budget_kept(facts(meets_target=meets)) is kept


@pytest.mark.parametrize("broken", [None, "meets_target", "onnx_parity", "precision_kept"])
def test_promises_are_kept_when_all_of_them_are(broken: str | None) -> None:
    """A budget that could not be measured is not broken."""
    kept = facts(onnx_parity=True, precision_kept=True)
    assert promises_kept({**kept, "meets_target": None})
    assert promises_kept(kept if broken is None else {**kept, broken: False}) is (broken is None)


def test_students_of_a_table_are_read_fastest_first(tmp_path: Path) -> None:
    """Also when the folders' names, the predictions and the measurements order them otherwise."""
    folder = write(
        tmp_path / "students",
        a=facts(measured_ms=30.0, predicted_ms=1.0),
        b=facts(measured_ms=None, predicted_ms=15.0),
        c=facts(measured_ms=2.0, predicted_ms=99.0),
        other=facts(measured_ms=3.0, table="table 2"),
        older={"measured_ms": 3.0},
    )
    (folder / "unfinished").mkdir()
    (folder / "notes.txt").write_text("mine")
    found = read_students(folder, "table 1")
    assert list(found) == ["c", "b", "a"]
    assert found["b"] == facts(measured_ms=None, predicted_ms=15.0)
    assert list(read_students(folder, "table 2")) == ["other"]
    assert read_students(folder, "table 3") == read_students(tmp_path / "none", "table 1") == {}


def test_broken_promises_are_listed() -> None:
    students = {
        "kept": facts(onnx_parity=True, precision_kept=True),
        "lost": facts(precision_kept=False),
        "other": facts(onnx_parity=False, precision_kept=False),
    }
    _, kept, lost, other = students_text(students).splitlines()
    assert "98.00%  " in kept
    assert "98.00%, TOO MUCH LOST" in lost
    assert "98.00%, NO PARITY, TOO MUCH LOST" in other


@pytest.mark.parametrize("content", ["", "[]", '{"table": "table 1", "mea', "\x00"])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    folder = write(tmp_path, good=facts(), bad=facts())
    (folder / "bad" / "metrics.json").write_text(content)
    with pytest.raises(UserError) as raised:
        read_students(folder, "table 1")
    assert str(folder / "bad" / "metrics.json") in str(raised.value)
    assert "\n" not in str(raised.value)


NUMBERS = sorted(FACTS.keys() - {"table", "meets_target"})


@pytest.mark.parametrize(
    ("field", "value"),
    [(f, None) for f in [*NUMBERS, "meets_target"]] + [(f, "many") for f in NUMBERS],
)
def test_a_field_that_is_missing_or_no_number_is_refused(
    tmp_path: Path, field: str, value: str | None
) -> None:
    """Before anything is listed, so that no list or figure ends in the middle."""
    bad = facts(**{field: value})
    if value is None:
        del bad[field]
    with pytest.raises(UserError, match=f"{tmp_path}.*metrics.json: damaged") as raised:
        read_students(write(tmp_path, bad=bad), "table 1")
    assert "\n" not in str(raised.value)


def test_a_teacher_that_is_not_known_for_the_test_split_is_no_damage(tmp_path: Path) -> None:
    folder = write(tmp_path, good=facts(teacher_test_accuracy=None))
    assert list(read_students(folder, "table 1")) == ["good"]
    write(tmp_path, bad=facts(teacher_test_accuracy=1.5))
    with pytest.raises(UserError, match=r"teacher_test_accuracy 1\.5 is no share"):
        read_students(folder, "table 1")


def test_the_list_in_columns() -> None:
    text = students_text(
        {
            "5ms": facts(target_ms=5.0, measured_ms=5.126, meets_target=False, macs=12345),
            "a long name": facts(measured_ms=None, meets_target=None, test_accuracy=1.0),
            "20ms": facts(),
        }
    )
    lines = text.splitlines()
    starts = [lines[0].index(name) for name in HEADER]
    ends = [*starts[1:], None]
    cells = [[line[a:b].strip() for a, b in zip(starts, ends, strict=True)] for line in lines]
    assert cells == [
        list(HEADER),
        ["5ms", "5 ms", "19.50 ms", "5.13 ms, OVER", "98.00%", "1,234,567", "12,345"],
        ["a long name", "20 ms", "19.50 ms", "not here", "100.00%", "1,234,567", "89"],
        ["20ms", "20 ms", "19.50 ms", "19.75 ms", "98.00%", "1,234,567", "89"],
    ]
    assert all(line[start - 2 : start] == "  " for line in lines for start in starts[1:])
    assert all(line == line.rstrip() for line in lines)


def test_no_students_name_the_next_step() -> None:
    assert "search.py --target-latency" in students_text({})


def beaten(point: Point, others: list[Point]) -> bool:
    """Another is nowhere worse, and not the same."""
    return any(o.ms <= point.ms and o.quality >= point.quality and o != point for o in others)


@pytest.mark.parametrize("steps", [3, 8, 1000])
def test_the_front_is_that_of_brute_force(random: np.random.Generator, steps: int) -> None:
    """Few steps make ties in latency, in accuracy and in both."""
    sizes = set()
    for case in range(60):
        draws = random.integers(1, steps + 1, size=(case % 12, 2)).tolist()
        points = [Point(ms, accuracy / steps) for ms, accuracy in draws]
        front = {point for point in points if not beaten(point, points)}
        assert pareto(points) == sorted(front, key=lambda point: point.ms)
        sizes.add(len(front))
    assert {0, 1, 2} <= sizes


@pytest.mark.parametrize(("measured", "teacher"), [(9.0, 0.99), (None, 0.99), (9.0, None)])
def test_the_figure_has_every_student_and_their_front(
    tmp_path: Path, measured: float | None, teacher: float | None
) -> None:
    students = {
        "a": facts(measured_ms=2.0, test_accuracy=0.7),
        "b": facts(measured_ms=measured, predicted_ms=8.0, test_accuracy=0.9),
        "c": facts(measured_ms=10.0, test_accuracy=0.8),
    }
    students = {name: {**one, "teacher_test_accuracy": teacher} for name, one in students.items()}
    write_students_report(tmp_path, students, "one unit")
    a, b, c = Point(2.0, 0.7), Point(measured or 8.0, 0.9), Point(10.0, 0.8)
    by_hand = tmp_path / "by hand.png"
    students_figure(by_hand, {"a": a, "b": b, "c": c}, [a, b], teacher, "one unit")
    assert (tmp_path / "pareto.png").read_bytes() == by_hand.read_bytes()


def test_students_of_any_name_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    names = (os.fsdecode(b"ph\xff-20ms"), "a$b$\\frac{-20ms")
    write_students_report(tmp_path, {name: facts() for name in names}, "a unit")
    assert "not drawn" not in capsys.readouterr().err
    assert (tmp_path / "pareto.png").stat().st_size > 10_000


def test_a_front_that_cannot_be_drawn_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "pareto.png").mkdir()
    write_students_report(tmp_path, {"20ms": facts()}, "a unit")
    assert "pareto.png: not drawn (UserError: " in capsys.readouterr().err
    assert (tmp_path / "report.html").exists()


def test_one_page_leads_to_every_student_and_to_the_run(tmp_path: Path) -> None:
    """Whatever a run is called; the picture is inside."""
    odd = os.fsdecode(b"ph\xff & <b>-20ms")
    folder = tmp_path / "students"
    for name in ("8ms", odd):
        (folder / name).mkdir(parents=True)
        (folder / name / "report.html").touch()
    write_students_report(folder, {name: facts() for name in ("8ms", odd)}, "a unit")
    assert "../report.html" not in (folder / "report.html").read_text()
    (tmp_path / "report.html").touch()
    write_students_report(folder, {name: facts() for name in ("8ms", odd)}, "a unit")
    page = (folder / "report.html").read_text()
    links = [os.fsdecode(unquote_to_bytes(link)) for link in re.findall('href="([^"]*)"', page)]
    assert links == ["8ms/report.html", f"{odd}/report.html", "../report.html"]
    assert all((folder / link).exists() for link in links)
    assert "<b>" not in page
    assert "data:image/png;base64," in page
    (folder / "8ms" / "report.html").unlink()
    write_students_report(folder, {name: facts() for name in ("8ms", odd)}, "a unit")
    assert "8ms/report.html" not in (folder / "report.html").read_text()
