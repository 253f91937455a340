"""Both scripts as a user runs them, at smoke size."""

import os
import subprocess
import sys
from pathlib import Path

from supernet.latency_table import LatencyTable
from supernet.presets import preset_space

ROOT = Path(__file__).parent.parent
SMOKE = (
    *("--limit", "300", "--batch", "32", "--views", "2", "--teacher-epochs", "8"),
    *("--w-epochs", "2", "--alpha-steps", "12", "--alpha-batch", "16", "--surveyed", "24"),
    # At this rate twelve steps decide nothing, whatever latency is measured.
    *("--alpha-learning-rate", "0.02", "--latency-batch", "8", "--latency-seconds", "1"),
)
QUICK_SEARCH = ("--epochs", "2", "--candidates", "3", "--finalists", "2", "--measure-seconds", "2")


def run(script: str, *options: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / script), *map(str, options)]
    return subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600
    )


def environment() -> dict[str, str]:
    return {**os.environ, "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}


def table_of(folder: Path) -> LatencyTable:
    return LatencyTable.load(folder / "latency.json", preset_space("digits", 10))
