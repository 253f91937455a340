"""What is timed and where: the unit of work, and the machine that did it."""

import math
import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from base.errors import UserError
from base.size import Size, pixels_text

CPU = "CPUExecutionProvider"
# Beginnings of the providers that are not ONNX Runtime's, and their runtimes' names.
ONNXRUNTIME, RUNTIMES = "onnxruntime", {"torch": "PyTorch eager", "openvino": "OpenVINO"}
# The provider of each that is the processor here.
CPUS = {ONNXRUNTIME: CPU, "torch": "torch:cpu", "openvino": "openvino:CPU"}
# int8 has unsigned activations; whether signed ones are faster depends on the processor.
SIGNED = "int8-signed"
PRECISIONS = ("fp32", "bf16", "int8", SIGNED)
# Where Linux says how much of the processor a group of processes may use.
PROCESS_CGROUP, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
CFS = ("cpu.cfs_quota_us", "cpu.cfs_period_us")


@dataclass(frozen=True)
class UnitOfWork:
    """What one measured run does: `batch` images of `channels` channels.

    `provider` is an ONNX Runtime execution provider, openvino:DEVICE, or PyTorch eager as torch:cpu
    or torch:cuda.
    """

    batch: int
    resolution: Size
    threads: int = 1
    provider: str = CPU
    precision: str = "fp32"
    channels: int = 3

    def __post_init__(self) -> None:
        for field in ("batch", "threads", "channels"):
            if not _is_count(value := getattr(self, field)):
                raise UserError(f"unit of work: {field} {value!r}, expected a whole number above 0")
        size = self.resolution
        if not (isinstance(size, tuple) and len(size) == 2 and all(map(_is_count, size))):
            raise UserError(
                f"unit of work: resolution {size!r}, expected height and width in pixels"
            )
        if self.precision not in PRECISIONS:
            raise UserError(
                f"unit of work: precision {self.precision!r}, expected {', '.join(PRECISIONS)}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape [C, H, W] of an image."""
        return self.channels, *self.resolution

    @property
    def runtime(self) -> str:
        """Name what runs the work: onnxruntime, openvino or torch."""
        before = self.provider.partition(":")[0]
        return before if before in RUNTIMES else ONNXRUNTIME

    @property
    def device(self) -> str:
        """Name the device as the runtime calls it."""
        return self.provider.removeprefix(f"{self.runtime}:")

    @property
    def is_int8(self) -> bool:
        """Whether weights and activations are whole numbers."""
        return self.precision.startswith("int8")

    def on_cpu(self) -> "UnitOfWork":
        """Return the same work in the same runtime on the processor here."""
        return replace(self, provider=CPUS[self.runtime])

    def runtime_text(self) -> str:
        """Name runtime and device for people."""
        return f"{RUNTIMES.get(self.runtime, 'ONNX Runtime')} {self.device}"

    def __str__(self) -> str:
        images = "1 image" if self.batch == 1 else f"{self.batch} images"
        images = images.replace("image", "grey image") if self.channels == 1 else images
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return (
            f"batch of {images} at {pixels_text(self.resolution)}, {threads}, "
            f"{self.precision}, {self.runtime_text()}"
        )


def unit_of_work(value: object) -> UnitOfWork:
    """Build a unit of work from its JSON form; `UserError` when a field is missing or foreign."""
    try:
        if isinstance(value, dict) and isinstance(size := value.get("resolution"), list):
            value = {**value, "resolution": tuple(size)}
        return UnitOfWork(**value)
    except TypeError as error:
        raise UserError(f"unit of work: {error}; expected {UnitOfWork.__annotations__}") from error


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def cpu_name() -> str:
    """Return the processor's model name, or the platform's where Linux does not name it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    # Arm boards have no "model name" but say "Model" or "Hardware".
    keys = ("model name", "Model", "Hardware")
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(keys)]
    return names[0] if names else platform.processor() or platform.machine()


def check_threads(unit: UnitOfWork) -> None:
    """Raise `UserError` for more threads than cores: they would only wait for each other."""
    cores = usable_cores()
    if unit.threads > cores:
        raise UserError(
            f"unit of work: {unit.threads} threads, but this process may use {cores} "
            f"{'core' if cores == 1 else 'cores'} of {os.cpu_count()} (affinity, cgroup); give "
            "fewer threads, or run it where there are more"
        )


def usable_cores() -> int:
    """Return how many cores this process may use, whole ones, 1 at least."""
    if not hasattr(os, "sched_getaffinity"):  # on devices that do not run Linux
        return os.cpu_count() or 1
    return max(1, int(min(len(os.sched_getaffinity(0)), *_cgroup_cores())))


def _cgroup_cores() -> Iterator[float]:
    """Yield the cores' worth of time that the process's cgroup, and those around it, may use."""
    yield math.inf
    with suppress(OSError, ValueError):
        own = PROCESS_CGROUP.read_text().rpartition("::")[2].strip().lstrip("/")
        for folder in (CGROUPS / own, *(CGROUPS / own).parents):
            if (limit := folder / "cpu.max").exists():
                quota, period = limit.read_text().replace("max", "inf").split()
                yield float(quota) / float(period)
    with suppress(OSError, ValueError):  # the first version of cgroups
        quota, period = (float((CGROUPS / "cpu" / name).read_text()) for name in CFS)
        if quota > 0:
            yield quota / period


def machine() -> dict[str, str]:
    """Return a measurement's provenance: processor, cores, operating system."""
    return {
        "cpu": cpu_name(),
        "cores": str(os.cpu_count()),
        "os": f"{platform.system()} {platform.release()}",
    }
