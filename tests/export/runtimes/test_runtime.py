"""Every runtime answers to the same calls; what cannot be run here is refused in one line."""

import inspect
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from base.errors import UserError
from export.runtimes import in_onnxruntime, in_openvino, in_torch
from export.runtimes.runtime import (
    Runtime,
    check_answers,
    check_unit,
    runtime_of,
    this_machine,
)
from export.timing.unit_of_work import PRECISIONS, UnitOfWork
from tests.smoke import ROOT

MODULES = (in_onnxruntime, in_openvino, in_torch)
ONNXRUNTIME, TORCH = UnitOfWork(1, (4, 4)), UnitOfWork(1, (4, 4), provider="torch:cpu")
OPENVINO = UnitOfWork(1, (4, 4), provider="openvino:CPU")
CALLS = [name for name, _ in inspect.getmembers(Runtime, inspect.isfunction) if name[0] != "_"]


def test_all_runtimes_are_looked_at() -> None:
    folder = ROOT / "export" / "runtimes"
    assert sorted(folder.glob("in_*.py")) == sorted(Path(module.__file__) for module in MODULES)
    units = (ONNXRUNTIME, OPENVINO, TORCH)
    assert [runtime_of(unit) for unit in units] == list(MODULES)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_runtime_is_one(module: ModuleType) -> None:
    """The same calls with the same parameters of the same types, and forms that there are."""
    assert {"check", "runner", "logits", "machine", "how"} <= set(CALLS)
    for name in CALLS:
        expected = inspect.signature(getattr(Runtime, name))
        _, *parameters = expected.parameters.values()  # without self
        expected = expected.replace(parameters=parameters)
        assert inspect.signature(getattr(module, name)) == expected, name
        assert inspect.getdoc(getattr(module, name)), name
    for precision, forms in module.FORMS.items():
        assert forms[0] == precision, "a precision is the first of its forms"
        assert set(forms) <= set(PRECISIONS)
    assert module.FORMS["fp32"] == ("fp32",)


@pytest.mark.parametrize("unit", [ONNXRUNTIME, TORCH], ids=["onnxruntime", "torch"])
def test_what_the_runtime_can_is_not_refused(unit: UnitOfWork) -> None:
    for forms in runtime_of(unit).FORMS.values():
        for form in forms:
            check_unit(replace(unit, precision=form))
    assert {"cpu", "os"} < this_machine(unit).keys()


@pytest.mark.parametrize(
    ("unit", "precision", "has"),
    [
        (ONNXRUNTIME, "bf16", "ONNX Runtime CPUExecutionProvider, which has fp32, int8"),
        (TORCH, "int8", "PyTorch eager cpu, which has fp32"),
        (TORCH, "bf16", "PyTorch eager cpu, which has fp32"),
        (OPENVINO, "int8-signed", "OpenVINO CPU, which has fp32, bf16, int8"),
    ],
)
def test_a_precision_that_the_runtime_lacks(unit: UnitOfWork, precision: str, has: str) -> None:
    assert refusal(replace(unit, precision=precision)) == (
        f"precision {precision}: not of {has}; name one of these or another provider"
    )


def refusal(unit: UnitOfWork) -> str:
    """The one line in which a unit of work is refused."""
    with pytest.raises(UserError) as raised:
        check_unit(unit)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("name", ["torch:tpu", "torch", "torch:cuda:1"])
def test_a_device_that_pytorch_does_not_know(name: str) -> None:
    assert refusal(replace(TORCH, provider=name)).endswith("expected torch:cpu or torch:cuda")


@pytest.fixture
def fresh() -> Iterator[None]:
    """OpenVINO as no test has seen it yet, before and after."""
    caches = (in_openvino._openvino, in_openvino._core)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_without_openvino_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    for precision in in_openvino.FORMS:
        said = refusal(replace(OPENVINO, precision=precision))
        assert said.startswith("provider openvino: the package openvino cannot be imported")
        assert "pip install openvino" in said
    check_unit(ONNXRUNTIME)


class Core:
    """OpenVINO on an old processor."""

    available_devices = ("CPU", "GPU.0")

    def get_property(self, device: str, name: str) -> object:
        return {"FULL_DEVICE_NAME": f"Old {device} ", "OPTIMIZATION_CAPABILITIES": ["FP32"]}[name]


def test_a_processor_without_the_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_openvino, "_core", Core)
    check_unit(OPENVINO)
    for precision in ("bf16", "int8"):
        said = refusal(replace(OPENVINO, precision=precision))
        assert said.startswith(f"precision {precision}: Old CPU has no instructions for it")
        assert said.endswith("name another precision")


def test_answers_of_another_device_are_told_by_the_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where it knows the precision; the device itself need not be here."""
    monkeypatch.setattr(in_openvino, "_core", Core)
    monkeypatch.setattr(in_openvino, "_openvino", lambda: SimpleNamespace(__version__="1"))
    elsewhere = replace(OPENVINO, provider="openvino:NPU", threads=64)
    check_answers(elsewhere)
    assert in_openvino.machine(elsewhere)["device"] == "no NPU"
    with pytest.raises(UserError, match="precision int8: Old CPU has no instructions"):
        check_answers(replace(elsewhere, precision="int8"))
    check_answers(replace(ONNXRUNTIME, provider="AbacusExecutionProvider", precision="int8"))
    with pytest.raises(UserError, match="precision bf16: not of ONNX Runtime Abacus"):
        check_answers(replace(ONNXRUNTIME, provider="AbacusExecutionProvider", precision="bf16"))


def test_a_gpu_that_is_not_here_is_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its table may be brought all the same."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    unit = replace(TORCH, provider="torch:cuda")
    check_answers(unit)
    assert this_machine(unit)["device"] == "no cuda"


@pytest.mark.parametrize("device", ["NPU", "cpu", ""])
def test_a_device_that_openvino_does_not_see(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setattr(in_openvino, "_core", Core)
    said = refusal(replace(OPENVINO, provider=f"openvino:{device}"))
    assert said == f"provider openvino:{device}: OpenVINO sees no such device, only CPU, GPU.0"
