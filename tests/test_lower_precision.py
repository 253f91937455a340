"""Both scripts where what ships is not fp32: timed, shipped, judged, and loud where it costs."""

import copy
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import search
from export.onnx_file import read_metadata
from export.parity import onnx_logits
from export.runtimes import in_openvino
from export.timing.unit_of_work import UnitOfWork, unit_of_work
from kd.images.splits import DataSettings, load_data
from kd.run.search_config import SearchConfig
from kd.student import retraining
from kd.student.int8 import Int8, in_int8
from supernet.choice.programme import programme
from supernet.latency_table import LatencyTable
from supernet.space_files import space_from_json
from tests.smoke import QUICK_SEARCH, SMOKE, run

# Few structures, so that few are quantised.
SPACE = """
resolution = 16
stem_stride = 1
stem_widths = [8, 16]
head_widths = [0, 32]
[[stages]]
stride = 2
widths = [16, 24]
depths = [1, 2, 3]
[[stages.operations]]
name = "fused"
kernels = [3]
expansions = [1, 2]
squeeze_excite = [false]
"""
IN_INT8 = ("--latency-precision", "int8", "--latency-slower")
# Enough for a student that tells something, so that there is something to lose.
LEARNS = ("--epochs", "10", "--retrain-with", "labels", "--learning-rate", "0.05")
FILES = {
    *("architecture.json", "student.safetensors", "metrics.json"),
    *("report.html", "architecture.png", "curves.png"),
}


@pytest.fixture(scope="module")
def trained_int8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose students ship in int8, whichever is faster here."""
    folder = tmp_path_factory.mktemp("int8") / "run"
    space = folder.parent / "small.toml"
    space.write_text(SPACE)
    done = run("train.py", "--run", folder, "--space", space, *SMOKE, *IN_INT8)
    assert done.returncode == 0, done.stderr
    assert "times fp32's milliseconds" in done.stdout
    unit = unit_of(folder)
    assert unit.precision in ("int8", "int8-signed")
    assert f"1 thread, {unit.precision}, ONNX Runtime CPUExecutionProvider" in done.stdout
    return folder


@pytest.fixture
def folder(trained_int8: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained_int8, tmp_path / "run")


def unit_of(folder: Path) -> UnitOfWork:
    return unit_of_work(json.loads((folder / "latency.json").read_text())["provenance"]["unit"])


def middle_ms(folder: Path) -> float:
    """A budget between the fastest and the slowest student of a run."""
    path = folder / "latency.json"
    table = LatencyTable.load(path, space_from_json(json.loads(path.read_text())["space"]))
    return round(float(np.prod(programme(table).range_ms()) ** 0.5), 3)


def facts_of(student: Path) -> dict:
    return json.loads((student / "metrics.json").read_text())


def test_a_student_ships_in_int8(folder: Path) -> None:
    ms = round(1.2 * middle_ms(folder), 3)  # the rival takes about the middle
    rivals = ("--rivals", "plain:4-8")
    done = run(
        "search.py", "--run", folder, "--target-latency", ms, *QUICK_SEARCH, *LEARNS, *rivals
    )
    assert done.returncode in (0, 1), done.stderr
    student = folder / "students" / f"{ms:g}ms"
    facts, unit = facts_of(student), unit_of(folder)
    assert facts["precision"] == unit.precision
    kept = facts["meets_target"] and facts["onnx_parity"] and facts["precision_kept"]
    assert done.returncode == (0 if kept else 1), done.stderr
    names = {path.name for path in student.iterdir()}
    assert names == FILES | {"student.onnx", "student.int8.onnx", "rivals"}
    assert "points beside fp32 (0.5 may be lost" in done.stdout
    assert "student.int8.onnx\nto run it" in done.stdout

    # What is told of the test split is what the files answer.
    test = load_data(DataSettings(limit=300)).test
    images = [image for image, *_ in (test[i] for i in range(len(test)))]
    batch, labels = np.stack(images), test.labels.numpy()
    answers = {
        name: told(student / name, batch, unit) for name in ("student.onnx", "student.int8.onnx")
    }
    shipped, exact = (
        float((answers[name] == labels).mean()) for name in ("student.int8.onnx", "student.onnx")
    )
    assert facts["test_accuracy"] == pytest.approx(shipped)
    assert facts["fp32_test_accuracy"] == pytest.approx(exact)
    assert exact > 0.2
    agree = float((answers["student.onnx"] == answers["student.int8.onnx"]).mean())
    assert facts["fp32_agreement"] == pytest.approx(agree)
    (rival,) = facts["rivals"]
    answered = told(student / "rivals" / "plain-4-8.onnx", batch, unit)
    assert rival["test_accuracy"] == pytest.approx(float((answered == labels).mean()))

    # The milliseconds are those of the file that is timed, and of no other.
    exact, shipped = (read_metadata(student / f"student{kind}.onnx") for kind in ("", ".int8"))
    times = {"unit", "unit_of_work", "how_to_run", "predicted_ms", "measured_ms"}
    assert shipped.keys() - exact.keys() == times
    assert shipped["unit_of_work"] == str(unit)
    assert shipped["measured_ms"] == f"{facts['measured_ms']:.4f}"
    assert str(folder) not in (student / "student.int8.onnx").read_bytes().decode("latin1")
    assert not list((folder / "checkpoint").glob(f"*{ms:g}ms*"))


def told(path: Path, images: np.ndarray, unit: UnitOfWork) -> np.ndarray:
    return onnx_logits(path, [torch.from_numpy(images)], unit).argmax(1).numpy()


def phone(folder: Path, path: Path, **unit: str) -> Path:
    """Write the run's table as if of another device, with another unit of work."""
    table = json.loads((folder / "latency.json").read_text())
    whole = replace(unit_of_work(table["provenance"]["unit"]), **unit)
    machine = {"cpu": "Telephone", "device": "Telephone"}
    table["provenance"] |= {"unit": asdict(whole), "unit_of_work": str(whole), "machine": machine}
    path.write_text(json.dumps(table))
    return path


