"""The table at the end says what was kept and what was not."""

import os
from pathlib import Path

import pytest

from export.report.student_page import parts_of, summary_rows, write_student_report

FACTS = {
    **{"target_ms": 20.0, "predicted_ms": 19.5, "measured_ms": 19.75, "measured_ms_spread": 0.02},
    **{"meets_target": True, "test_accuracy": 0.98, "teacher_test_accuracy": 0.99},
    **{"teacher_agreement": 0.97, "params": 1234567, "macs": 7654321, "onnx_max_abs_error": 2e-6},
    **{
        "onnx_top1_agreement": 1.0,
        "onnx_parity": True,
        "search_seconds": 3,
        "timing_seconds": 1,
        "retrain_seconds": 40,
    },
    **{"test_balanced_accuracy": 0.97, "teacher_test_balanced_accuracy": 0.98},
    **{"unit_of_work": "batch of 1 image", "controls": {}, "rivals": [], "cost": "9 images"},
    **{"precision": "fp32", "precision_kept": True, "fine_tuned": False, "how_to_run": "so"},
    **{"fp32_test_accuracy": 0.98, "fp32_agreement": 1.0, "trials": []},
    **{"start": "scratch", "quality": "accuracy"},
    **{"latency_statistic": "undisturbed", "slowdown": 1.0},
    "plain_runs": {"median_ms": 19.9, "p95_ms": 23.456, "runs": 120},
    "settings": {"accuracy_loss": 0.005, "trial_epochs": 10, "architecture": None},
}


def with_parts(facts: dict, architecture: dict) -> dict:
    """The same of a student with these parts, all alike."""
    part = {"size": [8, 8], "predicted_ms": 1.5}
    return {**facts, "parts": [part] * len(parts_of(architecture))}


def test_kept_promises() -> None:
    rows = dict(summary_rows(FACTS, Path("student.onnx")))
    assert rows["target"] == "20 ms for a batch of 1 image"
    assert rows["measured"] == "19.75 ms, within budget (spread 2.0%)"
    assert rows["ONNX parity"].startswith("passed: largest error 2.0e-06")
    assert rows["size"] == "1,234,567 parameters, 7,654,321 MACs an image"


def test_plain_runs_stand_beside_the_promise() -> None:
    rows = dict(summary_rows(FACTS, Path("student.onnx")))
    assert rows["plain runs"] == (
        "19.90 ms the median, 23.46 ms the 95th percentile of 120, one after the other, with what "
        "else runs now"
    )
    slow = {**FACTS, "latency_statistic": "p95", "slowdown": 1.25, "meets_target": False}
    told = dict(summary_rows(slow, Path("student.onnx")))
    assert told["target"].endswith("the 95th percentile of plain runs, 1.25 times undisturbed ones")
    assert told["measured"] == "19.75 ms, undisturbed (spread 2.0%)"
    assert told["plain runs"].endswith(": the 95th percentile is OVER BUDGET")
    elsewhere = dict(summary_rows({**FACTS, "plain_runs": None}, Path("student.onnx")))
    assert "plain runs" not in elsewhere


def test_a_prediction_above_the_target_is_explained() -> None:
    rows = dict(summary_rows({**FACTS, "predicted_ms": 20.1}, Path("student.onnx")))
    assert (
        rows["predicted"] == "20.10 ms by the table, which errs a little; what is measured counts"
    )
    assert dict(summary_rows(FACTS, Path("student.onnx")))["predicted"] == "19.50 ms"


def test_broken_promises_are_loud() -> None:
    broken = {"meets_target": False, "onnx_parity": False, "onnx_max_abs_error": None}
    rows = dict(summary_rows({**FACTS, **broken}, Path("student.onnx")))
    assert "OVER BUDGET" in rows["measured"]
    assert rows["ONNX parity"].startswith("FAILED: largest error not finite")


def test_a_teacher_that_is_not_known_for_the_test_split_is_said() -> None:
    unknown = {"teacher_test_accuracy": None, "teacher_agreement": None}
    rows = dict(summary_rows({**FACTS, **unknown}, Path("student.onnx")))
    assert rows["teacher"] == "its outputs for the test split are not stored"
    assert "agreement" not in rows
    known = dict(summary_rows(FACTS, Path("student.onnx")))
    assert known["teacher"] == "99.00% of the test split, 98.00% balanced"
    assert known["agreement"] == "97.00% of answers are the teacher's"


