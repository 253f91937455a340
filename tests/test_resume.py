"""Killed again and again, both scripts end with the same bits as if they had never been."""

import json
import random
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from base.files import UNFINISHED
from tests.identities import EMBEDDING, embedding_options
from tests.smoke import LONGEST, QUICK_SEARCH, SMOKE, Started, middle_ms, run

# How often each phase is killed, in the order in which they come.
KILLS = {
    **{"teacher": 4, "outputs": 3, "table": 3, "w": 4, "alpha": 3, "survey": 2},
    **{"trial": 4, "student": 5},
}
# How the bar of each begins: on a line of its own, for nobody watches.
BARS = {
    **{phase: f"\n{phase}:" for phase in ("teacher", "w", "alpha", "survey")},
    **{"outputs": "\nteacher's outputs,", "table": "\nlatency table:"},
    **{"trial": "\ntrial ", "student": "\nstudent "},
}
MANY = max(KILLS.values())
KEEP_ALWAYS = ("--checkpoint-seconds", "0")


def is_at(started: Started, phases: Sequence[str]) -> str | None:
    """Return the latest of `phases` whose bar a script has shown."""
    printed = f"\n{started.printed()}"
    shown = [phase for phase in phases if BARS[phase] in printed]
    return shown[-1] if shown else None


def kill_often(phases: Sequence[str], *command: object, most: int = MANY) -> Counter:
    """Kill the command again and again, at random moments of every phase; count where it was.

    Of each phase so often as `KILLS` says, or `most`.

    The first kill of a phase comes at its very beginning, so that none is missed. Until the first
    of all, training is kept at the end of every phase only; then after every step.
    """
    draws, killed, keep = random.Random(0), Counter(), ()
    for phase, turn in [(p, turn) for p in phases for turn in range(min(most, KILLS[p]))]:
        started, keep = Started(*command, *keep), KEEP_ALWAYS
        while not is_at(started, phases[phases.index(phase) :]):
            assert started.returncode is None, f"ended before {phase}"
            assert time.time() - started.began < LONGEST
            time.sleep(0.005)
        time.sleep(draws.choice((0.0, 0.02, 0.1, 0.3, 1.0)) if turn else 0.0)
        started.kill(signal.SIGKILL)
        assert started.returncode == -signal.SIGKILL, f"ended after {phase}"
        killed[is_at(started, phases)] += 1
    return killed


def telephone(table: Path, folder: Path) -> Path:
    """Return a table as if of another device, so that nothing is measured and all repeats."""
    facts = json.loads(table.read_text())
    facts["provenance"]["machine"]["cpu"] = "Telephone"
    folder.mkdir()
    (folder / "phone.json").write_text(json.dumps(facts))
    return folder / "phone.json"


def assert_same(one: Path, other: Path, *names: str) -> None:
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.parametrize("phases", [("teacher", "outputs"), ("w", "alpha", "survey")])
def test_killed_at_random_training_ends_with_the_same_bits(
    trained: tuple[Path, str], tmp_path: Path, phases: tuple[str, ...]
) -> None:
    """As the run that nobody killed, whose latency table it is given."""
    killed, whole = tmp_path / "killed", trained[0]
    phone = telephone(whole / "latency.json", tmp_path / "phone")
    options = ("--run", killed, *SMOKE, "--latency-table", phone, "--resume")
    kills = kill_often(phases, "train.py", *options)
    done = run("train.py", *options)
    assert done.returncode == 0, done.stderr
    assert_same_training(killed, whole)
    assert_all_were_killed(kills, phases)
    assert len(dashboards(killed)) == 1


