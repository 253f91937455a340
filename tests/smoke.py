"""Both scripts as a user runs them, at smoke size.

They are forked from a server that has their libraries loaded: a fresh interpreter takes five
seconds to import them. Everything else is a process of its own: session, output, exit status.
"""

import multiprocessing
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from base.files import read_json
from supernet.choice.programme import programme
from supernet.latency_table import LatencyTable
from supernet.presets import preset_space
from supernet.space_files import space_from_json

ROOT = Path(__file__).parent.parent
SMOKE = (
    *("--limit", "300", "--batch", "32", "--views", "2", "--teacher-epochs", "4"),
    *("--w-epochs", "2", "--alpha-steps", "12", "--alpha-batch", "16", "--surveyed", "24"),
    # At this rate twelve steps decide nothing, whatever latency is measured.
    *("--alpha-learning-rate", "0.02", "--latency-batch", "8", "--latency-seconds", "1"),
)
QUICK_SEARCH = (
    *("--epochs", "2", "--candidates", "3", "--finalists", "2", "--measure-seconds", "1"),
    *("--trials", "5", "--trial-epochs", "1"),
)
LONGEST = 600  # seconds of one process, on a busy machine

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.preload"])


class Started:
    """One of the scripts as a process, with all that it starts."""

    def __init__(self, script: str, *options: object, most_bytes: int | None = None) -> None:
        self.began = time.time()
        # A pipe that nobody reads would stop it when it is full.
        self.folder = tempfile.TemporaryDirectory()
        self.out, self.err = (f"{self.folder.name}/{name}" for name in ("out", "err"))
        for path in (self.out, self.err):
            Path(path).touch()
        words = [script, *map(str, options)]
        arguments = (words, environment(), self.out, self.err, most_bytes)
        self.process = SERVER.Process(target=_run, args=arguments)
        self.process.start()

    @property
    def returncode(self) -> int | None:
        """The exit status; minus the signal that ended it; None while it runs."""
        return self.process.exitcode

    def printed(self) -> str:
        """All that it has printed so far; carriage returns as they are."""
        parts = (Path(path).read_bytes().decode(errors="ignore") for path in (self.out, self.err))
        return "".join(parts)

    def wait(self) -> subprocess.CompletedProcess:
        """Wait for its end, which is never a traceback."""
        self.process.join(LONGEST)
        assert self.returncode is not None, f"still running after {LONGEST} s"
        out, err = (Path(path).read_text() for path in (self.out, self.err))
        assert "Traceback" not in err, out + err
        return subprocess.CompletedProcess(self.process.name, self.returncode, out, err)

    def kill(self, number: int) -> str:
        """Send a signal to it and to all that it started; return what it had printed."""
        os.killpg(self.process.pid, number)
        self.process.join(60)
        return self.printed()


def _run(
    words: Sequence[str], environ: dict[str, str], out: str, err: str, most_bytes: int | None
) -> None:
    """Be a fresh process that runs a script."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for path, stream in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), stream)
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(ROOT)
    if most_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    # torch makes a forked process's thread pool anew at its first use, and two threads that use it
    # at once, after an export say, end the process; here there is only one.
    torch.set_num_threads(1)
    # tqdm's own lock is one for all that the server forks: killed with it, one would stop the rest.
    tqdm.set_lock(threading.RLock())
    sys.argv = list(words)
    runpy.run_path(str(ROOT / words[0]), run_name="__main__")


def run(script: str, *options: object) -> subprocess.CompletedProcess:
    return Started(script, *options).wait()


def environment() -> dict[str, str]:
    return {**os.environ, "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}


def table_of(folder: Path) -> LatencyTable:
    return LatencyTable.load(folder / "latency.json", preset_space("digits", 10))


def middle_ms(folder: Path) -> float:
    """A budget between the fastest and the slowest student of a run."""
    space = space_from_json(read_json(folder / "latency.json")["space"])
    table = LatencyTable.load(folder / "latency.json", space)
    return round(float(np.prod(programme(table).range_ms()) ** 0.5), 3)


def refused(done: subprocess.CompletedProcess, *expected: str) -> None:
    """Exit 2, and a last line that names what was expected."""
    assert done.returncode == 2, done.stdout + done.stderr
    last = done.stderr.strip().splitlines()[-1]
    for text in expected:
        assert text in last, last
