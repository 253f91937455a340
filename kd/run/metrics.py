"""A run's numbers and checkpoints: lines on disk, the same in Weights & Biases."""

import errno
import fcntl
import json
import math
import re
import secrets
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from base.checkpoint import Checkpoint, ReadOnlyCheckpoint
from base.errors import UserError
from base.files import read_json, remove_unfinished, write_atomic, write_json, writing
from base.phase import Phase
from base.processes import is_main_process
from kd.run.dashboard import Dashboard
from kd.run.folder import json_values, read_metrics, without_places
from kd.run.search_config import SearchConfig
from kd.run.settings import settings_of
from kd.run.train_config import TrainConfig

# What file systems say that cannot lock a file, as NFS without its daemon and some mounts.
WITHOUT_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


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
        run_id = _run_id(self._unfinished, without_places(json_values(config)))
        self._dashboard = Dashboard(folder, json_values(config), job, run_id)

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
        self._lock.close()
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
        write_atomic(self._path, "".join(kept).encode())
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

    def table(self, name: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Show a table of text in the W&B run."""
        self._dashboard.table(name, header, rows)


class NoMetrics:
    """The numbers of a process that is not the first: nothing is kept, checkpoints are restored."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing open."""

    def checkpoint(self, *phases: str, **identity: str) -> ReadOnlyCheckpoint:
        """Return the checkpoint that the first process keeps."""
        return ReadOnlyCheckpoint(_checkpoint(self._folder, phases[0], identity, math.inf))

    def log(self, phase: str, step: int, **numbers: float) -> None:
        """Keep nothing."""

    def summary(self, **values: object) -> None:
        """Keep nothing."""

    def artifact(self, path: Path, name: str, kind: str) -> None:
        """Keep nothing."""

    def table(self, name: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Show nothing."""


AnyMetrics = Metrics | NoMetrics


def open_metrics(config: TrainConfig | SearchConfig, job: str) -> AnyMetrics:
    """Open the run's numbers in the first process, and what stands for them in the others."""
    if not is_main_process():
        return NoMetrics(config.run)
    return Metrics(config.run, settings_of(config), job, config.checkpoint_seconds)


def open_phase(metrics: AnyMetrics, *names: str, **identity: str) -> Phase:
    """Return a phase called like the first of `names`, which are all that it logs.

    `identity` says what the phase depends on beside the run's settings.
    """
    checkpoint = metrics.checkpoint(*names, **identity)
    return Phase(names[0], partial(metrics.log, names[0]), checkpoint)


def _checkpoint(
    folder: Path, phase: str, identity: Mapping[str, str], seconds: float
) -> Checkpoint:
    return Checkpoint(folder / "checkpoint" / f"{phase}.pt", identity, seconds)


def _locked(folder: Path) -> TextIO:
    """Hold the folder while the file that is returned is open: the system closes what is left."""
    lock = (folder / ".lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise UserError(
            f"{folder}: another process works in it; wait for it, or give another --run"
        ) from error
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        print(
            f"{folder}: this file system has no locks ({error.strerror}); let no other process "
            "work in it meanwhile",
            file=sys.stderr,
        )
    return lock


def _run_id(unfinished: Path, config: dict) -> str:
    """Name the W&B run: anew, or as it was when a job of the same settings was interrupted."""
    begun = read_json(unfinished) if unfinished.exists() else {}
    named = re.fullmatch("[0-9a-f]{8}", str(begun.get("id")))
    if begun.get("config") != config or not named:
        begun = {"id": secrets.token_hex(4), "config": config}
        write_json(unfinished, begun)
    return begun["id"]