def test_killed_while_it_measures_training_ends_with_the_same_bits(tmp_path: Path) -> None:
    """What is measured differs each time; so the run that nobody kills is given the other's."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    options = ("--run", killed, *SMOKE, "--latency-seconds", 3, "--resume")
    kills = kill_often(("table",), "train.py", *options)
    done = run("train.py", *options)
    assert done.returncode == 0, done.stderr
    phone = telephone(killed / "latency.json", tmp_path / "phone")
    assert run("train.py", "--run", whole, *SMOKE, "--latency-table", phone).returncode == 0
    assert_same_training(killed, whole)
    assert_all_were_killed(kills, ("table",))
    assert len(dashboards(killed)) == 1


def test_killed_at_random_a_search_ends_with_the_same_bits(
    trained: tuple[Path, str], tmp_path: Path
) -> None:
    killed, whole = (shutil.copytree(trained[0], tmp_path / name) for name in ("killed", "whole"))
    phone = telephone(whole / "latency.json", tmp_path / "phone")
    ms = middle_ms(whole)
    options = ("--target-latency", ms, *QUICK_SEARCH, "--latency-table", phone)
    kills = kill_often(("trial", "student"), "search.py", "--run", killed, *options)
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
    assert_all_were_killed(kills, ("trial", "student"))
    assert len(dashboards(killed)) == 2  # that of the training, and one of the search


@pytest.mark.parametrize("start", ["folder", "shared"])
def test_killed_at_random_known_students_end_with_the_same_bits(
    trained: tuple[Path, str],
    searched: tuple[Path, float, CompletedProcess],
    others: Path,
    tmp_path: Path,
    start: str,
) -> None:
    """One that starts from its shared weights, and one that is taken to other images."""
    student, ms, _ = searched
    phone = telephone(trained[0] / "latency.json", tmp_path / "phone")
    options = (*QUICK_SEARCH, "--epochs", 4, "--trials", 0, "--latency-table", phone)
    folders, phases = (tmp_path / "killed", tmp_path / "whole"), ("student",)
    if start == "shared":
        for folder in folders:
            shutil.copytree(trained[0], folder)
        options += ("--target-latency", ms, "--start", "shared")
    else:
        phases = ("teacher", "outputs", "student")
        options += ("--architecture", student, "--start", student, "--data", others)
    killed, whole = folders
    kills = kill_often(phases, "search.py", "--run", killed, *options, most=2)
    for folder in folders:
        done = run("search.py", "--run", folder, *options)
        assert done.returncode == 0, done.stderr
    found = [next((folder / "students").glob("phone-*ms")) for folder in folders]
    assert_same(*found, "student.safetensors", "architecture.json")
    assert_same(killed, whole, "metrics.jsonl")
    assert not list((killed / "checkpoint").glob("student*"))
    assert_all_were_killed(kills, phases, most=2)


def test_killed_at_random_embeddings_end_with_the_same_bits(
    faces: Path, embedded: tuple[Path, str], tmp_path: Path
) -> None:
    """Training and search of students that learn a teacher's vectors."""
    killed, whole = tmp_path / "killed", shutil.copytree(embedded[0], tmp_path / "whole")
    phone = telephone(whole / "latency.json", tmp_path / "phone")
    ms, phases = middle_ms(whole), ("outputs", "w", "alpha", "survey")
    own = (*embedding_options(faces), *EMBEDDING, "--latency-table", phone, "--resume")
    kills = kill_often(phases, "train.py", "--run", killed, *own, most=2)
    done = run("train.py", "--run", killed, *own)
    assert done.returncode == 0, done.stderr
    assert_all_were_killed(kills, phases, most=2)
    assert_same(killed, whole, "supernet.safetensors", "preferences.json", "metrics.jsonl")
    options = ("--target-latency", ms, *QUICK_SEARCH, "--latency-table", phone)
    kills = kill_often(("trial", "student"), "search.py", "--run", killed, *options, most=2)
    for folder in (killed, whole):
        done = run("search.py", "--run", folder, *options)
        assert done.returncode == 0, done.stderr
    student = f"students/phone-{ms:g}ms"
    assert_same(killed / student, whole / student, "student.safetensors", "architecture.json")
    assert_all_were_killed(kills, ("trial", "student"), most=2)


def assert_same_training(one: Path, other: Path) -> None:
    assert_same(one, other, "teacher.safetensors", "supernet.safetensors", "preferences.json")
    for stored in sorted((other / "targets").rglob("*.npy")):
        assert_same(one, other, str(stored.relative_to(other)))
    assert_same(one, other, "metrics.jsonl")
    assert not (one / "checkpoint").exists()
    assert not list(one.rglob(f"*{UNFINISHED}"))


def wait_for_life(started: Started, folder: Path) -> bool:
    """Wait until a script writes into `folder`; False when it ended without."""
    while started.returncode is None:
        assert time.time() - started.began < LONGEST
        if any(path.stat().st_mtime > started.began for path in folder.glob("wandb/*run-*")):
            return True
        time.sleep(0.02)
    return False


def assert_all_were_killed(kills: Counter, phases: Sequence[str], most: int = MANY) -> None:
    assert kills.keys() == set(phases), kills
    assert kills.total() == sum(min(most, KILLS[phase]) for phase in phases)
    assert sum(KILLS.values()) >= 20


def dashboards(folder: Path) -> set[str]:
    """Return the W&B runs, each in as many parts as there were processes."""
    names = [path.name for path in (folder / "wandb").glob("offline-run-*")]
    # Two parts of one second have a number behind the name.
    return {re.fullmatch(r"offline-run-\w+-([0-9a-f]{8})(-\d+)?", n)[1] for n in names}


def test_a_measurement_that_was_killed_is_continued(tmp_path: Path) -> None:
    folder = tmp_path / "measured"
    options = ("--run", folder, *SMOKE, "--latency-seconds", "3", "--resume")
    started = Started("train.py", *options)
    while not (folder / "measurement.json").exists():
        assert time.time() - started.began < LONGEST
        assert started.returncode is None
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
    options = ("--run", folder, *SMOKE, "--latency-table", table, "--resume")
    limited = Started("train.py", *options, *KEEP_ALWAYS, most_bytes=2**20).wait()
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
    assert wait_for_life(started, folder)
    printed = started.kill(number)
    assert started.returncode == 130
    assert "Traceback" not in printed
    assert printed.splitlines()[-1].endswith(
        "train.py: interrupted; the same command with --resume goes on"
    )
    done = run("train.py", "--run", folder, *SMOKE, "--latency-table", table)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(
        "begun already; --resume goes on, or give another --run"
    )
