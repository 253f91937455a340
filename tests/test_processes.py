"""Several processes learn what one learns, stay together, and end together."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from base.processes import (
    all_reduce_mean,
    gather_dict,
    rank_shard,
    rank_slice,
    require_same_on_all_processes,
)
from base.tensor_files import read_tensors
from supernet.latency_table import LatencyTable
from tests.smoke import QUICK_SEARCH, ROOT, SMOKE, environment, table_of
from tests.tiny import tiny_space

TWO = ("torch.distributed.run", "--standalone", "--nproc-per-node=2")


def run_module(*words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", *map(str, words)]
    return subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is left by one process, which takes a batch in two parts, and by two at once."""
    folder = tmp_path_factory.mktemp("ends")
    for launcher, accumulate in (((), 2), ((*TWO, "-m"), 1)):
        done = run_module(*launcher, "tests.several", folder, accumulate)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def ends(folder: Path) -> dict[str, dict[str, Tensor]]:
    """What each process ends with."""
    return {path.stem: read_tensors(path)[0] for path in folder.glob("*.safetensors")}


def test_two_processes_learn_what_one_learns(ends: dict[str, dict[str, Tensor]]) -> None:
    one, two = ends["1-0"], ends["2-0"]
    assert one.keys() == two.keys()
    kinds = {name.split(".")[0] for name in one}
    trained = {"network", "tuned", "w", "alpha", "fit", "int8", "choices"}
    assert kinds == trained | {"squares", "stored"}
    for name, part in one.items():
        assert torch.allclose(part.double(), two[name].double(), rtol=1e-4, atol=1e-5), name


def test_processes_stay_together(ends: dict[str, dict[str, Tensor]]) -> None:
    first, second = ends["2-0"], ends["2-1"]
    assert all(torch.equal(part, second[name]) for name, part in first.items())


def test_work_is_shared_out_and_everyone_knows_all_results(
    ends: dict[str, dict[str, Tensor]],
) -> None:
    for end in ends.values():
        assert end["squares.1"].tolist() == [0]
        assert end["squares.7"].tolist() == [n * n for n in range(7)]


def test_the_teachers_answers_are_shared_out_and_stored_once(folder: Path) -> None:
    alone, *shares = (int((folder / f"asked-{name}").read_text()) for name in ("1-0", "2-0", "2-1"))
    assert sum(shares) == alone
    assert max(shares) - min(shares) <= 16
    for name in ("probabilities", "classes", "seeds"):
        of_one, of_two = (np.load(folder / f"outputs-{n}" / f"{name}.npy") for n in (1, 2))
        assert (of_one == of_two).all()


def test_one_measures_the_table_that_all_have(folder: Path) -> None:
    assert (folder / "run" / "measurement.json").exists()
    first, second = ((folder / f"table-{rank}").read_text() for rank in range(2))
    table = LatencyTable.load(folder / "run" / "latency.json", tiny_space(classes=10))
    assert first == second == table.fingerprint()


def test_it_did_learn(ends: dict[str, dict[str, Tensor]]) -> None:
    one = ends["1-0"]
    assert one["alpha.logits"].abs().max() > 0.05
    assert one["fit.7.loss"] < one["fit.3.loss"]


def test_one_process_needs_no_other() -> None:
    tensor = torch.ones(3)
    all_reduce_mean([tensor])
    assert torch.equal(tensor, torch.ones(3))
    assert require_same_on_all_processes(7, "step") == 7
    assert rank_slice(12) == slice(0, 12)
    assert rank_shard([3, 1, 2]) == [3, 1, 2]
    assert gather_dict({"a": 1}) == {"a": 1}


@pytest.fixture(scope="module")
def trained_by_two(trained: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that two processes have trained, and nobody disturbed."""
    folder, table = tmp_path_factory.mktemp("runs") / "two", trained[0] / "latency.json"
    options = ("--run", folder, *SMOKE, "--latency-table", table)
    done = run_module(*TWO, "--", "train.py", *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("next: python search.py") == 1
    return folder


def test_two_processes_search_and_retrain(trained_by_two: Path) -> None:
    table = table_of(trained_by_two)
    generous_ms = round(10 * table.predicted_ms(table.space.largest()), 2)
    options = ("--run", trained_by_two, "--target-latency", generous_ms, *QUICK_SEARCH)
    done = run_module(*TWO, "--", "search.py", *options)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^ONNX parity +passed", done.stdout, re.MULTILINE)) == 1


def test_a_killed_process_brings_the_job_to_its_last_checkpoint(
    trained_by_two: Path, tmp_path: Path
) -> None:
    """The launcher starts all again, and they end with the bits of those that nobody disturbed."""
    folder, table = tmp_path / "killed", trained_by_two / "latency.json"
    options = ("--run", folder, *SMOKE, "--latency-table", table)
    options += ("--resume", "--checkpoint-seconds", 0)
    launcher = (*TWO, "--max-restarts=1")
    command = [sys.executable, "-m", *launcher, "--", "train.py", *map(str, options)]
    # Otherwise those started again may be given the addresses of those that died.
    fresh = {**environment(), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=fresh, start_new_session=True) as job:
        kill_a_worker(job.pid, folder / "metrics.jsonl")
        assert job.wait(timeout=300) == 0
    calm, killed = (
        read_tensors(run / "supernet.safetensors")[0] for run in (trained_by_two, folder)
    )
    assert all(torch.equal(part, killed[name]) for name, part in calm.items())
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    places = [(line["phase"], line["step"]) for line in steps]
    assert len(places) == len(set(places))


def kill_a_worker(launcher: int, metrics: Path) -> None:
    """Kill the last worker with SIGKILL once shared weights are trained."""
    while not (metrics.exists() and '"phase": "w", "step": 10' in metrics.read_text()):
        time.sleep(0.05)
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
