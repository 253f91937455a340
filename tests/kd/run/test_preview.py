"""What is said before anything is spent: it names every phase, and nothing is written."""

import os
import re
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from base.precision import Precision
from export.runtimes.faster import Ratios
from kd.batches import micro_batch
from kd.images.splits import DataSettings, load_data
from kd.run.preview import (
    duration,
    loading_seconds,
    other_load,
    scoring_seconds,
    step_seconds,
    student_time,
    teacher_seconds,
    time_text,
)
from kd.run.search_config import SearchConfig
from kd.run.train_config import TrainConfig
from supernet.latency.parts import parts
from supernet.presets import preset_space
from supernet.space import SearchSpace
from supernet.supernet import Supernet
from supernet.training import preview
from supernet.training.preview import (
    all_step_seconds,
    count_parts,
    table_rows,
)
from tests.smoke import SMOKE, Started, run
from tests.tiny import UNIT


def test_preview_says_everything_and_writes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = run("train.py", "--run", folder, *SMOKE, "--preview")
    assert done.returncode == 0, done.stderr
    assert not folder.exists()
    for said in (
        "of w at",
        "decoding",
        "free",
        "teacher ",
        "alpha ",
        "survey ",
        "a student",
        "memory",
    ):
        assert said in done.stdout
    assert "next:" not in done.stdout
    for said in ("the decoding of images", "a step of alpha", "the teacher"):
        assert f"preview: timing {said}\n" in done.stderr


