"""The unit of work refuses nonsense and reads as a sentence; the machine says what it is."""

import json
import os
from dataclasses import FrozenInstanceError, asdict
from pathlib import Path

import pytest

from base.errors import UserError
from export.timing import unit_of_work as rooms
from export.timing.unit_of_work import (
    PRECISIONS,
    UnitOfWork,
    check_threads,
    cpu_name,
    machine,
    unit_of_work,
    usable_cores,
)


@pytest.mark.parametrize("field", ["batch", "threads", "channels"])
@pytest.mark.parametrize("value", [0, -1, True, 1.5, 8.0, "8", None], ids=repr)
def test_a_count_is_a_whole_number_above_0(field: str, value: object) -> None:
    with pytest.raises(UserError) as raised:
        UnitOfWork(**{"batch": 1, "resolution": (1, 1), field: value})
    text = f"unit of work: {field} {value!r}, expected a whole number above 0"
    assert str(raised.value) == text


@pytest.mark.parametrize(
    "size", [16, (16,), (16, 0), (16, 16.0), (16, 16, 3), "16", None], ids=repr
)
def test_a_resolution_is_height_and_width(size: object) -> None:
    with pytest.raises(UserError) as raised:
        UnitOfWork(1, size)
    text = f"unit of work: resolution {size!r}, expected height and width in pixels"
    assert str(raised.value) == text


def test_a_foreign_precision_is_refused() -> None:
    with pytest.raises(UserError, match=r"precision 'int4', expected fp32, bf16, int8, int8-s"):
        UnitOfWork(1, (16, 16), precision="int4")


@pytest.mark.parametrize(
    ("provider", "processor"),
    [
        ("QNNExecutionProvider", "CPUExecutionProvider"),
        ("CPUExecutionProvider", "CPUExecutionProvider"),
        ("openvino:GPU.1", "openvino:CPU"),
        ("torch:cuda", "torch:cpu"),
    ],
)
def test_the_same_work_on_the_processor(provider: str, processor: str) -> None:
    """In the same runtime and precision."""
    unit = UnitOfWork(3, (16, 8), 4, provider, "bf16", channels=1)
    assert unit.on_cpu() == UnitOfWork(3, (16, 8), 4, processor, "bf16", channels=1)


SENTENCES = {
    "batch of 64 images at 16×16, 1 thread, fp32, ONNX Runtime CPUExecutionProvider": (
        UnitOfWork(64, (16, 16))
    ),
    "batch of 8 grey images at 64×96, 1 thread, fp32, ONNX Runtime CPUExecutionProvider": (
        UnitOfWork(8, (64, 96), channels=1)
    ),
    "batch of 1 image at 224×224, 4 threads, fp32, ONNX Runtime P": (
        UnitOfWork(1, (224, 224), threads=4, provider="P")
    ),
    "batch of 2 images at 32×32, 1 thread, fp32, PyTorch eager cpu": (
        UnitOfWork(2, (32, 32), provider="torch:cpu")
    ),
    "batch of 1 image at 8×8, 2 threads, fp32, PyTorch eager cuda": (
        UnitOfWork(1, (8, 8), threads=2, provider="torch:cuda")
    ),
    "batch of 1 image at 8×8, 1 thread, bf16, OpenVINO CPU": (
        UnitOfWork(1, (8, 8), provider="openvino:CPU", precision="bf16")
    ),
    "batch of 1 image at 8×8, 1 thread, int8-signed, ONNX Runtime CPUExecutionProvider": (
        UnitOfWork(1, (8, 8), precision="int8-signed")
    ),
}


@pytest.mark.parametrize(("text", "unit"), SENTENCES.items())
def test_a_unit_of_work_reads_as_a_sentence(text: str, unit: UnitOfWork) -> None:
    assert str(unit) == text
    assert unit.runtime_text() in text
    assert unit_of_work(json.loads(json.dumps(asdict(unit)))) == unit


RUNTIMES = {
    "CPUExecutionProvider": ("onnxruntime", "CPUExecutionProvider"),
    "TorchExecutionProvider": ("onnxruntime", "TorchExecutionProvider"),
    "torch:cuda": ("torch", "cuda"),
    "openvino:GPU.1": ("openvino", "GPU.1"),
    "odd:CPU": ("onnxruntime", "odd:CPU"),
}


@pytest.mark.parametrize(("provider", "named"), RUNTIMES.items())
def test_a_provider_names_runtime_and_device(provider: str, named: tuple[str, str]) -> None:
    unit = UnitOfWork(1, (8, 8), provider=provider)
    assert (unit.runtime, unit.device) == named


