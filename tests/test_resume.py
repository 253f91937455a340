"""Killed again and again, both scripts end with the same bits as if they had never been."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from base.files import UNFINISHED
from supernet.choice.programme import programme
from tests.smoke import QUICK_SEARCH, ROOT, SMOKE, environment, run, table_of

# How often each phase is killed, in the order in which they come.
TRAIN_KILLS = {"teacher": 4, "outputs": 3, "table": 3, "w": 4, "alpha": 3, "survey": 2}
SEARCH_KILLS = {"student": 5}
# How the bar of each begins.
BARS = {
    **{phase: f"\r{phase}:" for phase in ("teacher", "w", "alpha", "survey")},
    **{"outputs": "\rteacher's outputs,", "table": "\rlatency table:", "student": "\rstudent "},
}
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
            env=environment(),
            stdout=handle,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # What runs in the background ignores the signal, and so would its children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
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

    def is_at(self, phases: Sequence[str]) -> str | None:
        """Return the latest of `phases` whose bar it has shown."""
        printed = Path(self.printed).read_bytes().decode(errors="ignore")  # \r as it is
        shown = [phase for phase in phases if BARS[phase] in printed]
        return shown[-1] if shown else None

    def kill(self, number: int) -> str:
        """Send a signal to it and to all that it started; return what it had printed."""
        os.killpg(self.process.pid, number)
        self.process.wait(timeout=60)
        return Path(self.printed).read_text()


def kill_often(kills: Mapping[str, int], *command: object) -> Counter:
    """Kill the command again and again, at random moments of every phase; count where it was.

    The first kill of a phase comes at its very beginning, so that none is missed.
    """
    draws, killed = random.Random(0), Counter()
    phases = list(kills)
    for phase, turn in [(phase, turn) for phase, count in kills.items() for turn in range(count)]:
        started = Started(*command)
        while not started.is_at(phases[phases.index(phase) :]):
            assert started.process.poll() is None, f"ended before {phase}"
            assert time.time() - started.began < LONGEST
            time.sleep(0.005)
        time.sleep(draws.choice((0.0, 0.02, 0.1, 0.3, 1.0)) if turn else 0.0)
        started.kill(signal.SIGKILL)
        assert started.process.returncode == -signal.SIGKILL, f"ended after {phase}"
        killed[started.is_at(phases)] += 1
    return killed


def telephone(table: Path, folder: Path) -> Path:
    """Return a table as if of another device, so that nothing is measured and all repeats."""
    facts = json.loads(table.read_text())
    facts["provenance"]["machine"]["cpu"] = "Telephone"
    folder.mkdir()
    (folder / "phone.json").write_text(json.dumps(facts))
    return folder / "phone.json"


def budget(folder: Path) -> float:
    return round(float(np.prod(programme(table_of(folder)).range_ms()) ** 0.5), 3)


def assert_same(one: Path, other: Path, *names: str) -> None:
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_killed_at_random_both_scripts_end_with_the_same_bits(tmp_path: Path) -> None:
    """What is measured differs each time; so the run that nobody kills is given the other's."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    options = ("--run", killed, *SMOKE, "--latency-seconds", 3, *KEEP_ALWAYS, "--resume")
    kills = kill_often(TRAIN_KILLS, "train.py", *options)
    done = run("train.py", *options)
    assert done.returncode == 0, done.stderr
    phone = telephone(killed / "latency.json", tmp_path / "phone")
    assert run("train.py", "--run", whole, *SMOKE, "--latency-table", phone).returncode == 0
    assert_same(killed, whole, "teacher.safetensors", "supernet.safetensors", "preferences.json")
    for stored in sorted((whole / "targets").rglob("*.npy")):
        assert_same(killed, whole, str(stored.relative_to(whole)))
    assert_same(killed, whole, "metrics.jsonl")
    assert not (killed / "checkpoint").exists()

    ms = budget(killed)
    options = ("--target-latency", ms, *QUICK_SEARCH, *KEEP_ALWAYS, "--latency-table", phone)
    kills += kill_often(SEARCH_KILLS, "search.py", "--run", killed, *options)
    for folder in (killed, whole):
        done = run("search.py", "--run", folder, *options)
        assert done.returncode == 0, done.stderr
    student = f"students/phone-{ms:g}ms"
    assert_same(killed / student, whole / student, "student.safetensors", "architecture.json")
    assert_same(killed, whole, "metrics.jsonl")
    facts = [json.loads((f / student / "metrics.json").read_text()) for f in (killed, whole)]
    kept = [{k: v for k, v in one.items() if not k.endswith("seconds")} for one in facts]
    assert kept[0] == kept[1]
    assert not list((killed / "checkpoint").glob("*"))
    assert not list(killed.rglob(f"*{UNFINISHED}"))
    # The W&B run is one, in as many parts as there were processes.
    ids = {path.name.rpartition("-")[2] for path in (killed / "wandb").glob("offline-run-*")}
    assert len(ids) == 2
    assert kills.total() >= 20
    assert kills.keys() == {*TRAIN_KILLS, *SEARCH_KILLS}, kills


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


def test_a_file_that_cannot_be_written_is_one_line_and_the_run_goes_on(
    trained: tuple[Path, str], tmp_path: Path
) -> None:
    """The system limits the size of files; the teacher's checkpoint is the first to be larger."""
    folder, table = tmp_path / "run", trained[0] / "latency.json"
    options = ("--run", folder, *SMOKE, "--latency-table", table, *KEEP_ALWAYS, "--resume")
    limited = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *map(str, options)],
        **{"cwd": ROOT, "env": environment(), "capture_output": True, "text": True},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20)),
        check=False,
    )
    assert limited.returncode == 2
    assert "Traceback" not in limited.stderr
    assert limited.stderr.splitlines()[-1].startswith(
        f"train.py: {folder / 'checkpoint' / 'teacher.pt'}: cannot be written (File too large)"
    )
    done = run("train.py", *options)
    assert done.returncode == 0, done.stderr
    assert_same(folder, trained[0], "supernet.safetensors", "metrics.jsonl")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_interrupted_politely_it_says_how_to_go_on(
    trained: tuple[Path, str], tmp_path: Path, number: int
) -> None:
    folder, table = tmp_path / "run", trained[0] / "latency.json"
    started = Started("train.py", "--run", folder, *SMOKE, "--latency-table", table)
    assert started.wait_for_life(folder)
    printed = started.kill(number)
    assert started.process.returncode == 130
    assert "Traceback" not in printed
    assert printed.splitlines()[-1].endswith(
        "train.py: interrupted; the same command with --resume goes on"
    )
    done = run("train.py", "--run", folder, *SMOKE, "--latency-table", table)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(
        "begun already; --resume goes on, or give another --run"
    )