def test_an_interrupted_preview_has_nothing_to_go_on_with(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    started = Started("train.py", "--run", folder, *SMOKE, "--preview")
    time.sleep(0.5)
    printed = started.kill(signal.SIGINT)
    assert started.returncode == 130
    last = "train.py: interrupted; nothing was written; the same command begins anew"
    assert printed.splitlines()[-1] == last
    assert not folder.exists()


def test_more_workers_than_cores_are_said_once(tmp_path: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    options = ("--run", tmp_path / "run", *SMOKE, "--preview", "--workers", cores + 3)
    done = run("train.py", *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"workers: {cores} of {cores + 3}, one for every core\n") == 1
    assert "worker" not in done.stderr


@pytest.mark.parametrize(
    ("seconds", "text"), [(12.4, "12 s"), (130, "2 min"), (5990, "100 min"), (9000, "2.5 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_student_and_those_tried_before_it() -> None:
    recipe = SearchConfig(epochs=40, trials=8, trial_epochs=5)
    assert student_time(2.0, recipe) == "80 s for 40 epochs, and before it 80 s for 8 on trial"


def test_phases_of_no_time_are_left_out() -> None:
    assert time_text({"a": 30, "b": 0.0, "c": 60}) == "roughly 90 s on this machine: a 30 s, c 60 s"


@pytest.mark.parametrize(
    ("threads", "percent", "told"),
    [(2, 60.0, "2.4 of 4 cores"), (2, 75.0, "3.0 of 4 cores"), (2, 50.0, ""), (1, 100.0, "")],
)
def test_other_programs_are_named_where_threads_wait_for_them(
    threads: int, percent: float, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads on four cores leave room for two more programs; one thread never waits."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 5})
    every = [percent, percent, percent, 0.0, 100.0, percent]  # two are of others alone
    monkeypatch.setattr("psutil.cpu_percent", lambda _, percpu: every)
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    busy = other_load()
    assert [name for name, _ in busy] == ["other load"] * bool(told)
    assert all(text.startswith(f"{told}: ") for _, text in busy)
    assert all("set OMP_NUM_THREADS=1" in text for _, text in busy)


def test_workers_decode_while_a_step_computes() -> None:
    assert step_seconds(2.0, 3.0, workers=0) == 5.0
    assert step_seconds(2.0, 3.0, workers=2) == 3.0


def test_a_student_is_scored_on_the_search_split_after_calibration() -> None:
    """40 images to decode and pass in batches of 20, after 4 batches that are decoded already."""
    data = load_data(DataSettings(resolution=(8, 8), limit=200))
    assert len(data.search) == 40
    assert scoring_seconds(len(data.search), 20, 3.0, 0.5, workers=0) == pytest.approx(2 * 1.5 + 4)


@pytest.mark.parametrize("preset", ["digits", "cifar10", "imagenet"])
def test_parts_of_the_table_are_counted_without_being_made(preset: str) -> None:
    space = preset_space(preset, 10)
    assert count_parts(space) == len(parts(space))


def test_the_table_is_timed_roughly_or_brought(space: SearchSpace) -> None:
    (_, latency), (_, memory) = table_rows(space, UNIT, None, None)
    assert re.fullmatch(rf"about \S+ to \S+ ms for a {re.escape(str(UNIT))}", latency)
    assert memory.startswith(f"{len(parts(space))} parts and 78 networks timed, all in memory")
    ratios = Ratios({"int8": (0.5, 2.0), "int8-signed": (3.0, 3.0)})
    assert table_rows(space, UNIT, None, ratios)[-1] == ("precision", str(ratios))
    assert table_rows(space, UNIT, Path("phone.json"), None) == [
        ("latency", f"phone.json: a {UNIT}")
    ]


@pytest.mark.parametrize(("processes", "accumulate"), [(1, 1), (2, 1), (1, 2), (2, 4)])
def test_a_batch_passes_in_shares_and_parts(processes: int, accumulate: int) -> None:
    assert micro_batch(64, processes, accumulate) * processes * accumulate == 64


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_steps_are_timed_and_leave_no_trace(
    space: SearchSpace, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the arithmetic that the networks will train in.

    How many are timed hangs on the clock, so a trace would make two runs differ.
    """
    seen, convolve = set(), torch.nn.functional.conv2d

    def seen_conv(x: torch.Tensor, *rest: object, **named: object) -> torch.Tensor:
        out = convolve(x, *rest, **named)
        seen.add(out.dtype)
        return out

    monkeypatch.setattr(torch.nn.functional, "conv2d", seen_conv)
    supernet, images = Supernet(space).train(), torch.rand(8, 3, 8, 8)
    before = {name: part.clone() for name, part in supernet.state_dict().items()}
    for seconds in all_step_seconds(supernet, images, 4, precision, precision):
        assert 0 < seconds < 60
    assert all(torch.equal(part, before[name]) for name, part in supernet.state_dict().items())
    assert all(part.grad is None and part.requires_grad for part in supernet.parameters())
    assert seen == {torch.bfloat16 if precision == "bf16" else torch.float32}


@pytest.mark.parametrize("few", [4, 8, 32])
def test_a_batch_of_alpha_may_be_larger_than_that_of_w(
    monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(preview, "alpha_seconds", lambda _, images, precision: len(images))
    supernet, images = Supernet(preset_space("digits", 10)), torch.rand(8, 3, 16, 16)
    assert all_step_seconds(supernet, images, few, "fp32", "fp32")[1] == few


@pytest.mark.parametrize("batch", [16, 100])
def test_decoding_is_timed_for_one_batch_or_many(batch: int) -> None:
    data = load_data(DataSettings(resolution=(8, 8), limit=130))
    assert 0 < loading_seconds(data, None, batch, 0) < 60


def test_a_stored_teacher_costs_nothing(tmp_path: Path) -> None:
    config = TrainConfig(limit=200, batch=16)
    data, pixels = load_data(config.data_settings((16, 16))), torch.rand(16, 3, 16, 16)
    trained = teacher_seconds(config, data, None, pixels, 0.0)
    assert trained.keys() == {"teacher", "outputs"}
    longer = replace(config, teacher_epochs=1600)
    assert teacher_seconds(longer, data, None, pixels, 0.0)["teacher"] > 5 * trained["teacher"]
    stored = replace(config, teacher=(f"stored:{tmp_path}",))
    assert teacher_seconds(stored, data, None, pixels, 0.0) == {}