def test_a_student_of_vectors_is_told_by_its_pairs() -> None:
    pairs = {"accuracy": 0.9, "accuracy_std": 0.015, "pairs": 600, "folds": 10}
    pairs |= {"auc": 0.96, "accepted": 0.345}
    facts = {**FACTS, "test_verification": pairs, "onnx_top1_agreement": None, "quality": "cosine"}
    facts |= {"teacher_test_verification": pairs | {"accuracy": 0.93}}
    rows = dict(summary_rows(facts, Path("student.onnx")))
    assert rows["student"] == (
        "90.00% ± 1.50% of 600 pairs right (10 folds), AUC 0.9600, 34.50% of the same accepted "
        "where at most 0.1% of the others are"
    )
    assert rows["teacher"].startswith("93.00% ± 1.50% of 600 pairs right")
    assert rows["agreement"] == "mean cosine of 0.9700 with the teacher's vectors"
    assert rows["ONNX parity"] == "passed: largest error 2.0e-06"


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ("scratch", "scratch"),
        ("shared", "its slice of the shared weights"),
        (
            "runs/a/students/5ms: 98% of its parameters",
            "runs/a/students/5ms: 98% of its parameters; controls take of it what fits them, "
            "rivals take nothing",
        ),
    ],
)
def test_what_it_was_trained_from_is_said(start: str, said: str) -> None:
    rows = dict(summary_rows({**FACTS, "start": start}, Path("student.onnx")))
    assert rows["trained from"] == said
    assert rows["search"] == "3 s, 1 of them to time students"
    assert "architecture" not in rows


def test_an_architecture_from_elsewhere_was_not_searched() -> None:
    settings = {**FACTS["settings"], "architecture": "runs/a/students/5ms"}
    rows = dict(summary_rows({**FACTS, "settings": settings}, Path("student.onnx")))
    assert rows["architecture"] == "that of runs/a/students/5ms, not searched for these images"
    assert "search" not in rows


def test_controls_say_what_search_and_teacher_brought() -> None:
    controls = {
        "random": {"test_accuracy": 0.965, "test_balanced_accuracy": 0.95, "predicted_ms": 19.25},
        "ungated": {"test_accuracy": 0.97, "test_balanced_accuracy": 0.95, "predicted_ms": 19.0},
        "largest": {"test_accuracy": 0.98, "test_balanced_accuracy": 0.96, "predicted_ms": 19.5},
        "labels": {"test_accuracy": 0.9825, "test_balanced_accuracy": 0.97, "predicted_ms": 19.5},
    }
    rows = dict(summary_rows({**FACTS, "controls": controls}, Path("student.onnx")))
    assert rows["random student"] == (
        "96.50% of the test split, 95.00% balanced, 19.25 ms predicted: "
        "the search brought +1.50 points"
    )
    assert rows["random, no gates"].endswith("19.00 ms predicted: the search brought +1.00 points")
    assert rows["most MACs"].endswith("19.50 ms predicted: the search brought +0.00 points")
    assert rows["without teacher"].endswith("19.50 ms predicted: the teacher brought -0.25 points")


BESIDE = "points beside fp32 (0.5 may be lost, or what may be chance)"


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, f"kept: -0.30 {BESIDE}, 98.50% of answers agree"),
        ({"fine_tuned": True}, f"kept: -0.30 {BESIDE}, 98.50% of answers agree, after training on"),
        ({"test_accuracy": 0.985}, f"kept: +0.50 {BESIDE}"),
        ({"precision_kept": False}, f"TOO MUCH IS LOST: -0.30 {BESIDE}"),
    ],
)
@pytest.mark.parametrize("precision", ["int8", "int8-signed", "bf16"])
def test_a_lower_precision_says_what_it_costs(precision: str, facts: dict, expected: str) -> None:
    int8 = {"precision": precision, "test_accuracy": 0.977, "fp32_test_accuracy": 0.98}
    rows = dict(summary_rows({**FACTS, **int8, "fp32_agreement": 0.985, **facts}, Path("s.onnx")))
    assert expected in rows[precision]
    assert "training on for it" in rows[precision] or not facts.get("fine_tuned")
    assert rows["to run it"] == "so"
    assert rows["file"] == "s.onnx"


def test_fp32_has_nothing_to_be_compared_with() -> None:
    rows = dict(summary_rows(FACTS, Path("student.onnx")))
    assert not {"fp32", "int8", "bf16"} & rows.keys()


ELSEWHERE = {
    **{"measured_ms": None, "measured_ms_spread": None, "meets_target": None},
    "not_measured": "the table is of another machine",
}


def test_a_student_of_another_device_says_why_it_was_not_measured(tmp_path: Path) -> None:
    facts = {**FACTS, **ELSEWHERE}
    rows = summary_rows(facts, tmp_path / "20ms" / "student.onnx")
    measured = dict(rows)["measured"]
    assert measured == ("not here: the table is of another machine; time the file on its device")
    assert [key for key, _ in rows] == [key for key, _ in summary_rows(FACTS, tmp_path)]
    form = {"stem_width": 4, "stages": [], "head_width": 0}
    told = with_parts(facts, form)
    write_student_report(tmp_path / "20ms", Path("student.onnx"), told, form, [])
    page = (tmp_path / "20ms" / "report.html").read_text()
    assert measured in page
    assert "budget" not in page.lower()


