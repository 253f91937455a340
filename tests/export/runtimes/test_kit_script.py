"""A kit in int8 on its device: forms are compared first, and its models are of one precision."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from base.errors import UserError
from export.runtimes import kit_script
from export.runtimes.faster import Ratios
from export.runtimes.kit_script import chosen_unit, compare_precisions, options_of
from export.timing.stopwatch import Runner
from export.timing.unit_of_work import UnitOfWork
from tests.tiny import refuse

INT8 = UnitOfWork(2, (8, 8), precision="int8")
OPENVINO = replace(INT8, provider="openvino:CPU")
MANIFEST = {
    "unit": asdict(INT8),
    "compared": {form: ["small", "large"] for form in ("fp32", "int8", "int8-signed")},
}


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Mapping]]:
    """Say how often fp32's milliseconds a form takes; return what is compared then."""
    compared, ratio = [], {}

    def compare(runners: Mapping[str, Sequence[Runner]]) -> Ratios:
        compared.append(runners)
        return Ratios({form: (ratio[form],) for form in runners if form != "fp32"})

    def say(unsigned: float, signed: float) -> list[Mapping]:
        ratio.update({"int8": unsigned, "int8-signed": signed})
        return compared

    monkeypatch.setattr(kit_script, "compare_forms", compare)
    monkeypatch.setattr(kit_script, "runner", lambda entry, unit: (entry, unit.precision))
    return say


def options(folder: Path, *words: str) -> argparse.Namespace:
    return options_of(["--out", str(folder / "measurement.json"), *words])


def test_forms_are_compared_on_the_same_students(
    tmp_path: Path, times: Callable, capsys: pytest.CaptureFixture
) -> None:
    compared = times(0.5, 0.8)
    compare_precisions(MANIFEST, INT8, options(tmp_path))
    forms = ("fp32", "int8", "int8-signed")
    assert compared == [{f: [("small", f), ("large", f)] for f in forms}]
    assert "int8 takes 0.50 times fp32's milliseconds" in capsys.readouterr().err


def test_openvino_has_one_form(tmp_path: Path, times: Callable) -> None:
    compared = times(0.5, 0.1)
    compare_precisions(MANIFEST, OPENVINO, options(tmp_path))
    assert [runners.keys() for runners in compared] == [{"fp32", "int8"}]


def test_another_form_is_named(tmp_path: Path, times: Callable) -> None:
    times(0.8, 0.5)
    says = "int8-signed is faster here than int8; write the kit with --precision int8-signed"
    with pytest.raises(UserError, match=says):
        compare_precisions(MANIFEST, INT8, options(tmp_path, "--slower"))
    compare_precisions(MANIFEST, replace(INT8, precision="int8-signed"), options(tmp_path))


def test_where_fp32_is_faster_it_goes_on_only_when_asked(tmp_path: Path, times: Callable) -> None:
    times(1.2, 1.5)
    with pytest.raises(UserError, match=r"int8 takes 1\.20 times .* take fp32, or --slower"):
        compare_precisions(MANIFEST, INT8, options(tmp_path))
    compare_precisions(MANIFEST, INT8, options(tmp_path, "--slower"))


def test_what_was_begun_is_not_compared_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kit_script, "compare_forms", refuse)
    compare_precisions(MANIFEST, INT8, options(tmp_path, "--model", "student.int8.onnx"))
    compare_precisions({**MANIFEST, "compared": {}}, INT8, options(tmp_path))
    (tmp_path / "measurement.json").touch()
    compare_precisions(MANIFEST, INT8, options(tmp_path))


@pytest.mark.parametrize(
    ("written", "asked"), [("int8", "fp32"), ("int8", "int8-signed"), ("fp32", "int8")]
)
def test_models_of_another_precision_are_another_kit(
    tmp_path: Path, written: str, asked: str
) -> None:
    manifest = {"unit": asdict(replace(INT8, precision=written))}
    says = f"precision {asked}: this kit's models are {written}; write another with --precision"
    with pytest.raises(UserError, match=says):
        chosen_unit(manifest, options(tmp_path, "--precision", asked))


def test_models_in_fp32_are_those_of_bf16(tmp_path: Path) -> None:
    manifest = {"unit": asdict(replace(INT8, precision="fp32"))}
    words = ("--precision", "bf16", "--provider", "openvino:CPU", "--threads", "3")
    expected = replace(OPENVINO, precision="bf16", threads=3)
    assert chosen_unit(manifest, options(tmp_path, *words)) == expected
    assert chosen_unit(MANIFEST, options(tmp_path)) == INT8
