"""The only place where time is measured."""

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx
import onnxruntime
from tqdm import tqdm

from export.errors import UserError

Result = TypeVar("Result")
_CUDA_PROVIDERS = ("CUDAExecutionProvider", "TensorrtExecutionProvider")


@dataclass(frozen=True)
class UnitOfWork:
    """What one measured run does: `batch` images of `resolution` × `resolution` pixels."""

    batch: int
    resolution: int
    threads: int = 1
    provider: str = "CPUExecutionProvider"
    precision: str = "fp32"

    def __str__(self) -> str:
        images = "1 image" if self.batch == 1 else f"{self.batch} images"
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return (
            f"batch of {images} at {self.resolution}×{self.resolution}, {threads}, "
            f"{self.precision}, ONNX Runtime {self.provider}"
        )


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one run, and their relative interquartile range over the rounds."""

    ms: float
    spread: float


@cache
def _share_memory() -> None:
    """Let all CPU sessions draw on one arena: hundreds of open ones would each keep their own."""
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(memory, None)


def check_provider(provider: str) -> None:
    """Raise `UserError`, with those there are, when this ONNX Runtime lacks `provider`."""
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise UserError(
            f"provider {provider}: not in this ONNX Runtime, which has {', '.join(available)}; "
            "name one of these or install the ONNX Runtime package that brings it"
        )


def onnx_session(
    model: bytes | onnx.ModelProto | Path, threads: int = 1, provider: str = "CPUExecutionProvider"
) -> onnxruntime.InferenceSession:
    """Open a quiet, fully optimised ONNX Runtime session with `threads` threads.

    Raises `UserError` when `provider` cannot be had or the file is not a model that it can run.
    """
    check_provider(provider)
    _share_memory()
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3  # errors only
    # Threads spin inside a run, as when deployed, but never while another session is timed.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    content = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    try:
        session = onnxruntime.InferenceSession(
            str(content) if isinstance(content, Path) else content, options, providers=[provider]
        )
    except Exception as error:  # ONNX Runtime's own exceptions share no narrower base class
        if not isinstance(model, Path):
            raise
        reason = " ".join(str(error).split())
        raise UserError(
            f"{model}: ONNX Runtime cannot open it ({reason}); make it again"
        ) from error
    # A provider that fails to start is replaced by the CPU without an error.
    if session.get_providers()[0] != provider:
        raise UserError(f"provider {provider}: did not start here; check its driver and libraries")
    return session


def onnx_runner(
    model: bytes | onnx.ModelProto | Path, inputs: Mapping[str, np.ndarray], unit: UnitOfWork
) -> Callable[[], None]:
    """Return a call that runs `model` once on `inputs` and waits until the outputs are there.

    Inputs and outputs stay on the provider's device, so no copy is timed. Raises `UserError` as
    `onnx_session` does.
    """
    session = onnx_session(model, unit.threads, unit.provider)
    device = "cuda" if unit.provider in _CUDA_PROVIDERS else "cpu"
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array, device))
    for output in session.get_outputs():
        binding.bind_output(output.name, device)

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run


def stopwatch(
    runners: Mapping[str, Callable[[], None]],
    rounds: int,
    runs: int = 3,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
    progress: str | None = None,
) -> dict[str, Timing]:
    """Time every runner, interleaved: each round visits each one once, in a fresh random order.

    A busy machine drifts, so networks timed one after the other differ by 14-17 % between repeats;
    interleaved, the drift falls on all of them alike. A visit is the best of `runs` runs, which
    leaves out cold caches and interruptions; `ms` is the lower quartile of the visits. `clock`
    returns seconds. `progress` names a progress bar. Raises `ValueError` for no rounds or runs.
    """
    seconds = visits(runners, rounds, runs, seed, clock, progress)
    return {name: _timing(times) for name, times in seconds.items()}


def visits(
    runners: Mapping[str, Callable[[], None]],
    rounds: int,
    runs: int = 3,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
    progress: str | None = None,
) -> dict[str, list[float]]:
    """Seconds of every visit of `stopwatch`, by round: for ratios inside a round."""
    if rounds < 1 or runs < 1:
        raise ValueError(f"rounds={rounds}, runs={runs}: expected at least 1 of each")
    order = np.random.default_rng(seed)
    names = list(runners)
    for name in names:
        _visit(runners[name], runs, clock)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in tqdm(range(rounds), desc=progress, unit="round", disable=progress is None):
        for index in order.permutation(len(names)):
            seconds[names[index]].append(_visit(runners[names[index]], runs, clock))
    return seconds


def _visit(runner: Callable[[], None], runs: int, clock: Callable[[], float]) -> float:
    """Seconds of the fastest of `runs` runs."""
    best = float("inf")
    for _ in range(runs):
        start = clock()
        runner()
        best = min(best, clock() - start)
    return best


def _timing(seconds: list[float]) -> Timing:
    low, high = np.quantile(seconds, (0.25, 0.75))
    return Timing(ms=float(low) * 1e3, spread=float((high - low) / low))


def timed(call: Callable[[], Result]) -> tuple[Result, float]:
    """(what `call` returns, the seconds it took)."""
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def cpu_name() -> str:
    """The processor's model name, or what the platform says where Linux does not name it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def machine() -> dict[str, str]:
    """The provenance of a measurement: processor, cores, operating system, runtime version."""
    return {
        "cpu": cpu_name(),
        "cores": str(os.cpu_count()),
        "os": f"{platform.system()} {platform.release()}",
        "onnxruntime": onnxruntime.__version__,
    }
