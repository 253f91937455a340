"""The run folder: settings that must agree, numbers on disk and in W&B."""

import errno
import json
import os
import sys
from pathlib import Path

import pytest
import torch

import kd.run.dashboard
from base.errors import UserError
from kd.run.folder import open_run, read_config
from kd.run.metrics import Metrics

CONFIG = {"seed": 3, "data": {"source": "digits", "root": Path("x")}, "budgets": (1.5, 2.0)}
IMAGES = "the fingerprint of some images"

pytestmark = pytest.mark.usefixtures("no_account")


class FakeRun:
    """What `Metrics` asks of a W&B run, kept in lists."""

    def __init__(self) -> None:
        self.logged, self.defined, self.codes = [], [], []
        self.summary: dict[str, object] = {}

    def log(self, numbers: dict[str, float]) -> None:
        self.logged.append(numbers)

    def define_metric(self, name: str, step_metric: str | None = None, **_: object) -> None:
        self.defined.append((name, step_metric))

    def finish(self, exit_code: int) -> None:
        self.codes.append(exit_code)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    run = FakeRun()
    monkeypatch.setattr(kd.run.dashboard.wandb, "init", lambda **_: run)
    return run


def test_config_holds_settings_command_and_versions(tmp_path: Path) -> None:
    open_run(tmp_path / "runs" / "a", CONFIG, resume=False, data=IMAGES)
    config = read_config(tmp_path / "runs" / "a")
    assert config["settings"] == {
        "seed": 3,
        "data": {"source": "digits", "root": "x"},
        "budgets": [1.5, 2.0],
    }
    assert config["command"][1:] == sys.argv[1:]
    assert config["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"python", "torchvision", "onnxruntime", "numpy"} <= config["versions"].keys()


def test_the_same_settings_resume_the_run(tmp_path: Path) -> None:
    open_run(tmp_path, CONFIG, resume=True, data=IMAGES)
    before = (tmp_path / "config.json").read_bytes()
    open_run(tmp_path, CONFIG, resume=True, data=IMAGES)
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_run_that_was_begun_is_only_resumed_when_asked(tmp_path: Path) -> None:
    open_run(tmp_path, CONFIG, resume=False, data=IMAGES)
    with pytest.raises(UserError, match="begun already; --resume goes on, or give another --run"):
        open_run(tmp_path, CONFIG, resume=False, data=IMAGES)
    (tmp_path / "report.html").touch()
    open_run(tmp_path, CONFIG, resume=False, data=IMAGES)


def test_other_settings_are_refused(tmp_path: Path) -> None:
    open_run(tmp_path, CONFIG, resume=False, data=IMAGES)
    other = {"seed": 4, "data": {"source": "cifar10", "root": Path("x")}, "budgets": (1.5, 2.0)}
    with pytest.raises(UserError) as caught:
        open_run(tmp_path, other, resume=True, data="another")
    text = str(caught.value)
    assert "data.source is digits there and cifar10 here; seed is 3 there and 4 here" in text
    assert "another --run" in text
    assert "budgets" not in text
    with pytest.raises(UserError, match="new is None there and 1 here"):
        open_run(tmp_path, {**CONFIG, "new": 1}, resume=True, data=IMAGES)


def test_images_may_move_but_not_change(tmp_path: Path) -> None:
    begun = {"data": "images", "unlabelled": "more", "seed": 3}
    moved = {"data": "/mnt/images", "unlabelled": "./more", "seed": 3}
    open_run(tmp_path, begun, resume=False, data=IMAGES)
    with pytest.raises(UserError, match="data is images there and /mnt/images here; unlabelled is"):
        open_run(tmp_path, moved, resume=True, data="another")
    with pytest.raises(UserError, match="begun with other images than those of --data"):
        open_run(tmp_path, begun, resume=True, data="another")
    with pytest.raises(UserError, match="begun already; --resume goes on"):
        open_run(tmp_path, moved, resume=False, data=IMAGES)
    assert read_config(tmp_path)["settings"] == begun
    open_run(tmp_path, moved, resume=True, data=IMAGES)
    assert read_config(tmp_path)["settings"] == moved
    assert read_config(tmp_path)["data"] == IMAGES
    with pytest.raises(UserError, match="settings: seed is 3 there and 4 here; give"):
        open_run(tmp_path, {**begun, "seed": 4}, resume=True, data=IMAGES)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"run.* cannot be written \(Not a directory\); .* another"):
        open_run(tmp_path / "file" / "run", CONFIG, resume=False, data=IMAGES)


