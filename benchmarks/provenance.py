"""What makes a result again: the command, the commit and the machine."""

import platform
import subprocess
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import torch

from export.runtimes.runtime import this_machine
from export.timing.unit_of_work import UnitOfWork

PLACES = ("data", "other")  # folders of images


def provenance(benchmark: str, settings: object) -> dict[str, object]:
    """Say how `benchmark` was run with `settings`, a dataclass, and on what.

    Paths belong to a machine, not to a result: data are called PATH, other paths are left out.
    """
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return {
        "command": " ".join(["python -m", f"benchmarks.{benchmark}", *_options(settings)]),
        "commit": commit.stdout.strip(),
        "machine": this_machine(UnitOfWork(1, (1, 1))),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
    }


def _options(settings: object) -> Iterator[str]:
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name in PLACES:
            yield f"--{field.name} PATH"
        elif value is not None and not isinstance(value, Path):
            words = value if isinstance(value, tuple) else (value,)
            yield f"--{field.name.replace('_', '-')} {' '.join(map(str, words))}"
