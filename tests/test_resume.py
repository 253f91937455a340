"""Killed again and again, both scripts end with the same bits as if they had never been."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from supernet.derive import programme
from tests.smoke import QUICK_SEARCH, ROOT, SMOKE, run, table_of

# How often each phase is killed, in the order in which they come.
TRAIN_KILLS = {"teacher": 5, "outputs": 3, "w": 5, "alpha": 5}
SEARCH_KILLS = {"student": 7}
KEEP_ALWAYS = ("--checkpoint-seconds", "0")
LONGEST = 300  # seconds of one process, on a busy machine


class Started:
    """One of the scripts as a process, with all that it starts."""

    def __init__(self, script: str, *options: object) -> None:
        self.began = time.time()
        # A pipe that nobody reads would stop it when it is full.
        handle, self.printed = tempfile.mkstemp()
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / script), *map(str, options)],
            cwd=ROOT,
            env={**os.environ, "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"},
            stdout=handle,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        os.close(handle)

    def wait_for_life(self, folder: Path) -> bool:
        """Wait until it writes into `folder`; False when it ended without."""
        while self.process.poll() is None:
            assert time.time() - self.began < LONGEST
            if any(path.stat().st_mtime > self.began for path in folder.glob("wandb/*run-*")):
                return True
            time.sleep(0.02)
        return False

    def kill(self, number: int) -> str:
        """Send a signal to it and to all that it started; return what it had printed."""
        os.killpg(self.process.pid, number)
        self.process.wait(timeout=60)
        return Path(self.printed).read_text()


def has_begun(folder: Path, phase: str) -> bool:
    """Whether a run has come to a phase, by what it leaves."""
    if phase == "outputs":
        return any((folder / "targets").glob(".*.partial"))
    return any((folder / "checkpoint").glob(f"{phase}*.pt"))


def kill_often(kills: Mapping[str, int], folder: Path, *command: object) -> Counter:
    """Kill the command again and again, at random moments of every phase; count the kills."""
    draws, killed = random.Random(0), Counter()
    for phase in [phase for phase, count in kills.items() for _ in range(count)]:
        started = Started(*command)
        started.wait_for_life(folder)
        while started.process.poll() is None and not has_begun(folder, phase):
            assert time.time() - started.began < LONGEST
            time.sleep(0.005)
        time.sleep(draws.choice((0.0, 0.02, 0.1, 0.5, 2.0)))
        killed[phase] += started.process.poll() is None
        started.kill(signal.SIGKILL)
    return killed


@pytest.fixture(scope="module")
def phone(trained: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of another device, so that nothing is measured and everything repeats."""
    table = json.loads((trained[0] / "latency.json").read_text())
    table["provenance"]["machine"]["cpu"] = "Telephone"
    path = tmp_path_factory.mktemp("tables") / "phone.json"
    path.write_text(json.dumps(table))
    return path


@pytest.fixture(scope="module")
def whole(phone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and a search in it, that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("resume") / "whole"
    assert run("train.py", "--run", folder, *SMOKE, "--latency-table", phone).returncode == 0
    done = run("search.py", "--run", folder, "--target-latency", budget(folder), *QUICK_SEARCH)
    assert done.returncode == 0, done.stderr
    return folder


def budget(folder: Path) -> float:
    return round(float(np.prod(programme(table_of(folder)).range_ms()) ** 0.5), 3)


def assert_same(one: Path, other: Path, *names: str) -> None:
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_killed_at_random_both_scripts_end_with_the_same_bits(
    whole: Path, phone: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    options = ("--run", folder, *SMOKE, "--latency-table", phone, *KEEP_ALWAYS, "--resume")
    killed = kill_often(TRAIN_KILLS, folder, "train.py", *options)
    done = run("train.py", *options)
    assert done.returncode == 0, done.stderr
    assert_same(folder, whole, "teacher.safetensors", "supernet.safetensors", "preferences.json")
    for stored in sorted((whole / "targets").rglob("*.npy")):
        assert_same(folder, whole, str(stored.relative_to(whole)))
    trained = (folder / "metrics.jsonl").read_text()
    assert (whole / "metrics.jsonl").read_text().startswith(trained)
    assert not (folder / "checkpoint").exists()

    ms = budget(folder)
    options = ("--run", folder, "--target-latency", ms, *QUICK_SEARCH, *KEEP_ALWAYS)
    killed += kill_often(SEARCH_KILLS, folder, "search.py", *options)
    done = run("search.py", *options)
    assert done.returncode == 0, done.stderr
    student = f"students/{ms:g}ms"
    assert_same(folder / student, whole / student, "student.safetensors", "architecture.json")
    assert_same(folder, whole, "metrics.jsonl")
    facts = [json.loads((f / student / "metrics.json").read_text()) for f in (folder, whole)]
    kept = [{k: v for k, v in one.items() if not k.endswith("seconds")} for one in facts]
    assert kept[0] == kept[1]
    assert not list((folder / "checkpoint").glob("*"))
    # The W&B run is one, in as many parts as there were processes.
    ids = {path.name.rpartition("-")[2] for path in (folder / "wandb").glob("offline-run-*")}
    assert len(ids) == 2
    # A process may be done before its kill; most are not.
    assert killed.total() >= 20
    assert killed.keys() == {*TRAIN_KILLS, *SEARCH_KILLS}


def test_a_measurement_that_was_killed_is_continued(tmp_path: Path) -> None:
    folder = tmp_path / "measured"
    options = ("--run", folder, *SMOKE, "--latency-seconds", "3", "--resume")
    started = Started("train.py", *options)
    while not (folder / "measurement.json").exists():
        assert time.time() - started.began < LONGEST
        assert started.process.poll() is None
        time.sleep(0.02)
    started.kill(signal.SIGKILL)
    before = json.loads((folder / "measurement.json").read_text())["rounds"]
    done = run("train.py", *options)
    assert done.returncode == 0, done.stderr
    after = json.loads((folder / "measurement.json").read_text())["rounds"]
    assert after[: len(before)] == before
    assert len(after) > len(before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_interrupted_politely_it_says_how_to_go_on(
    phone: Path, tmp_path: Path, number: int
) -> None:
    folder = tmp_path / "run"
    started = Started("train.py", "--run", folder, *SMOKE, "--latency-table", phone)
    assert started.wait_for_life(folder)
    printed = started.kill(number)
    assert started.process.returncode == 130
    assert "Traceback" not in printed
    assert printed.splitlines()[-1].endswith(
        "train.py: interrupted; the same command with --resume goes on"
    )
    done = run("train.py", "--run", folder, *SMOKE, "--latency-table", phone)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(
        "begun already; --resume goes on, or give another --run"
    )