def test_no_run_yet(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run train\.py first"):
        read_config(tmp_path)


def test_metrics_lines_and_wandb_get_the_same_numbers(tmp_path: Path, fake: FakeRun) -> None:
    with Metrics(tmp_path, CONFIG, "train") as metrics:
        metrics.log("teacher", 10, loss=0.5, accuracy=0.25)
        metrics.log("teacher", 20, loss=float("nan"), accuracy=float("inf"))
        metrics.log("supernet", 1, loss=2)
        metrics.summary(test_accuracy=0.75)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [
        {"phase": "teacher", "step": 10, "loss": 0.5, "accuracy": 0.25},
        {"phase": "teacher", "step": 20, "loss": None, "accuracy": None},
        {"phase": "supernet", "step": 1, "loss": 2},
    ]
    assert fake.logged[0] == {"teacher/step": 10, "teacher/loss": 0.5, "teacher/accuracy": 0.25}
    assert fake.defined == [
        ("teacher/step", None),
        ("teacher/*", "teacher/step"),
        ("supernet/step", None),
        ("supernet/*", "supernet/step"),
    ]
    assert fake.summary == {"test_accuracy": 0.75}
    assert fake.codes == [0]


def test_metrics_are_appended_and_a_failed_run_says_so(tmp_path: Path, fake: FakeRun) -> None:
    with Metrics(tmp_path, CONFIG, "train") as metrics:
        metrics.log("a", 1, x=1.0)

    def failing() -> None:
        with Metrics(tmp_path, CONFIG, "search") as metrics:
            metrics.log("b", 2, x=2.0)
            raise UserError("broken")

    with pytest.raises(UserError, match="broken"):
        failing()
    phases = [json.loads(x)["phase"] for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert phases == ["a", "b"]
    assert fake.codes == [0, 1]


def test_a_resumed_phase_leaves_no_line_twice(tmp_path: Path, fake: FakeRun) -> None:
    """Lines from the checkpoint's step on are written again; other phases keep theirs."""
    with Metrics(tmp_path, CONFIG, "train") as metrics:
        checkpoint = metrics.checkpoint("w", table="t")
        for step in range(6):
            metrics.log("w", step, x=float(step))
            metrics.log("alpha", step, x=float(step))
        checkpoint.save_if_due(4, 4, {})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "w", "st')
    with Metrics(tmp_path, CONFIG, "train") as metrics:
        assert metrics.checkpoint("w", table="t").done() == 4
        metrics.log("w", 4, x=40.0)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["x"] for line in lines if line["phase"] == "w"] == [0, 1, 2, 3, 40]
    assert [line["step"] for line in lines if line["phase"] == "alpha"] == list(range(6))
    with Metrics(tmp_path, CONFIG, "train") as metrics:
        assert metrics.checkpoint("w", "alpha", table="another").done() == 0
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_an_interrupted_job_goes_on_in_its_wandb_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def init(**options: object) -> FakeRun:
        asked.append((options["settings"].run_id, options["settings"].resume))
        return FakeRun()

    def interrupted(config: dict) -> None:
        with pytest.raises(KeyboardInterrupt), Metrics(tmp_path, config, "train"):
            raise KeyboardInterrupt

    monkeypatch.setattr(kd.run.dashboard.wandb, "init", init)
    interrupted(CONFIG)
    Metrics(tmp_path, {**CONFIG, "data": "moved"}, "train")  # killed: never left
    with Metrics(tmp_path, CONFIG, "train"):
        pass
    with Metrics(tmp_path, CONFIG, "train"):
        pass
    interrupted({**CONFIG, "seed": 4})
    with Metrics(tmp_path, CONFIG, "search"):
        pass
    ids = [run_id for run_id, _ in asked]
    assert len({*ids[:3]}) == 1
    assert len({*ids}) == 4
    assert {resume for _, resume in asked} == {"allow"}


def test_two_processes_do_not_work_in_one_folder(tmp_path: Path, fake: FakeRun) -> None:
    with Metrics(tmp_path, CONFIG, "train") as metrics:
        metrics.log("w", 0, x=1.0)
        with pytest.raises(UserError, match="another process works in it; wait for it"):
            Metrics(tmp_path, CONFIG, "search")
    with Metrics(tmp_path, CONFIG, "search"):
        pass
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_said(
    tmp_path: Path,
    fake: FakeRun,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    capsys: pytest.CaptureFixture,
) -> None:
    def flock(file: object, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    with Metrics(tmp_path, CONFIG, "train") as metrics:
        metrics.log("w", 0, x=1.0)
    assert "this file system has no locks (" in capsys.readouterr().err
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_lines_are_on_disk_before_the_run_ends(tmp_path: Path, fake: FakeRun) -> None:
    with Metrics(tmp_path, CONFIG, "train") as metrics:
        metrics.log("a", 1, x=1.0)
        assert json.loads((tmp_path / "metrics.jsonl").read_text())["x"] == 1.0
