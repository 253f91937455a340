"""One table of all that runs a file here, and what it costs in answers."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

from base.errors import UserError
from export.int8.quantise import quantised
from export.onnx_file import write_onnx
from export.runtimes import in_openvino
from export.runtimes.__main__ import Settings, main, table
from export.runtimes.contest import Verdict, judge, open_all, units_here
from export.runtimes.given import GivenImages, read_images, read_model_file
from export.runtimes.onnx_session import onnx_session
from export.timing.stopwatch import Timing
from export.timing.unit_of_work import UnitOfWork

CLASSES = ("one", "two", "three")
UNIT = UnitOfWork(2, (8, 8))
ORT = "ONNX Runtime CPUExecutionProvider"


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(features, nn.Linear(8, 3))


def write(path: Path, seed: int = 0) -> Path:
    write_onnx(network(seed), torch.zeros(2, *UNIT.shape), path, {"classes": json.dumps(CLASSES)})
    return path


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("student") / "student.onnx")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty images of noise, ten of each class."""
    folder = tmp_path_factory.mktemp("images")
    noise = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
    for i, pixels in enumerate(noise):
        (folder / CLASSES[i % 3]).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / CLASSES[i % 3] / f"{i}.png")
    return folder


@pytest.fixture
def without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise UserError("provider openvino: the package openvino cannot be imported")

    monkeypatch.setattr(in_openvino, "_core", missing)


def test_files_of_vectors_agree_by_their_mean_cosine(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture, without_openvino: None
) -> None:
    path, other = tmp_path / "vectors.onnx", tmp_path / "other.onnx"
    facts = {"output": "vector of 3 numbers, of length 1"}
    for seed, file in enumerate((path, other)):
        write_onnx(network(seed), torch.zeros(2, *UNIT.shape), file, facts)
    rows, _ = run(capsys, path, images=images, int8=int8_file(tmp_path / "in.onnx", other))
    told = {row["precision"]: float(row["mean cosine"]) for row in rows}
    pixels = read_images(images, read_model_file(path), 30)
    one, two = (answers_of(file, pixels) for file in (path, other))
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(one, two, strict=True)]
    assert told["fp32"] == 1
    assert told["int8"] == pytest.approx(np.mean(cosines), abs=0.02)
    assert told["int8"] < 0.99
    assert not any("same answers" in row for row in rows)


def answers_of(file: Path, images: GivenImages) -> np.ndarray:
    """What a file answers to all images."""
    session = onnx_session(file)
    shown = np.concatenate(list(images.batches(2)))
    return session.run(None, {session.get_inputs()[0].name: shown})[0]


def int8_file(path: Path, student: Path) -> Path:
    seen = [torch.rand(8, *UNIT.shape)]
    path.write_bytes(quantised(onnx.load(student), seen).SerializeToString())
    return path


def run(
    capsys: pytest.CaptureFixture, model: Path, **options: object
) -> tuple[list[dict[str, str]], str]:
    """Return the rows of the table, and all that is printed."""
    main(Settings(model, **{"threads": (1,), "seconds": 0.0, **options}))
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [dict(zip(header, row, strict=True)) for row in rows], printed


def accuracy(student: Path, images: Path, chosen: slice) -> str:
    shown = read_images(images, read_model_file(student), 1000).part(chosen)
    logits = onnx_session(student).run(None, {"images": np.concatenate([*shown.batches(1)])})[0]
    return f"{(logits.argmax(1) == shown.labels).mean():.2%}"


