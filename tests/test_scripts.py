"""train.py and search.py as a user runs them, at smoke size; and what they say to bad input."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from base.tensor_files import read_tensors, write_tensors
from export.onnx_file import read_metadata
from kd.run.folder import read_metrics
from supernet.choice.programme import programme
from supernet.choice.student_file import load_student
from supernet.space import Architecture
from tests.smoke import QUICK_SEARCH, SMOKE, middle_ms, refused, run, table_of


def test_train_leaves_the_run_folder(trained: tuple[Path, str]) -> None:
    folder, printed = trained
    for name in ("config.json", "teacher.safetensors", "teacher.json", "latency.json"):
        assert (folder / name).stat().st_size > 0
    for name in ("supernet.safetensors", "metrics.jsonl", "report.html", "front.png"):
        assert (folder / name).stat().st_size > 0
    assert (folder / "targets" / "train" / "probabilities.npy").exists()
    assert list((folder / "wandb").glob("offline-run-*/*.wandb"))
    alarm, cost = "ALARM  *alpha is nearly uniform", "10,000 candidates of 5 epochs"
    assert re.search(alarm, printed)
    for expected in ("students, 39 decisions", "roughly", cost, "next: python search.py"):
        assert expected in printed
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {row["phase"] for row in rows} >= {"teacher", "w", "alpha", "choices"}
    alpha = [row for row in rows if row["phase"] == "alpha"][-1]
    assert alpha.keys() >= {"lambda", "tau", "entropy", "expected_ms", "target_ms", "search_loss"}
    assert json.loads((folder / "config.json").read_text())["settings"]["seed"] == 0


def test_trained_twice_is_bitwise_equal(trained: tuple[Path, str], tmp_path: Path) -> None:
    """Given the same latency table, a measurement; here it says that it is of another device."""
    folder, _ = trained
    table = json.loads((folder / "latency.json").read_text())
    table["provenance"]["machine"]["cpu"] = "Telephone"
    (tmp_path / "phone.json").write_text(json.dumps(table))
    again = tmp_path / "again"
    done = run("train.py", "--run", again, *SMOKE, "--latency-table", tmp_path / "phone.json")
    assert done.returncode == 0, done.stderr
    assert "measured on           Telephone" in done.stdout
    for name in ("teacher.safetensors", "supernet.safetensors"):
        assert (again / name).read_bytes() == (folder / name).read_bytes(), name
    listed = run("search.py", "--run", again, "--list")
    assert listed.returncode == 0
    assert "Telephone" in listed.stdout


def test_teacher_from_a_checkpoint_is_checked_and_not_trained(
    trained: tuple[Path, str], tmp_path: Path
) -> None:
    """The first run's teacher, brought as a file; then the same network with random weights."""
    folder, _ = trained
    (tmp_path / "latency.json").write_bytes((folder / "latency.json").read_bytes())
    weights = folder / "teacher.safetensors"
    brought = ("--teacher", "small_resnet18:2", "--teacher-checkpoint")
    done = run("train.py", "--run", tmp_path, *SMOKE, *brought, weights)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((f / "teacher.json").read_text()) for f in (folder, tmp_path))
    assert second["fingerprint"] == first["fingerprint"]
    assert second["search_accuracy"] == first["search_accuracy"]
    assert not (tmp_path / "teacher.safetensors").exists()  # it is where the user keeps it
    phases = {json.loads(line)["phase"] for line in (tmp_path / "metrics.jsonl").open()}
    assert "teacher" not in phases
    assert "w" in phases

    random = {
        name: torch.randn_like(part) if part.is_floating_point() else part
        for name, part in read_tensors(weights)[0].items()
    }
    write_tensors(tmp_path / "random.safetensors", random, {})
    fresh = tmp_path / "fresh"
    done = run("train.py", "--run", fresh, *SMOKE, *brought, tmp_path / "random.safetensors")
    refused(done, "teacher: ")
    assert not fresh.exists()


