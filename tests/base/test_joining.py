"""Processes find each other, or say in time for whom they waited; alone they need nobody."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping

import pytest

import base.processes
from base.errors import UserError
from base.processes import HEARSAY, JOB, join_processes
from tests.smoke import ROOT, run

JOINS = """
import sys
import base.processes
from base.exit_status import run_script

def main():
    base.processes.JOIN_WITHIN, base.processes.NAMED_AFTER = float(sys.argv[1]), 0.5
    state = base.processes.join_processes()
    print("joined", state.process_index, state.num_processes)
    state.wait_for_everyone()

run_script("x.py", main, "the same command begins anew")
"""


@pytest.fixture
def port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """One in which nothing is said of several processes."""
    for name in (*JOB, *HEARSAY, "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE"):
        monkeypatch.setenv(name, "")  # so that what is set here later is undone
        monkeypatch.delenv(name)
    return monkeypatch


def joining(seconds: float, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", JOINS, str(seconds)],
        **{"cwd": ROOT, "env": os.environ | environment, "text": True},
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE},
    )


def test_options_are_read_before_anybody_is_waited_for(environment: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1"}.items():
        environment.setenv(name, value)
    assert "--target-latency" in run("search.py", "--help").stdout
    assert run("train.py", "--batch", 0).stderr == (
        "train.py: --batch 0: expected a whole number above 0\n"
    )


@pytest.mark.parametrize(
    "told",
    [
        {"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "nowhere.invalid", "LOCAL_RANK": "0"},
        {"PMI_SIZE": "4"},
        {"OMPI_COMM_WORLD_SIZE": "4", "SLURM_NTASKS": "4"},
        {"RANK": "3", "MASTER_ADDR": "nowhere.invalid"},
        {"LOCAL_RANK": "0"},
    ],
)
def test_what_makes_no_job_is_one_process(
    environment: pytest.MonkeyPatch, told: Mapping[str, str]
) -> None:
    for name, value in told.items():
        environment.setenv(name, value)
    assert join_processes().num_processes == 1


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2 without RANK and MASTER_ADDR; start all of them"),
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE is many, expected 1 to "),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is 0, expected 1 to "),
        (
            {"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "127.0.0.1"},
            "RANK is 2, expected 0 to 1; start",
        ),
        (
            {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "99999"},
            "MASTER_PORT is 99999, expected 1 to 65535",
        ),
    ],
)
def test_a_job_that_is_not_whole_is_refused(
    environment: pytest.MonkeyPatch, told: Mapping[str, str], said: str
) -> None:
    for name, value in told.items():
        environment.setenv(name, value)
    with pytest.raises(UserError, match=said):
        join_processes()


@pytest.mark.parametrize(("rank", "missing"), [("0", "process 1"), ("1", "process 0 to answer")])
def test_those_who_do_not_come_are_named_in_time(
    environment: pytest.MonkeyPatch,
    port: str,
    rank: str,
    missing: str,
    capsys: pytest.CaptureFixture,
) -> None:
    environment.setattr(base.processes, "JOIN_WITHIN", 0.3)
    environment.setattr(base.processes, "NAMED_AFTER", 0)
    told = {"WORLD_SIZE": "2", "RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in told.items():
        environment.setenv(name, value)
    waits = f"process {rank} of 2, at 127.0.0.1:{port}: waits for {missing}, "
    with pytest.raises(UserError, match=f"^{waits}for 0.3 s now; start all of them with torchrun"):
        join_processes()
    assert capsys.readouterr().err == f"{waits}at most 0.3 s\n"


def test_a_place_that_is_taken_is_one_line(environment: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        told = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for name, value in told.items():
            environment.setenv(name, value)
        with pytest.raises(UserError, match=r"address already in use; start"):
            join_processes()


def test_waiting_can_be_interrupted(port: str) -> None:
    told = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    with joining(300, **told) as waiting:
        assert "waits for process 1" in waiting.stderr.readline()
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait(timeout=20) == 130
        last = waiting.stderr.read().splitlines()[-1]
    assert last == "x.py: interrupted; the same command begins anew"


def test_those_who_come_late_are_waited_for(port: str) -> None:
    """The variables alone, without a launcher: as some clusters set them."""
    told = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    with joining(100, RANK="1", **told) as second:
        assert "waits for process 0 to answer" in second.stderr.readline()
        with joining(100, RANK="0", **told) as first:
            said = [process.communicate(timeout=100)[0] for process in (first, second)]
    assert said == ["joined 0 2\n", "joined 1 2\n"]
