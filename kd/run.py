"""The folder of a run: its settings, and its numbers on disk and in Weights & Biases."""

import json
import math
import platform
import re
import secrets
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from filelock import FileLock, Timeout

from export.checkpoint import Checkpoint, Restored
from export.errors import UserError
from export.files import read_json, remove_unfinished, write_json, write_whole, writing
from export.processes import is_first
from kd.dashboard import Dashboard

RECORDED = {
    *("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn"),
    *("onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "wandb"),
}


def open_run(folder: Path, config: dict, resume: bool) -> None:
    """Make `folder` with `config.json`, or go on with the run there if its settings are the same.

    Raises `UserError` naming the fields that differ, for a run that was begun when it is not to be
    resumed, or when the folder cannot be written.
    """
    path = folder / "config.json"
    settings = _plain(config)
    if path.exists():
        _refuse_other(folder, _flat(read_config(folder).get("settings", {})), _flat(settings))
        if not (resume or is_complete(folder)):
            raise UserError(f"{folder}: begun already; --resume goes on, or give another --run")
        return
    installed = {package.name: package.version for package in distributions()}
    versions = {name: installed[name] for name in sorted(RECORDED & installed.keys())}
    versions["python"] = platform.python_version()
    facts = {"settings": settings, "command": [Path(sys.argv[0]).name, *sys.argv[1:]]}
    write_json(path, {**facts, "versions": versions})


def is_complete(folder: Path) -> bool:
    """Whether train.py went to its end; the report is what it writes last."""
    return (folder / "report.html").exists()


def read_config(folder: Path) -> dict:
    """`config.json` of a run: settings, command, versions; `UserError` when there is none."""
    if not (folder / "config.json").exists():
        raise UserError(f"{folder}: no run here; run train.py first, or give its folder as --run")
    return read_json(folder / "config.json")


def read_metrics(folder: Path) -> list[dict]:
    """Every line of a run's metrics.jsonl; a last one that was cut off is left out.

    Raises `UserError` where one is no JSON object of a phase, a step and numbers.
    """
    path = folder / "metrics.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        rows = [json.loads(line) for line in lines if line.endswith("\n")]
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({error}); remove the damaged lines") from error
    for number, row in enumerate(rows, start=1):
        if not _is_of_metrics(row):
            raise UserError(f"{path}: line {number} is damaged; remove it")
    return rows


def _is_of_metrics(row: object) -> bool:
    if not isinstance(row, dict) or not isinstance(row.get("phase"), str):
        return False
    numbers = [value for name, value in row.items() if name != "phase"]
    return isinstance(row.get("step"), int) and all(
        isinstance(value, int | float | None) for value in numbers
    )


class Metrics:
    """A run's numbers: lines of `metrics.jsonl`, and the same in a W&B run.

    A job that was interrupted goes on in the same W&B run. Nobody else may work in the folder
    meanwhile: that raises `UserError`.
    """

    def __init__(
        self, folder: Path, config: dict, job: str, checkpoint_seconds: float = 60.0
    ) -> None:
        self._seconds = checkpoint_seconds
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(folder)
        remove_unfinished(folder)
        self._path, self._unfinished = folder / "metrics.jsonl", folder / f".{job}.json"
        self._file = self._opened()
        run_id = _run_id(self._unfinished, _plain(config))
        self._dashboard = Dashboard(folder, _plain(config), job, run_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._dashboard.finish(0 if kind is None else 1)
        if kind is None:
            self._unfinished.unlink(missing_ok=True)
        self._lock.release()
        with writing(self._path):
            self._file.close()

    def checkpoint(self, *phases: str, **identity: str) -> Checkpoint:
        """Return the checkpoint of a phase, named like the first of `phases` that it logs.

        Lines of `phases` that it does not know of are left out: they are about to be written
        again. `identity` says what the phase depends on beside the run's settings.
        """
        checkpoint = _checkpoint(self._path.parent, phases[0], identity, self._seconds)
        self._forget_from(checkpoint.done(), phases)
        return checkpoint

    def _opened(self) -> TextIO:
        with writing(self._path):
            return self._path.open("a", encoding="utf-8", buffering=1)

    def _forget_from(self, step: int, phases: Sequence[str]) -> None:
        self._file.close()
        kept = [
            json.dumps(line) + "\n"
            for line in read_metrics(self._path.parent)
            if line["phase"] not in phases or line["step"] < step
        ]
        write_whole(self._path, "".join(kept).encode())
        self._file = self._opened()

    def log(self, phase: str, step: int, **numbers: float) -> None:
        """Keep `numbers` of one step; in the file, NaN and infinity are null."""
        line = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        with writing(self._path):
            text = json.dumps({"phase": phase, "step": step, **line}, allow_nan=False)
            self._file.write(text + "\n")
        self._dashboard.log(phase, step, numbers)

    def summary(self, **values: object) -> None:
        """Set values of the W&B run that are not a series."""
        self._dashboard.summary(values)

    def artifact(self, path: Path, name: str, kind: str) -> None:
        """Keep a file with the W&B run, read from where it lies when it is uploaded."""
        self._dashboard.artifact(path, name, kind)


class NoMetrics:
    """The numbers of a process that is not the first: nothing is kept, checkpoints are restored."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing open."""

    def checkpoint(self, *phases: str, **identity: str) -> Restored:
        """Return the checkpoint that the first process keeps."""
        return Restored(_checkpoint(self._folder, phases[0], identity, math.inf))

    def log(self, phase: str, step: int, **numbers: float) -> None:
        """Keep nothing."""

    def summary(self, **values: object) -> None:
        """Keep nothing."""

    def artifact(self, path: Path, name: str, kind: str) -> None:
        """Keep nothing."""


AnyMetrics = Metrics | NoMetrics


def open_metrics(folder: Path, config: dict, job: str, seconds: float) -> AnyMetrics:
    """Open the run's numbers in the first process, and what stands for them in the others."""
    return Metrics(folder, config, job, seconds) if is_first() else NoMetrics(folder)


def _checkpoint(
    folder: Path, phase: str, identity: Mapping[str, str], seconds: float
) -> Checkpoint:
    return Checkpoint(folder / "checkpoint" / f"{phase}.pt", identity, seconds)


def _locked(folder: Path) -> FileLock:
    """Hold the folder for this process; the system lets go of it when the process ends."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            f"{folder}: another process works in it; wait for it, or give another --run"
        ) from error
    return lock


def _run_id(unfinished: Path, config: dict) -> str:
    """Name the W&B run: anew, or as it was when a job of the same settings was interrupted."""
    begun = read_json(unfinished) if unfinished.exists() else {}
    named = re.fullmatch("[0-9a-f]{8}", str(begun.get("id")))
    if begun.get("config") != config or not named:
        begun = {"id": secrets.token_hex(4), "config": config}
        write_json(unfinished, begun)
    return begun["id"]


def _plain(config: dict) -> dict:
    """`config` as JSON gives it back: paths are strings, tuples are lists."""
    return json.loads(json.dumps(config, default=str, allow_nan=False))


def _flat(settings: dict, prefix: str = "") -> dict[str, object]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, object] = {}
    for name, value in settings.items():
        flat |= (
            _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        )
    return flat


def _refuse_other(folder: Path, stored: dict[str, object], given: dict[str, object]) -> None:
    names = sorted(stored.keys() | given.keys())
    missing = object()
    differing = [n for n in names if stored.get(n, missing) != given.get(n, missing)]
    if differing:
        faults = [f"{n} is {stored.get(n)} there and {given.get(n)} here" for n in differing[:3]]
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise UserError(
            f"{folder}: a run with other settings: {'; '.join(faults)}{more}; give another --run"
        )