def test_complete_run_is_not_done_again(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    before = (folder / "supernet.safetensors").stat().st_mtime_ns
    done = run("train.py", "--run", folder, *SMOKE)
    assert done.returncode == 0
    assert "is complete" in done.stdout
    assert (folder / "supernet.safetensors").stat().st_mtime_ns == before


def test_search_leaves_a_verified_student(
    searched: tuple[Path, float, subprocess.CompletedProcess],
) -> None:
    folder, budget, done = searched
    metrics = json.loads((folder / "metrics.json").read_text())
    # On a busy machine the budget may be missed; then the exit status and the table must say so.
    within = metrics["measured_ms"] <= budget
    assert done.returncode == (0 if within else 1), done.stdout + done.stderr
    assert metrics["meets_target"] is within
    assert ("OVER BUDGET" in done.stdout) is not within
    assert metrics["target_ms"] == budget
    assert metrics["onnx_parity"]
    assert metrics["onnx_max_abs_error"] is not None
    assert metrics["onnx_top1_agreement"] > 0.99
    assert metrics.keys() >= {
        *("predicted_ms", "measured_ms_spread", "test_accuracy", "teacher_test_accuracy"),
        *("teacher_agreement", "params", "macs", "search_seconds", "retrain_seconds"),
        *("seed", "guide"),
    }
    assert (folder / "report.html").exists()
    for word in ("target", "predicted", "measured", "student", "teacher", "MACs", "student.onnx"):
        assert word in done.stdout
    assert (folder.parent / "pareto.png").stat().st_size > 10_000


def test_different_students_are_tried_before_one_is_taken(
    searched: tuple[Path, float, subprocess.CompletedProcess],
) -> None:
    """Each once; what it came to is in metrics.json, in metrics.jsonl and in the report."""
    folder, ms, _ = searched
    trials = json.loads((folder / "metrics.json").read_text())["trials"]
    forms = {json.dumps(trial["architecture"]) for trial in trials}
    assert len(forms) == len(trials) == 5
    logged = [one for one in read_metrics(folder.parents[1]) if one["phase"] == f"trials_{ms:g}ms"]
    assert [line["step"] for line in logged] == [0, 1, 2, 3, 4]
    assert [line["loss"] for line in logged] == [trial["loss"] for trial in trials]
    assert f"{min(trial['loss'] for trial in trials):.3f}" in (folder / "report.html").read_text()
    assert not list(folder.parents[1].glob("checkpoint/*"))


def test_controls_are_retrained_beside_the_student(trained_copy: Path) -> None:
    """The random one is another architecture, as fast; the other differs by its loss alone."""
    folder = trained_copy
    name = f"{middle_ms(folder) + 0.001:g}"
    options = ("--target-latency", name, *QUICK_SEARCH, "--controls")
    done = run("search.py", "--run", folder, *options)
    assert done.returncode in (0, 1), done.stderr
    student = folder / "students" / f"{name}ms"
    facts = json.loads((student / "metrics.json").read_text())
    own = load_student(student).architecture.to_json()
    random, labels = facts["controls"]["random"], facts["controls"]["labels"]
    own = json.loads(json.dumps(own))
    assert random["architecture"] != own == labels["architecture"]
    assert 0.9 * facts["predicted_ms"] <= random["predicted_ms"] <= facts["predicted_ms"]
    assert labels["predicted_ms"] == facts["predicted_ms"]
    for row in ("random student", "without teacher"):
        assert row in done.stdout
    curves = {kind: [] for kind in ("", "-random", "-labels")}
    for line in read_metrics(folder):
        for kind, curve in curves.items():
            if line["phase"] == f"student_{name}ms{kind}":
                curve.append(line["loss"])
    assert len({tuple(curve) for curve in curves.values()}) == 3
    assert all(len(curve) == 2 for curve in curves.values())


def test_list_shows_range_and_students_without_training(
    searched: tuple[Path, float, subprocess.CompletedProcess],
) -> None:
    folder, budget, _ = searched
    before = sorted(folder.parent.rglob("*"))
    done = run("search.py", "--run", folder.parents[1], "--list")
    assert done.returncode == 0, done.stderr
    fastest_ms, slowest_ms = programme(table_of(folder.parents[1])).range_ms()
    assert f"{fastest_ms:.2f} to {slowest_ms:.2f} ms" in done.stdout
    assert "on 30 networks not seen before" in done.stdout
    assert f"\n{budget:g}ms " in done.stdout
    assert sorted(folder.parent.rglob("*")) == before


def test_search_for_another_device_trains_alpha_and_predicts(
    trained_copy: Path, tmp_path: Path
) -> None:
    """The run's own measurement, ten times slower and from another processor."""
    folder = trained_copy
    measurement = json.loads((folder / "measurement.json").read_text())
    for one in measurement["rounds"]:
        one["seconds"] = [10 * seconds for seconds in one["seconds"]]
    measurement["machine"]["cpu"] = "Telephone"
    phone = tmp_path / "phone.json"
    phone.write_text(json.dumps(measurement))
    budget = round(10 * middle_ms(folder), 3)
    options = ("--run", folder, "--latency-table", phone, "--target-latency", budget)
    done = run("search.py", *options, *QUICK_SEARCH)
    assert done.returncode == 0, done.stderr
    assert "not here: machine.cpu 'Telephone'" in done.stdout
    student = folder / "students" / f"phone-{budget:g}ms"
    metrics = json.loads((student / "metrics.json").read_text())
    assert metrics["measured_ms"] is None
    assert 0.8 * budget <= metrics["predicted_ms"] <= budget
    assert (folder / "alphas" / "phone.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: t["space"]["stages"][1].update(widths=[16, 24]), "stages.1.widths [16, 24]"),
        (lambda t: t["provenance"]["unit"].update(batch=9), "unit of work.batch 9, expected 8"),
        (
            lambda t: t["provenance"]["unit"].update(precision="int8"),
            "unit of work.precision 'int8', expected 'fp32'",
        ),
    ],
    ids=["widths", "batch", "precision"],
)
def test_tables_that_do_not_fit_are_refused(
    trained: tuple[Path, str], tmp_path: Path, change: Callable[[dict], object], expected: str
) -> None:
    """A run folder with such a table: train.py stops before it trains."""
    table = json.loads((trained[0] / "latency.json").read_text())
    change(table)
    for name in ("config.json", "teacher.json", "teacher.safetensors", "targets"):
        (tmp_path / name).symlink_to(trained[0] / name)
    (tmp_path / "latency.json").write_text(json.dumps(table))
    refused(run("train.py", "--run", tmp_path, *SMOKE, "--resume"), "latency", expected)
    assert not (tmp_path / "supernet.safetensors").exists()