def test_what_loses_too_much_is_trained_on_and_breaks_the_promise(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Here whatever is rounded gives one answer to all images, after training on, too."""

    def spoilt(network: nn.Module, *others: object) -> Int8:
        dull = copy.deepcopy(network)
        dull.head.classifier.weight.detach().zero_()
        return in_int8(dull, *others)

    monkeypatch.setattr(retraining, "in_int8", spoilt)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    ms = middle_ms(folder)
    settings = {"candidates": 3, "epochs": 10, "retrain_with": "labels", "learning_rate": 0.05}
    settings |= {"fine_tuning_epochs": 1, "latency_table": phone(folder, tmp_path / "phone.json")}
    kept = search.main(SearchConfig(target_latency=(ms,), run=folder, **settings))
    name = f"phone-{ms:g}ms"
    facts = facts_of(folder / "students" / name)
    assert (kept, facts["precision_kept"]) == (False, False)
    assert facts["onnx_parity"]
    assert facts["fp32_test_accuracy"] > facts["test_accuracy"] + 0.05
    assert "TOO MUCH IS LOST" in capsys.readouterr().out
    assert "TOO MUCH IS LOST" in (folder / "students" / name / "report.html").read_text()
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    epochs = [line["phase"] for line in lines if line["phase"].startswith("student_")]
    assert epochs == [f"student_{name}"] * 10 + [f"student_{name}-int8"]
    assert not list((folder / "checkpoint").glob(f"*{name}*"))


def test_a_run_goes_on_in_its_form(folder: Path) -> None:
    """Whatever is fast here now: its table says what it is, and nothing is compared."""
    form = unit_of(folder).precision
    other = "int8-signed" if form == "int8" else "int8"
    phone(folder, folder / "latency.json", precision=other)
    (folder / "supernet.safetensors").unlink()
    options = ("--resume", "--preview", "--space", folder / "space.toml")
    done = run("train.py", "--run", folder, *SMOKE, *IN_INT8[:2], *options)
    assert done.returncode == 0, done.stderr
    assert f"1 thread, {other}, ONNX Runtime" in done.stdout
    assert "times fp32's milliseconds" not in done.stdout


def test_a_device_with_openvino_is_searched_for(folder: Path, tmp_path: Path) -> None:
    """Its table is brought, in bf16; what ships is judged on the processor here."""
    pytest.importorskip("openvino")
    able = in_openvino._core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    precision = "bf16" if "BF16" in able else "fp32"
    table = phone(folder, tmp_path / "phone.json", provider="openvino:NPU", precision=precision)
    ms = middle_ms(folder)
    options = ("--latency-table", table, "--target-latency", ms, *QUICK_SEARCH)
    done = run("search.py", "--run", folder, *options)
    student = folder / "students" / f"phone-{ms:g}ms"
    facts = facts_of(student)
    assert done.returncode == (0 if facts["precision_kept"] else 1), done.stderr
    assert facts["measured_ms"] is None
    assert facts["onnx_parity"]
    assert facts["precision"] == precision
    hint = f"INFERENCE_PRECISION_HINT={'bf16' if precision == 'bf16' else 'f32'}"
    assert hint in facts["how_to_run"]
    assert hint in read_metadata(student / "student.onnx")["how_to_run"]
    assert not (student / "student.int8.onnx").exists()
