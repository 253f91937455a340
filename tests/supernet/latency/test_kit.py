"""The kit as its user meets it: on a machine without Oyster, interrupted, damaged, unpacked."""

import ast
import json
import os
import runpy
import signal
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from export.timing.measurement import Measurement
from export.timing.stopwatch import Patience
from export.timing.unit_of_work import UnitOfWork, unit_of_work
from supernet.latency.kit import (
    Settings,
    main,
    space_and_unit,
)
from supernet.latency.measurement import find_or_measure_table, load_given_table
from supernet.latency.plan import timing_plan
from supernet.presets import preset_space
from supernet.space import SearchSpace

UNIT = UnitOfWork(batch=2, resolution=(8, 8))
QUICK = ("--seconds", "5", "--spread", "1")


@pytest.fixture(scope="module")
def run(space: SearchSpace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    find_or_measure_table(folder, space, UNIT, Patience(1.0, 5.0, least_rounds=2), 0)
    return folder


@pytest.fixture(scope="module")
def kit(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kit") / "kit.zip"
    main(Settings(run=run, out=path))
    return path


@pytest.fixture(scope="module")
def device(kit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the kit was run to its end."""
    folder = tmp_path_factory.mktemp("device")
    assert used(kit, folder, *QUICK).returncode == 0
    return folder


def clean() -> dict[str, str]:
    """The environment without a way to Oyster."""
    return {n: v for n, v in os.environ.items() if n != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}


def used(kit: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the kit as its user does, who stands in `folder`."""
    command = [sys.executable, str(kit), *options]
    return subprocess.run(command, cwd=folder, env=clean(), capture_output=True, text=True)


def one_line(finished: subprocess.CompletedProcess[str]) -> str:
    """What a user who can mend it is told, with status 2."""
    assert finished.returncode == 2, finished.stderr
    (line,) = finished.stderr.splitlines()
    return line


def test_the_same_command_writes_the_same_bytes(run: Path, kit: Path, tmp_path: Path) -> None:
    main(Settings(run=run, out=tmp_path / "again.zip"))
    assert (tmp_path / "again.zip").read_bytes() == kit.read_bytes()


def test_a_devices_measurement_becomes_a_table(device: Path, space: SearchSpace) -> None:
    measurement = Measurement.load(device / "measurement.json")
    assert measurement.unit == UNIT
    assert measurement.plan == timing_plan(space, 0).fingerprint()
    assert len(measurement.rounds) >= 12
    table = load_given_table(device / "measurement.json", space)
    assert table.provenance["rounds"] == len(measurement.rounds)
    assert table.predicted_ms(space.smallest()) < table.predicted_ms(space.largest())


def test_a_complete_measurement_is_left_alone(kit: Path, device: Path) -> None:
    before = (device / "measurement.json").read_bytes()
    finished = used(kit, device, *QUICK)
    assert finished.returncode == 0
    assert "measurement.json is complete" in finished.stdout
    assert (device / "measurement.json").read_bytes() == before


def test_a_model_is_timed_beside_the_measurement(kit: Path, device: Path) -> None:
    with zipfile.ZipFile(kit) as content:
        content.extract("reference/0.onnx", device)
    finished = used(kit, device, "--model", "reference/0.onnx", "--spread", "1")
    assert finished.returncode == 0, finished.stderr
    name, _, said = finished.stdout.partition(": ")
    assert name == "reference/0.onnx"
    assert float(said.split(" ms")[0]) > 0
    assert str(UNIT) in said
    missing = one_line(used(kit, device, "--model", "none.onnx"))
    assert "none.onnx" in missing
    threads = one_line(used(kit, device, "--model", "reference/0.onnx", "--threads", "2"))
    assert "2 threads" in threads


def test_a_model_without_a_measurement_is_refused(kit: Path, tmp_path: Path) -> None:
    assert "measurement.json" in one_line(used(kit, tmp_path, "--model", "student.onnx"))


def test_an_interrupted_measurement_goes_on(kit: Path, tmp_path: Path) -> None:
    """A spread of 0 is never reached, so only the time ends it."""
    options = ("--spread", "0", "--seconds", "2")
    process = subprocess.Popen(
        [sys.executable, str(kit), *options],
        cwd=tmp_path,
        env=clean(),
        stderr=subprocess.PIPE,
        text=True,
        # What runs in the background ignores the signal, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    with process:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("round 1:"):
                process.send_signal(signal.SIGINT)
    assert process.returncode == 130
    assert "the same command goes on" in lines[-1]
    assert not any("Traceback" in line for line in lines)
    assert [path.name for path in tmp_path.iterdir()] == ["measurement.json"]
    first = Measurement.load(tmp_path / "measurement.json")
    assert sum(r.took for r in first.rounds) < 2
    assert used(kit, tmp_path, *options).returncode == 0
    whole = Measurement.load(tmp_path / "measurement.json")
    assert whole.rounds[: len(first.rounds)] == first.rounds
    assert len(whole.rounds) > len(first.rounds)
    assert whole.date == first.date


def test_another_kits_measurement_is_not_continued(kit: Path, device: Path) -> None:
    assert "unit.threads 1, expected 2" in one_line(used(kit, device, *QUICK, "--threads", "2"))


def test_a_kit_without_one_of_its_graphs_is_named(kit: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.zip"
    with zipfile.ZipFile(kit) as whole, zipfile.ZipFile(damaged, "w") as part:
        for name in whole.namelist():
            if name != "graphs/7.onnx":
                part.writestr(name, whole.read(name))
    finished = used(damaged, tmp_path, *QUICK)
    assert finished.returncode == 2
    assert "Traceback" not in finished.stderr
    (line,) = [line for line in finished.stderr.splitlines() if line.startswith("kit: ")]
    assert "graphs/7.onnx is missing" in line


def test_a_foreign_provider_is_refused(kit: Path, tmp_path: Path) -> None:
    finished = used(kit, tmp_path, "--provider", "AbacusExecutionProvider")
    assert "CPUExecutionProvider" in one_line(finished)


def test_an_unpacked_kit_works_as_well(kit: Path, tmp_path: Path, space: SearchSpace) -> None:
    """Without Python's own paths to the current folder and to the user's packages, too."""
    with zipfile.ZipFile(kit) as content:
        content.extractall(tmp_path / "unpacked")
    command = [sys.executable, "-I", "unpacked", *QUICK, "--out", "phone.json"]
    finished = subprocess.run(command, cwd=tmp_path, env=clean(), capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert load_given_table(tmp_path / "phone.json", space).provenance["rounds"] >= 12


def test_a_kit_holds_all_of_ours_that_it_imports(kit: Path) -> None:
    with zipfile.ZipFile(kit) as content:
        sources = {n: content.read(n) for n in content.namelist() if n.endswith(".py")}
    assert "__main__.py" in sources
    imported = set()
    for name, source in sources.items():
        for node in ast.walk(ast.parse(source, name)):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0
                imported.add(node.module)
    own = {name for name in imported if name.startswith(("base.", "export."))}
    assert {name.replace(".", "/") + ".py" for name in own} <= sources.keys()


# Runs the file that is named first as a script, in a Python without the modules named second.
WITHOUT = """
import runpy, sys
kit, missing = sys.argv[1:3]
sys.modules.update(dict.fromkeys(missing.split(",")))
sys.argv = [kit, *sys.argv[3:]]
runpy.run_path(kit, run_name="__main__")
"""
NOT_THERE = ("torch", "torchvision", "onnx", "scipy", "sklearn", "tqdm", "tyro", "safetensors")


@pytest.mark.parametrize(
    ("runtime", "other", "provider"),
    [
        ("onnxruntime", "openvino", "CPUExecutionProvider"),
        ("openvino", "onnxruntime", "openvino:CPU"),
    ],
)
def test_a_kit_needs_numpy_and_its_runtime_alone(
    kit: Path, tmp_path: Path, runtime: str, other: str, provider: str
) -> None:
    pytest.importorskip(runtime)
    missing = ",".join((*NOT_THERE, other))
    options = (str(kit), missing, "--provider", provider, *QUICK)
    command = [sys.executable, "-c", WITHOUT, *options]
    finished = subprocess.run(command, cwd=tmp_path, env=clean(), capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert Measurement.load(tmp_path / "measurement.json").unit == replace(UNIT, provider=provider)


def test_a_missing_runtime_is_named(kit: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT, str(kit), "openvino", "--provider", "openvino:CPU"]
    finished = subprocess.run(command, cwd=tmp_path, env=clean(), capture_output=True, text=True)
    assert "pip install openvino" in one_line(finished)


def test_space_and_unit_are_the_runs_or_the_presets(run: Path, space: SearchSpace) -> None:
    assert space_and_unit(Settings(run=run)) == (space, UNIT)
    asked = Settings(run=run, threads=4, provider="XnnpackExecutionProvider")
    assert space_and_unit(asked)[1] == UnitOfWork(2, (8, 8), 4, "XnnpackExecutionProvider")
    preset = Settings(preset="digits", classes=7, batch=3)
    assert space_and_unit(preset) == (preset_space("digits", 7), UnitOfWork(3, (16, 16)))
    vectors = replace(preset_space("digits", 512), unit_length=True)
    assert space_and_unit(Settings(preset="digits", vector=512))[0] == vectors


def test_the_seed_is_the_plans(run: Path, space: SearchSpace, tmp_path: Path) -> None:
    main(Settings(run=run, seed=1, out=tmp_path / "kit.zip"))
    with zipfile.ZipFile(tmp_path / "kit.zip") as content:
        manifest = json.loads(content.read("manifest.json"))
    assert manifest["plan"] == timing_plan(space, 1).fingerprint()
    assert manifest["seed"] == 1
    assert unit_of_work(manifest["unit"]) == UNIT


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "give either --run, or --preset"),
        (("--preset", "digits", "--run", "here"), "give either --run, or --preset"),
        (("--run", "nowhere"), "no table there yet"),
        (("--preset", "digits", "--provider", "torch:cpu"), "a kit runs ONNX files"),
        (("--preset", "mnist"), "preset 'mnist' is unknown"),
        (("--preset", "digits", "--batch", "0"), "batch 0, expected a whole number above 0"),
    ],
    ids=["neither", "both", "no table", "torch", "preset", "batch"],
)
def test_bad_input_is_refused_in_one_line(
    options: Sequence[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "kit.zip"
    monkeypatch.setattr(sys, "argv", ["device_kit", "--out", str(out), *options])
    monkeypatch.delitem(sys.modules, "supernet.latency.kit")
    with pytest.raises(SystemExit) as exit_:
        runpy.run_module("supernet.latency.kit", run_name="__main__")
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("device_kit: ")
    assert says in line
    assert not out.exists()