def test_report_lists_the_layers(tmp_path: Path) -> None:
    layer = {"operation": "fused", "kernel": 5, "expansion": 3, "squeeze_excite": True}
    architecture = {"stem_width": 8, "stages": [{"width": 24, "layers": [layer]}], "head_width": 96}
    retraining = [{"phase": "student_20ms", "step": 1, "loss": 0.5, "accuracy": 0.9}]
    folder = tmp_path / "20ms"
    facts = with_parts(FACTS, architecture)
    write_student_report(folder, folder / "student.onnx", facts, architecture, retraining)
    page = (folder / "report.html").read_text()
    layer = "<th>stage 1, layer 1</th><td>24</td><td>fused</td><td>5</td><td>3</td><td>yes</td>"
    assert layer in page
    assert "<th>stem</th><td>8</td>" in page
    assert "<th>head</th><td>96</td>" in page
    assert "within budget" in page


def test_a_head_of_width_0_has_no_convolution() -> None:
    rows = parts_of({"stem_width": 8, "stages": [], "head_width": 0})
    assert rows == [("stem", "8", "convolution", "3", "", ""), ("head", "", "none", "", "", "")]


def test_rivals_stand_beside_the_student_and_the_best_is_named() -> None:
    better = {"name": "plain:8-32-64", "measured_ms": 19.0, "params": 70000}
    better |= {"test_accuracy": 0.985, "test_balanced_accuracy": 0.96}
    better |= {"ahead": 0.005, "ahead_error": 0.002}
    slow = {"name": "resnet18", "measured_ms": 33.0, "params": 11000000, "test_accuracy": None}
    facts = {**FACTS, "rivals": [better, slow], "verdict": "RIVAL IS BETTER: plain:8-32-64"}
    rows = dict(summary_rows(facts, Path("student.onnx")))
    assert rows["rival plain:8-32-64"] == (
        "19.00 ms, 98.50% of the test split, 96.00% balanced, +0.50 ± 0.20 points "
        "beside the student, 70,000 parameters"
    )
    assert rows["rival resnet18"] == "33.00 ms, slower than the budget: left out"
    assert rows["best"] == "RIVAL IS BETTER: plain:8-32-64"
    assert "best" not in dict(summary_rows(FACTS, Path("student.onnx")))


@pytest.mark.parametrize("name", [os.fsdecode(b"ph\xff-20ms"), "a$b$\\frac{-20ms", "日本-20ms"])
def test_a_student_of_any_name_has_its_report(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    architecture = {"stem_width": 8, "head_width": 0, "stages": []}
    lines = [{"phase": f"student_{name}", "step": s, "loss": 1.0, "accuracy": 0.5} for s in (1, 2)]
    facts = with_parts(FACTS, architecture)
    write_student_report(folder, folder / "student.onnx", facts, architecture, lines)
    assert "not drawn" not in capsys.readouterr().err
    assert (folder / "report.html").stat().st_size > 10_000


def trial(loss: float, width: int) -> dict[str, object]:
    layers = [
        {"operation": "mbconv", "kernel": 5, "expansion": 4, "squeeze_excite": True},
        {"operation": "fused", "kernel": 3, "expansion": 1, "squeeze_excite": False},
    ]
    form = {"stem_width": 8, "stages": [{"width": width, "layers": layers}], "head_width": 0}
    return {"loss": loss, "accuracy": 0.5, "predicted_ms": 19.9, "architecture": form}


def test_students_that_were_tried_are_told_best_first(tmp_path: Path) -> None:
    trials = [trial(2.5, 16), trial(1.5, 24)]
    facts = {**FACTS, "trials": trials}
    rows = dict(summary_rows(facts, Path("student.onnx")))
    told = "2 students trained for 10 epochs each: the first came to a loss of 2.500, the best to"
    assert rows["trials"] == f"{told} 1.500"
    assert "trials" not in dict(summary_rows(FACTS, Path("student.onnx")))
    folder = tmp_path / "20ms"
    form = trials[0]["architecture"]
    told = with_parts(facts, form)
    write_student_report(folder, folder / "student.onnx", told, form, [])
    page = (folder / "report.html").read_text()
    first, second = (
        f"stem 8; {width}: mbconv 5×5/4 SE, fused 3×3/1; head none" for width in (24, 16)
    )
    assert 0 < page.index(first) < page.index(second)
