"""What is timed and where: the unit of work, and the machine that did it."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

from base.errors import UserError

TORCH_PROVIDERS = ("torch:cpu", "torch:cuda")
PRECISIONS = ("fp32",)


@dataclass(frozen=True)
class UnitOfWork:
    """What one measured run does: `batch` images of `resolution` × `resolution` pixels.

    `provider` is an ONNX Runtime execution provider, or torch:cpu or torch:cuda for PyTorch eager.
    """

    batch: int
    resolution: int
    threads: int = 1
    provider: str = "CPUExecutionProvider"
    precision: str = "fp32"

    def __post_init__(self) -> None:
        for field in ("batch", "resolution", "threads"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"unit of work: {field} {value!r}, expected a whole number above 0")
        if self.precision not in PRECISIONS:
            raise UserError(f"unit of work: precision {self.precision!r}, expected {PRECISIONS[0]}")

    @property
    def in_torch(self) -> bool:
        """Whether PyTorch runs the work, not ONNX Runtime."""
        return self.provider in TORCH_PROVIDERS

    def __str__(self) -> str:
        images = "1 image" if self.batch == 1 else f"{self.batch} images"
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        runtime = (
            f"PyTorch eager {self.provider.removeprefix('torch:')}"
            if self.in_torch
            else f"ONNX Runtime {self.provider}"
        )
        return (
            f"batch of {images} at {self.resolution}×{self.resolution}, {threads}, "
            f"{self.precision}, {runtime}"
        )


def unit_of_work(value: object) -> UnitOfWork:
    """Build a unit of work from its JSON form; `UserError` when a field is missing or foreign."""
    try:
        return UnitOfWork(**value)
    except TypeError as error:
        raise UserError(f"unit of work: {error}; expected {UnitOfWork.__annotations__}") from error


def cpu_name() -> str:
    """Return the processor's model name, or the platform's where Linux does not name it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    # Arm boards have no "model name" but say "Model" or "Hardware".
    keys = ("model name", "Model", "Hardware")
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(keys)]
    return names[0] if names else platform.processor() or platform.machine()


def machine() -> dict[str, str]:
    """Return a measurement's provenance: processor, cores, operating system, runtime version."""
    return {
        "cpu": cpu_name(),
        "cores": str(os.cpu_count()),
        "os": f"{platform.system()} {platform.release()}",
        "onnxruntime": onnxruntime.__version__,
    }