@pytest.mark.usefixtures("without_openvino")
def test_every_precision_of_onnxruntime_is_a_row(
    student: Path, images: Path, capsys: pytest.CaptureFixture
) -> None:
    rows, printed = run(capsys, student, images=images, batch=4)
    by_precision = {row["precision"]: row for row in rows if row["runtime"] == ORT}
    assert by_precision.keys() == {"fp32", "int8", "int8-signed"}
    exact = by_precision["fp32"]
    assert (exact["× fp32"], exact["same answers"]) == ("1.00", "100.00%")
    assert float(exact["largest difference"]) == 0
    assert 0 < float(by_precision["int8"]["largest difference"]) < 0.1
    assert exact["accuracy"] == accuracy(student, images, slice(15, None))
    assert "batch of 4 images at 3×8×8" in printed
    assert "to 15 images of" in printed
    assert "ranges of 15 other images" in printed
    assert "not timed: provider openvino: the package openvino cannot be imported" in printed
    milliseconds = [float(row["ms"]) for row in rows]
    assert milliseconds == sorted(milliseconds)


def test_openvino_is_in_the_same_table(
    student: Path, images: Path, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("openvino")
    rows, printed = run(capsys, student, images=images)
    by_precision = {row["precision"]: row for row in rows if row["runtime"] == "OpenVINO CPU"}
    assert {"fp32", "int8"} <= by_precision.keys() <= {"fp32", "bf16", "int8"}
    assert float(by_precision["fp32"]["largest difference"]) < 1e-4
    assert {row["runtime"] for row in rows} >= {ORT, "OpenVINO CPU"}
    assert "fastest: " in printed


@pytest.mark.usefixtures("without_openvino")
def test_random_images_say_nothing_of_int8(student: Path, capsys: pytest.CaptureFixture) -> None:
    rows, printed = run(capsys, student)
    said = {row["precision"]: (row["same answers"], row["largest difference"]) for row in rows}
    assert said == {"fp32": ("100.00%", "0"), "int8": ("", ""), "int8-signed": ("", "")}
    assert "accuracy" not in rows[0]
    assert "its answers say nothing" in printed
    assert "random images tell a broken runtime from a sound one" in printed


@pytest.mark.usefixtures("without_openvino")
@pytest.mark.parametrize("name", ["student.int8.onnx", "other.onnx"])
def test_the_int8_file_that_ships_is_taken(
    name: str, tmp_path: Path, student: Path, images: Path, capsys: pytest.CaptureFixture
) -> None:
    """By itself where it lies beside the file; then all images are judged."""
    beside = tmp_path / "student.onnx"
    beside.write_bytes(student.read_bytes())
    given = int8_file(tmp_path / name, student)
    named = {} if name == "student.int8.onnx" else {"int8": given}
    rows, printed = run(capsys, beside, images=images, **named)
    assert {row["precision"] for row in rows} == {"fp32", "int8"}
    assert f"int8: {given}" in printed
    assert "to 30 images of" in printed
    exact = next(row for row in rows if row["precision"] == "fp32")
    assert exact["accuracy"] == accuracy(student, images, slice(None))


@pytest.mark.usefixtures("without_openvino")
def test_answers_are_compared_with_those_of_fp32(
    tmp_path: Path, student: Path, images: Path
) -> None:
    """Another network in place of int8: its own answers, its own accuracy."""
    other = write(tmp_path / "other.onnx", seed=1)
    shown = read_images(images, read_model_file(student), 1000)
    whole = {"images": np.concatenate([*shown.batches(1)])}
    exact, found = (onnx_session(path).run(None, whole)[0] for path in (student, other))
    units = [UNIT, replace(UNIT, precision="int8")]
    verdict = judge({"fp32": student, "int8": other}, units, UNIT, shown)[UNIT.provider, "int8"]
    assert verdict.agreement == (exact.argmax(1) == found.argmax(1)).mean() < 1
    assert verdict.largest_difference == pytest.approx(np.abs(exact - found).max(), rel=1e-4)
    assert verdict.accuracy == (found.argmax(1) == shown.labels).mean()


@pytest.mark.usefixtures("without_openvino")
def test_every_cpu_has_every_number_of_threads() -> None:
    units, missing = units_here(UNIT, [1, 3])
    cpu = [(unit.precision, unit.threads) for unit in units if unit.provider == UNIT.provider]
    assert cpu == [(form, n) for form in ("fp32", "int8", "int8-signed") for n in (1, 3)]
    assert "AzureExecutionProvider" not in {unit.provider for unit in units}
    assert len(missing) == 1


def test_what_does_not_start_is_one_line(student: Path) -> None:
    units = [
        UNIT,
        replace(UNIT, provider="AbacusExecutionProvider"),
        replace(UNIT, precision="bf16"),
    ]
    runners, missing = open_all({"fp32": student}, units)
    assert list(runners) == [UNIT]
    assert [re.match(r"not timed: ONNX Runtime \w+ \w+: \w+", line)[0] for line in missing] == [
        "not timed: ONNX Runtime AbacusExecutionProvider fp32: provider",
        "not timed: ONNX Runtime CPUExecutionProvider bf16: precision",
    ]
    assert not any("\n" in line for line in missing)


def test_ratios_are_to_fp32_on_one_thread() -> None:
    slow, fast = UNIT, replace(UNIT, threads=2)
    verdicts = {(UNIT.provider, "fp32"): Verdict(1.0, 0.0, 0.5)}
    text = table({slow: Timing(4.0, 0.01), fast: Timing(3.0, 0.02)}, verdicts, slow, True)
    cells = [[cell.strip() for cell in line.split("|")[3:7]] for line in text.splitlines()[2:]]
    assert cells == [["2", "3.000", "2.0%", "0.75"], ["1", "4.000", "1.0%", "1.00"]]


def test_a_network_that_cannot_be_quantised_is_timed_in_fp32(
    student: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise UserError("int8: ONNX Runtime cannot quantise this model (no weights)")

    monkeypatch.setattr("export.runtimes.contest.quantised", refuse)
    rows, printed = run(capsys, student)
    assert "fp32" in {row["precision"] for row in rows} <= {"fp32", "bf16"}
    assert "not timed: int8: ONNX Runtime cannot quantise this model" in printed
    assert "quantised here" not in printed


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ("foreign", r"student.onnx: ONNX Runtime cannot open it"),
        ("int8", r"student.onnx: is in int8"),
        ("fp32 as int8", r"--int8 .*given.onnx: has no 8-bit integers"),
        ("other int8", r"given.onnx: classes None, but .*'one', 'two', 'three'"),
        ("batch", r"batch 0, expected a whole number above 0"),
        ("threads", r"9999 threads, but this process may use"),
        ("seconds", r"-1.0 seconds of measuring"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, student: Path, damage: str, expected: str) -> None:
    model, given = tmp_path / "student.onnx", tmp_path / "given.onnx"
    model.write_bytes(student.read_bytes())
    options = {"batch": {"batch": 0}, "threads": {"threads": (9999,)}, "seconds": {"seconds": -1.0}}
    if damage == "foreign":
        model.write_bytes(b"\x80\x04pickled")
    elif damage == "int8":
        int8_file(model, student)
    elif damage.endswith("int8"):
        options[damage] = {"int8": given}
        given.write_bytes(student.read_bytes())
    if damage == "other int8":
        changed = onnx.load(int8_file(given, student))
        onnx.helper.set_model_props(changed, {})
        given.write_bytes(changed.SerializeToString())
    with pytest.raises(UserError, match=expected) as raised:
        main(Settings(model, **options.get(damage, {})))
    assert "\n" not in str(raised.value)


def test_a_batch_that_the_graph_does_not_run_is_one_line(tmp_path: Path) -> None:
    """The input says any number of images, a shape inside says one."""
    path = tmp_path / "one.onnx"
    path.write_bytes(
        onnx.parser.parse_model(
            '<ir_version: 10, opset_import: ["": 20]> '
            "g (float[N, 3, 2, 2] x) => (float[N, K] y) "
            "<int64[2] shape = {1, 12}> { y = Reshape (x, shape) }"
        ).SerializeToString()
    )
    with pytest.raises(UserError, match=r"one.onnx: .*(?i:reshape).*; export it again") as raised:
        main(Settings(path, batch=2, threads=(1,)))
    assert "\n" not in str(raised.value)
