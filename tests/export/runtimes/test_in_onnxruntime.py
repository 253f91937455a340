"""Sessions are as the unit of work says; what cannot be opened is refused in one line."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from subprocess import CalledProcessError, CompletedProcess

import numpy as np
import onnx
import onnxruntime
import pytest

from base.errors import UserError
from export.runtimes import in_onnxruntime
from export.runtimes.network import Network
from export.runtimes.onnx_session import check_provider, onnx_session
from export.timing.stopwatch import Runner
from export.timing.unit_of_work import UnitOfWork


def relu(inputs: str = "2, 3, 4, 5") -> bytes:
    """A model whose input has these dimensions: one letter each for free ones."""
    return onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> '
        f"g (float[{inputs}] x) => (float[{inputs}] y) {{ y = Relu(x) }}"
    ).SerializeToString()


def onnx_runner(model: bytes | Path, shape: tuple[int, int, int], unit: UnitOfWork) -> Runner:
    return in_onnxruntime.runner(Network(shape, lambda: model), unit)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_session_has_the_threads_it_is_told(threads: int) -> None:
    options = onnx_session(relu(), threads).get_session_options()
    assert options.intra_op_num_threads == threads
    assert options.inter_op_num_threads == 1
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL


def test_a_runner_opens_a_session_as_its_unit_says(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def session(*arguments: object) -> onnxruntime.InferenceSession:
        opened.append(onnx_session(*arguments))
        return opened[-1]

    monkeypatch.setattr("export.runtimes.in_onnxruntime.onnx_session", session)
    onnx_runner(relu(), (3, 4, 5), UnitOfWork(2, (4, 4), threads=3))()
    assert [s.get_session_options().intra_op_num_threads for s in opened] == [3]
    assert opened[0].get_providers()[0] == "CPUExecutionProvider"


@pytest.mark.parametrize("from_file", [False, True])
@pytest.mark.parametrize("dimensions", ["2, 3, 4, 5", "N, 3, H, W"])
def test_a_runner_runs_the_model_time_and_again(
    tmp_path: Path, dimensions: str, from_file: bool
) -> None:
    path = tmp_path / "relu.onnx"
    path.write_bytes(relu(dimensions))
    run = onnx_runner(path if from_file else relu(dimensions), (3, 4, 5), UnitOfWork(2, (4, 4)))
    assert [run(), run(), run()] == [None] * 3


@pytest.mark.parametrize(
    ("batch", "shape"), [(1, (3, 4, 5)), (2, (1, 4, 5)), (2, (3, 5, 5)), (2, (3, 4, 4))]
)
def test_images_of_another_shape_fail(batch: int, shape: tuple[int, int, int]) -> None:
    """So the images are [batch, C, H, W], and the model is really run on them."""
    with pytest.raises(Exception, match=r"(?i)dimension") as raised:
        onnx_runner(relu(), shape, UnitOfWork(batch, (4, 4)))()
    assert not isinstance(raised.value, UserError)


INDEX = """<ir_version: 10, opset_import: ["": 20]>
g (float[4, 3, 8, 8] x) => (int64[4, 3, 8, 8] y)
<int64[1] table = {7}, float scale = {SCALE}, float shift = {SHIFT}>
{
    scaled = Mul (x, scale)
    shifted = Add (scaled, shift)
    floor = Floor (shifted)
    index = Cast <to = 7> (floor)
    y = Gather (table, index)
}"""


@pytest.mark.parametrize(
    ("scale", "shift", "runs"),
    [(1.0, 0.0, True), (1.0, -1.0, True), (1.1, 0.0, False), (1.0, -1.1, False)],
)
def test_the_images_are_random_between_0_and_1(scale: float, shift: float, runs: bool) -> None:
    """A table of one entry takes the indices -1 and 0: all else that x becomes stops the run."""
    text = INDEX.replace("SCALE", str(scale)).replace("SHIFT", str(shift))
    model = onnx.parser.parse_model(text).SerializeToString()
    run = onnx_runner(model, (3, 8, 8), UnitOfWork(4, (8, 8)))
    if runs:
        run()
    else:
        with pytest.raises(Exception, match="out of data bounds"):
            run()


def test_an_unknown_provider_names_the_available_ones() -> None:
    unit = UnitOfWork(1, (1, 1), provider="AbacusExecutionProvider")
    with pytest.raises(UserError, match=r"AbacusExecutionProvider.*CPUExecutionProvider"):
        onnx_runner(relu(), (3, 4, 5), unit)
    with pytest.raises(UserError, match=r"AbacusExecutionProvider.*CPUExecutionProvider"):
        check_provider(unit.provider)
    with pytest.raises(UserError, match=r"AbacusExecutionProvider.*CPUExecutionProvider"):
        list(in_onnxruntime.logits(relu(), [], unit))
    check_provider("CPUExecutionProvider")


def test_the_cpu_comes_first_among_providers() -> None:
    assert in_onnxruntime.providers()[0] == "CPUExecutionProvider"
    assert set(in_onnxruntime.providers()) <= set(onnxruntime.get_available_providers())


def test_a_provider_that_does_not_start_is_not_replaced_by_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Fallen:
        def __init__(self, *_: object, **__: object) -> None:
            self.providers = ["CPUExecutionProvider"]

        def get_providers(self) -> list[str]:
            return self.providers

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["SlowExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Fallen)
    with pytest.raises(UserError, match="SlowExecutionProvider: did not start here"):
        onnx_session(relu(), provider="SlowExecutionProvider")


def test_on_a_gpu_a_session_holds_no_more_memory_than_it_asks_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Hundreds are open at once."""
    opened = []

    class Session:
        def __init__(self, *_: object, providers: list[tuple[str, dict]]) -> None:
            opened.extend(providers)

        def get_providers(self) -> list[str]:
            return [opened[-1][0]]

    named = ["CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: named)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    for name in named:
        onnx_session(relu(), provider=name)
    grows = {"arena_extend_strategy": "kSameAsRequested"}
    assert opened == list(zip(named, (grows, {}, {}), strict=True))


def test_a_run_can_give_back_unused_memory() -> None:
    """ONNX Runtime knows the option, and refuses an arena that is not there."""
    session, images = onnx_session(relu()), np.ones((2, 3, 4, 5), np.float32)
    (found,) = session.run(None, {"x": images}, in_onnxruntime.releasing("cpu:0"))
    assert (found == images).all()
    with pytest.raises(Exception, match="arena"):
        session.run(None, {"x": images}, in_onnxruntime.releasing("gpu:0"))


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "foreign", "folder"])
def test_a_file_that_is_no_model_is_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "student.onnx"
    contents = {"empty": b"", "truncated": relu()[:-9], "foreign": b"\x80\x04pickled\x00\xff" * 9}
    if damage in contents:
        path.write_bytes(contents[damage])
    elif damage == "folder":
        path.mkdir()
    with pytest.raises(UserError, match="ONNX Runtime cannot open it") as raised:
        onnx_session(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_bytes_that_are_no_model_are_no_fault_of_the_user() -> None:
    with pytest.raises(Exception, match=r"(?i)protobuf") as raised:
        onnx_session(b"\x80\x04pickled\x00\xff" * 9)
    assert not isinstance(raised.value, UserError)


def test_a_file_of_any_name_is_opened(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"student\xff.onnx")
    path.write_bytes(relu())
    onnx_runner(path, (3, 4, 5), UnitOfWork(2, (4, 5)))()


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """What NVIDIA's driver answers; an exception where there is none."""
    said: list[object] = []

    def answer(*_: object, **__: object) -> CompletedProcess:
        if isinstance(said[0], Exception):
            raise said[0]
        return CompletedProcess((), 0, said[0], "")

    monkeypatch.setattr(in_onnxruntime.subprocess, "run", answer)
    in_onnxruntime._gpu_name.cache_clear()
    yield said
    in_onnxruntime._gpu_name.cache_clear()


@pytest.mark.parametrize(
    ("said", "device"),
    [
        ("NVIDIA H100\n", {"device": "NVIDIA H100"}),
        ("", {}),
        (FileNotFoundError("nvidia-smi"), {}),
        (CalledProcessError(9, "nvidia-smi"), {}),
    ],
)
def test_a_gpu_is_part_of_the_machine(driver: list, said: object, device: dict) -> None:
    """So a table of another GPU is refused; the processor has no device beside itself."""
    driver.append(said)
    version = {"onnxruntime": onnxruntime.__version__}
    unit = UnitOfWork(1, (8, 8), provider="CUDAExecutionProvider")
    assert in_onnxruntime.machine(unit) == version | device
    assert in_onnxruntime.machine(replace(unit, provider="CPUExecutionProvider")) == version
