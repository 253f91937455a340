"""How long from images to a student? Both scripts, phase by phase, taken beside predicted.

    python -m benchmarks.journey
    python -m benchmarks.journey --name cifar10 --target 8 --data PATH \
        --options="--preset cifar10 --limit 2000 --batch 64 --teacher small_resnet18:2 \
        --teacher-epochs 8 --w-epochs 4 --alpha-steps 60" \
        --search-options="--trials 4 --trial-epochs 1 --epochs 4"

Runs train.py with these options in a fresh folder, then search.py, with nothing else beside them
on a quiet machine; adds a line to benchmarks/results/journey.json. The digits take 8 minutes.
"""

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import tyro

from base.files import read_json, write_json
from benchmarks.provenance import provenance

PHASE = re.compile(r"^time: (.+?)\s{2,}([\d,]+) s, ([\d,]+) s predicted$", re.MULTILINE)
BROKEN = 1  # exit status of search.py where a promise is not kept
TOLD = (
    "search_seconds",
    "timing_seconds",
    "retrain_seconds",
    "measured_ms",
    "meets_target",
    "target_ms",
    "test_accuracy",
    "teacher_test_accuracy",
)


@dataclass(frozen=True)
class Settings:
    """Which journey."""

    name: str = "digits"
    """Of its line in the results."""
    target: float = 20.0
    """Milliseconds of the student."""
    data: Path | None = None
    """Images; the digits need none."""
    options: str = ""
    """More of train.py's options, as on a command line."""
    search_options: str = ""
    """The same of search.py's."""
    out: Path = Path("benchmarks/results/journey.json")


def main(settings: Settings) -> None:
    """Run both scripts; say and keep what each phase took."""
    data = ["--data", str(settings.data)] if settings.data else []
    with TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        options = ["--run", str(run), *data, *shlex.split(settings.options)]
        said, train = timed("train.py", options)
        target = ["--target-latency", str(settings.target)]
        options = ["--run", str(run), *target, *shlex.split(settings.search_options)]
        _, search = timed("search.py", options, BROKEN)
        (student,) = (run / "students").glob("*/metrics.json")
        facts = read_json(student)
    phases = {
        name: {"taken": _seconds(taken), "predicted": _seconds(predicted)}
        for name, taken, predicted in PHASE.findall(said)
    }
    own = {"train.py": train, "search.py": search, "phases": phases}
    own |= {name: facts[name] for name in TOLD if name in facts}
    for name, value in own.items():
        print(name, value)
    results = read_json(settings.out) if settings.out.exists() else {}
    results[settings.name] = own | provenance("journey", settings)
    write_json(settings.out, results)


def timed(script: str, options: Sequence[str], other_status: int = 0) -> tuple[str, float]:
    """Run a script; return what it printed, and its seconds. What it says of its progress passes.

    Raises `SystemExit` where its exit status is neither 0 nor the other one.
    """
    start = time.perf_counter()
    command = [sys.executable, script, *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, other_status):
        raise SystemExit(f"journey: {shlex.join(command)}: exit status {done.returncode}")
    return done.stdout, time.perf_counter() - start


def _seconds(text: str) -> int:
    return int(text.replace(",", ""))


if __name__ == "__main__":
    main(tyro.cli(Settings))
