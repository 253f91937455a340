"""What a GPU does with Oyster's steps and latency tables: for whoever has one, to be run once.

    python -m benchmarks.gpu

Runs `benchmarks.step` on the GPU (on two, if they are there) and `benchmarks.latency` with every
provider of a GPU that is here, each no longer than it may take; prints one table to paste, and
leaves all figures in the folder. Expect 20 minutes at most. No GPU has run it yet.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnxruntime
import torch
import tyro

from base.files import read_json

PROVIDERS = ("CUDAExecutionProvider", "TensorrtExecutionProvider")
HEADER = ("what", "result")


@dataclass(frozen=True)
class Settings:
    """What is run."""

    preset: str = "imagenet"
    batch: int = 128
    """Images of a step, of all processes together."""
    rounds: int = 15
    budgets: int = 2
    """For which students are searched with every table, without trials."""
    most_seconds: float = 240
    """That one part may take: building engines for TensorRT may take more."""
    device: Literal["cuda", "cpu"] = "cuda"
    """cpu is a rehearsal."""
    out: Path = Path("runs/gpu")


def main(settings: Settings) -> None:
    """Run all parts, and print what they found."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("gpu: PyTorch sees no GPU here")
    settings.out.mkdir(parents=True, exist_ok=True)
    rows = [("device", described(settings.device))]
    for count in processes(settings.device):
        rows += step_rows(settings, count)
    for provider in providers(settings.device):
        rows += table_rows(settings, provider)
    print("\n".join(f"| {' | '.join(row)} |" for row in (HEADER, ("---", "---"), *rows)))


def described(device: str) -> str:
    """Say what runs here."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    versions = f"torch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}"
    return f"{', '.join(gpus) if device == 'cuda' else 'CPU'}; {versions}"


def processes(device: str) -> Sequence[int]:
    """Return how many processes train: one, and two where they have a GPU each."""
    return (1, 2) if device == "cpu" or torch.cuda.device_count() > 1 else (1,)


def providers(device: str) -> Sequence[str]:
    """Name the providers of the device that are here; PyTorch is one."""
    if device == "cpu":
        return ("CPUExecutionProvider", "torch:cpu")
    here = onnxruntime.get_available_providers()
    return (*(name for name in PROVIDERS if name in here), "torch:cuda")


def step_rows(settings: Settings, count: int) -> Iterator[tuple[str, str]]:
    """Time the steps in `count` processes."""
    out = settings.out / f"step-{count}.json"
    start = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    module = [*(start if count > 1 else []), "benchmarks.step"]
    options = {"preset": settings.preset, "batch": settings.batch, "rounds": settings.rounds}
    said = ran(module, options | {"device": settings.device, "out": out}, settings.most_seconds)
    what = f"{settings.preset}, batch {settings.batch}, {count} process{'es' * (count > 1)}"
    if said:
        yield what, said
        return
    (facts,) = read_json(out).values()
    yield f"{what}: static largest", f"{facts['static_largest_ms']:.1f} ms"
    for name, row in facts["steps"].items():
        busy = "" if row["busy"] is None else f", GPU busy {row['busy']:.0%}"
        yield f"{what}: {name}", f"{row['ratio']:.2f}x, {row['memory_mib']:.0f} MiB{busy}"


def table_rows(settings: Settings, provider: str) -> Iterator[tuple[str, str]]:
    """Measure a latency table, and search with it."""
    out, what = settings.out / provider.replace(":", "-"), f"{settings.preset}, {provider}"
    options = {"presets": settings.preset, "provider": provider, "budgets": settings.budgets}
    options |= {"unseen": 10, "out": out}
    if said := ran(["benchmarks.latency"], options, settings.most_seconds):
        yield what, said
        return
    (facts,) = read_json(out / "latency.json").values()
    check, used = facts["table"]["check"], [f"{hit['used']:.1%}" for hit in facts["hits"]]
    yield f"{what}: table", f"in {facts['table_seconds']:.0f} s, {check['error']:.1%} off"
    yield f"{what}: other networks", f"{facts['unseen']['error']:.1%} off"
    yield f"{what}: timed one after the other", f"{facts['serial']['error']:.1%} off"
    yield f"{what}: budgets used", ", ".join(used)


def ran(module: Sequence[str], options: Mapping[str, object], most_seconds: float) -> str | None:
    """Run a module; return what went wrong, or None."""
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", *module, *words]
    print(" ".join(["python", *command[1:]]), file=sys.stderr, flush=True)
    own = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        _, said = own.communicate(timeout=most_seconds)
    except subprocess.TimeoutExpired:
        os.killpg(own.pid, signal.SIGKILL)  # torchrun's processes, too
        own.communicate()
        return f"not done in {most_seconds:.0f} s"
    return f"failed: {said.strip().splitlines()[-1]}" if own.returncode else None


if __name__ == "__main__":
    main(tyro.cli(Settings))