@pytest.mark.parametrize("precision", PRECISIONS)
def test_two_precisions_are_of_whole_numbers(precision: str) -> None:
    assert UnitOfWork(1, (8, 8), precision=precision).is_int8 is ("int8" in precision)


def test_a_unit_of_work_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        UnitOfWork(1, (16, 16)).batch = 2


def test_json_without_the_later_fields_has_their_defaults() -> None:
    assert unit_of_work({"batch": 1, "resolution": [16, 16]}) == UnitOfWork(1, (16, 16))


FOREIGN = {
    "'resolution'": {"batch": 1},
    "'colour'": {"batch": 1, "resolution": [16, 16], "colour": "red"},
    "threads 0,": {"batch": 1, "resolution": [16, 16], "threads": 0},
    "batch '8',": {"batch": "8", "resolution": [16, 16]},
    "precision 'fp7'": {"batch": 1, "resolution": [16, 16], "precision": "fp7"},
    "'batch' and 'resolution'": {},
    "after \\*\\* must be a mapping": None,
    "mapping, not list": [1, 16],
    "mapping, not str": "batch",
}


@pytest.mark.parametrize(("text", "value"), FOREIGN.items())
def test_foreign_json_is_refused_with_its_field(text: str, value: object) -> None:
    with pytest.raises(UserError, match=f"^unit of work: .*{text}") as raised:
        unit_of_work(value)
    assert "\n" not in str(raised.value)


def test_the_machine_is_filled_in() -> None:
    found = machine()
    assert found["cpu"] == cpu_name() != ""
    assert int(found["cores"]) == os.cpu_count()
    assert os.uname().release in found["os"]
    assert all(isinstance(text, str) and text for text in found.values())


CPUINFO = {
    "x86": ("processor\t: 0\nmodel\t\t: 85\nmodel name\t: Fast: 2 GHz\nflags\t: fpu\n" * 2),
    "board": "processor\t: 0\nCPU part\t: 0xd08\n\nRevision\t: c03111\nModel\t\t: Fast: 2 GHz\n",
    "old board": "processor\t: 0\nHardware\t: Fast: 2 GHz\n",
}


@pytest.mark.parametrize("content", CPUINFO.values(), ids=CPUINFO.keys())
def test_the_processor_is_the_one_that_linux_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    (tmp_path / "cpuinfo").write_text(content)
    monkeypatch.setattr("export.timing.unit_of_work.Path", lambda _: tmp_path / "cpuinfo")
    assert cpu_name() == "Fast: 2 GHz"


@pytest.mark.parametrize("content", [None, "", "processor\t: 0\nCPU part\t: 0xd08\n"])
@pytest.mark.parametrize("processor", ["", "Fast"])
def test_the_platform_names_a_processor_that_linux_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, processor: str
) -> None:
    if content is not None:
        (tmp_path / "cpuinfo").write_text(content)
    monkeypatch.setattr("export.timing.unit_of_work.Path", lambda _: tmp_path / "cpuinfo")
    monkeypatch.setattr("platform.processor", lambda: processor)
    monkeypatch.setattr("platform.machine", lambda: "risc")
    assert cpu_name() == (processor or "risc")


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu.max": "250000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "400000 100000", "a/b/cpu.max": "300000 100000"}, 3),
        ({"cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, 2),
        ({"cpu/cpu.cfs_quota_us": "600000", "cpu/cpu.cfs_period_us": "100000"}, 6),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ({"cpu.max": "odd"}, 8),
    ],
)
def test_cores_that_a_container_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int
) -> None:
    (tmp_path / "cgroup").write_text("1:cpu:/\n0::/a/b\n")
    monkeypatch.setattr(rooms, "PROCESS_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(rooms, "CGROUPS", tmp_path / "sys")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    for name, content in files.items():
        (tmp_path / "sys" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sys" / name).write_text(content + "\n")
    assert usable_cores() == cores
    check_threads(UnitOfWork(1, (8, 8), threads=cores))
    with pytest.raises(UserError, match=f"{cores + 1} threads, but this process may use {cores} c"):
        check_threads(UnitOfWork(1, (8, 8), threads=cores + 1))


def test_cores_that_are_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert usable_cores() == 1
    monkeypatch.delattr(os, "sched_getaffinity")  # where there is no Linux
    assert usable_cores() == os.cpu_count()
