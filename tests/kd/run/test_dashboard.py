"""A run's numbers in W&B: without an account, without a network, and when the network goes."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import wandb

import kd.run.dashboard
from base.errors import UserError
from base.streams import open_streams
from kd.run.metrics import Metrics
from tests.smoke import ROOT

CONFIG = {"seed": 3, "data": {"source": "digits"}}
pytestmark = pytest.mark.usefixtures("no_account")


def kept(folder: Path, kind: str) -> bytes:
    """What W&B has written of the only run of a kind ("offline-run", "run"), its service ended."""
    wandb.teardown()  # as at the end of a process: finish() does not wait for the file
    (data,) = (folder / "wandb").glob(f"{kind}-*/*.wandb")
    return data.read_bytes()


def test_without_an_account_wandb_is_offline_inside_the_run(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    (tmp_path / "file.txt").write_text("hello")
    with Metrics(tmp_path / "run", CONFIG, "train") as metrics:
        metrics.log("teacher", 1, loss=0.5)
        metrics.artifact(tmp_path / "file.txt", "greeting", "text")
        metrics.artifact(tmp_path / "not drawn.html", "missing", "report")
        metrics.table("students", ("student", "target"), [("20ms", "20 ms")])
    content = kept(tmp_path / "run", "offline-run")
    for expected in (b"teacher/loss", b"greeting", b"digits", b"oyster", b"students.table.json"):
        assert expected in content
    assert b"missing" not in content
    (table,) = (tmp_path / "run").rglob("*.table.json")
    shown = json.loads(table.read_text())
    assert (shown["columns"], shown["data"]) == (["student", "target"], [["20ms", "20 ms"]])
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], wandb.Settings]:
    """Begin a run that W&B is told of and does not begin; return the settings it would have."""
    monkeypatch.chdir(tmp_path)  # W&B's own settings may lie there
    told = []

    def init(config: dict, settings: wandb.Settings) -> None:
        told.append(wandb.setup().settings.model_copy())
        told[-1].update_from_settings(settings)

    def begin() -> wandb.Settings:
        monkeypatch.setattr(kd.run.dashboard.wandb, "init", init)
        Metrics(tmp_path / "run", CONFIG, "train")
        return told[-1]

    return begin


@pytest.mark.parametrize(
    ("environment", "netrc", "mode"),
    [
        ({}, "", "offline"),
        ({"WANDB_API_KEY": "k" * 40}, "", "online"),
        ({"WANDB_API_KEY": "k" * 40, "WANDB_MODE": "disabled"}, "", "disabled"),
        ({"WANDB_MODE": "online"}, "", "online"),
        ({}, "machine api.wandb.ai login user password k", "online"),
        ({}, "machine example.org login user password k", "offline"),
        ({"WANDB_BASE_URL": "https://example.org"}, "machine example.org password k", "online"),
        ({}, "nonsense", "offline"),
    ],
)
def test_wandb_mode(
    begun: Callable[[], wandb.Settings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    netrc: str,
    mode: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "netrc").write_text(netrc)
    assert begun().mode == mode


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_what_wandb_was_told_before_is_heeded(
    begun: Callable[[], wandb.Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """As `wandb offline` and `wandb disabled` leave it, beside a key."""
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    (tmp_path / "wandb").mkdir()
    content = f"[default]\nmode = {mode}\nproject = theirs\nentity = somebody\n"
    (tmp_path / "wandb" / "settings").write_text(content)
    settings = begun()
    assert (settings.mode, settings.project, settings.entity) == (mode, "theirs", "somebody")


def test_variables_of_wandb_come_first(
    begun: Callable[[], wandb.Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = begun()
    assert (own.project, own.run_name, own.root_dir) == ("oyster", "run", str(tmp_path / "run"))
    wandb.teardown()
    asked = {
        **{"project": "theirs", "entity": "somebody", "name": "first", "dir": str(tmp_path)},
        **{"run_id": "abc", "resume": "never", "job_type": "sweep", "silent": "false"},
        "run_group": "g",
    }
    for name, value in asked.items():
        monkeypatch.setenv(f"WANDB_{name.upper()}", value)
    settings = begun()
    assert (settings.project, settings.entity, settings.run_name) == ("theirs", "somebody", "first")
    assert (settings.root_dir, settings.run_id, settings.resume) == (str(tmp_path), "abc", "never")
    assert (settings.run_job_type, settings.silent, settings.run_group) == ("sweep", False, "g")


@pytest.mark.parametrize("elsewhere", [False, True])
def test_names_that_are_not_utf8_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: bool, capsys: pytest.CaptureFixture
) -> None:
    """W&B cannot keep its files under such a name, but it can elsewhere."""
    open_streams()
    if elsewhere:
        monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    odd = os.fsdecode(b"z\xff")
    folder = tmp_path / odd
    with Metrics(folder, CONFIG | {"data": {"source": odd}}, "train") as metrics:
        (folder / "file").write_text("hello")
        metrics.log(f"student_{odd}", 1, loss=0.5)
        metrics.summary(classes=[odd], **{f"{odd}/target": 1.0})
        metrics.artifact(folder / "file", f"student-{odd} (1)", "model")
    said = capsys.readouterr().err
    assert ("W&B: lost (" in said) is not elsewhere
    assert ("W&B: not given " in said) is elsewhere
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 1
    if elsewhere:
        assert b"student_z\\udcff/loss" in kept(tmp_path, "offline-run")


def test_an_artifact_of_any_name_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("hello")
    with Metrics(tmp_path / "run", CONFIG, "train") as metrics:
        metrics.artifact(tmp_path / "file.txt", "student-日本 (1)-20ms" + "x" * 200, "model")
    assert b"student--1--20msx" in kept(tmp_path / "run", "offline-run")


def test_a_wandb_that_cannot_be_reached_is_offline_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """The real one, at an address where nobody answers."""
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(kd.run.dashboard, "REACHED_WITHIN", 2)
    with Metrics(tmp_path, CONFIG, "train") as metrics:
        metrics.log("teacher", 1, loss=0.5)
    assert b"teacher/loss" in kept(tmp_path, "offline-run")
    begun = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert begun == {"phase": "teacher", "step": 1, "loss": 0.5}
    warnings = [line for line in capfd.readouterr().err.splitlines() if "no online run" in line]
    assert len(warnings) == 1
    assert warnings[0].endswith("; continuing offline")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("WANDB_MODE", "banana", "mode"), ("WANDB_BASE_URL", "nowhere", "base_url")],
)
def test_settings_that_wandb_refuses_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=rf"^W&B: .*{said} Input should be .*WANDB_ var") as caught:
        Metrics(tmp_path, CONFIG, "train")
    assert "\n" not in str(caught.value)


class Service(BaseHTTPRequestHandler):
    """As much of W&B's service as a client wants to see before it begins a run."""

    def do_POST(self) -> None:
        query = self.rfile.read(int(self.headers["Content-Length"])).decode()
        project = {"id": "p", "name": "oyster", "entity": {"id": "e", "name": "somebody"}}
        found = {"model": {**project, "bucket": None}} if "RunResumeStatus" in query else {}
        if "UpsertBucket" in query:
            bucket = {"id": "r", "name": "r", "displayName": "r", "project": project}
            found = {"upsertBucket": {"bucket": bucket, "inserted": True}}
        answer = json.dumps({"data": found}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def service() -> Iterator[ThreadingHTTPServer]:
    """A service that answers until it is shut down."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_wandb_that_goes_away_holds_nobody_up_and_nothing_is_lost(
    service: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{service.server_port}")
    monkeypatch.setattr(kd.run.dashboard, "FINISHED_WITHIN", 3)
    with Metrics(tmp_path, CONFIG, "train") as metrics:
        metrics.log("teacher", 1, loss=0.5)
        service.shutdown()
        service.server_close()
        metrics.log("alone", 2, loss=0.25)
    assert b"alone/loss" in kept(tmp_path, "run")
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["phase"] for line in lines] == ["teacher", "alone"]


WITHOUT_ITS_SERVICE = """
import os, signal, sys
from pathlib import Path
from kd.run.metrics import Metrics

folder = Path(sys.argv[1])
with Metrics(folder, {}, "train") as metrics:
    metrics.log("w", 0, x=1.0)
    for children in Path("/proc/self/task").glob("*/children"):
        for child in children.read_text().split():
            if "wandb-core" in Path("/proc", child, "cmdline").read_text():
                os.kill(int(child), signal.SIGKILL)
                os.waitpid(int(child), 0)
                print("killed")
    for step in range(1, 300):
        metrics.log("w", step, x=1.0)
    metrics.summary(done=True)
"""


def test_a_wandb_whose_service_dies_is_said_once_and_the_run_goes_on(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_ITS_SERVICE, str(tmp_path)],
        **{"cwd": ROOT, "capture_output": True, "text": True, "timeout": 100},
        check=False,
    )
    assert done.stdout == "killed\n"
    (line,) = done.stderr.splitlines()
    assert line.startswith("W&B: lost (")
    assert line.endswith("); going on without it, all numbers are in metrics.jsonl")
    assert done.returncode == 0
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 300