def test_shipped_file_is_the_saved_student(
    searched: tuple[Path, float, subprocess.CompletedProcess],
) -> None:
    """And so is what is loaded from it, which tells the classes and what it is shown."""
    folder, _, _ = searched
    student = load_student(folder)
    assert student.classes == tuple(map(str, range(10)))
    assert (student.image_shape, student.resize) == ((3, 16, 16), 16)
    session = onnxruntime.InferenceSession(str(folder / "student.onnx"))
    for batch in (1, 5):
        images = torch.rand(batch, 3, 16, 16, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            expected = student(images).numpy()
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        np.testing.assert_allclose(logits, expected, atol=1e-4)
    metadata = read_metadata(folder / "student.onnx")
    assert Architecture.from_json(json.loads(metadata["architecture"])) == student.architecture
    assert json.loads(metadata["classes"]) == [str(digit) for digit in range(10)]
    assert metadata.keys() >= {"normalisation", "input", "unit_of_work", "measured_ms", "versions"}


def test_budget_below_the_fastest_student_states_the_range(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    done = run("search.py", "--run", folder, "--target-latency", "0.0001")
    refused(done, "0.0001: too fast", "ms for a batch of 8 images at 16×16")
    assert not (folder / "students" / "0.0001ms").exists()


@pytest.mark.parametrize("budget", ["nan", "-3", "inf"])
def test_impossible_budgets_are_refused(trained: tuple[Path, str], budget: str) -> None:
    refused(run("search.py", "--run", trained[0], "--target-latency", budget), "above 0")


def test_generous_budget_says_so_and_takes_the_best(trained_copy: Path) -> None:
    folder = trained_copy
    options = ("--target-latency", 9999, *QUICK_SEARCH, "--retrain-with", "labels")
    done = run("search.py", "--run", folder, *options)
    assert done.returncode == 0, done.stderr
    assert "more than any student needs" in done.stdout
    metrics = json.loads((folder / "students" / "9999ms" / "metrics.json").read_text())
    assert metrics["predicted_ms"] >= 0.9 * programme(table_of(folder)).range_ms()[1]
    assert metrics["retrain_with"] == "labels"


def test_truncated_supernet_file(trained: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = trained
    for name in ("config.json", "latency.json", "teacher.json", "teacher.safetensors"):
        (tmp_path / name).symlink_to(folder / name)
    (tmp_path / "targets").symlink_to(folder / "targets")
    whole = (folder / "supernet.safetensors").read_bytes()
    (tmp_path / "supernet.safetensors").write_bytes(whole[: len(whole) // 2])
    done = run("search.py", "--run", tmp_path, "--target-latency", "5")
    refused(done, "supernet.safetensors", "cannot be read as safetensors")


def test_run_folder_of_other_settings(trained: tuple[Path, str]) -> None:
    done = run("train.py", "--run", trained[0], *SMOKE, "--kd-temperature", "2")
    refused(done, "kd_temperature is 4.0 there and 2.0 here", "give another --run")


def test_images_that_moved_are_looked_at_where_they_are_now(
    trained: tuple[Path, str], tmp_path: Path
) -> None:
    """And other images are no moved ones."""
    folder, _ = trained
    for number in range(100):
        path = tmp_path / f"{number % 10}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8), number).save(path)
    search = ("search.py", "--run", folder, "--target-latency", middle_ms(folder))
    refused(run(*search, "--data", "/moved"), "/moved: no such folder")
    refused(run(*search, "--data", tmp_path), "begun with other images")
    refused(run(*search, "--unlabelled", tmp_path), f"--unlabelled {tmp_path}: ", "begun without")
    done = run("train.py", "--run", folder, *SMOKE, "--batch", "8", "--data", tmp_path)
    refused(done, f"data is digits there and {tmp_path} here")
