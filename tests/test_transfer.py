"""Students that start from known weights, and architectures that are taken to other images."""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kd.evaluate import calibration_images, recalibrate
from kd.images.splits import load_data
from kd.run.folder import read_metrics
from kd.run.search_config import SearchConfig
from kd.run.settings import home_config
from kd.run.taught import Taught
from kd.run.train_config import TrainConfig
from search import Ready, new_student
from supernet.choice.student_file import load_student, write_student
from supernet.presets import preset_space
from supernet.student import Student
from supernet.training.storage import load_supernet
from tests.conftest import COLOURS
from tests.smoke import QUICK_SEARCH, refused, run


def facts_of(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


Searched = tuple[Path, float, subprocess.CompletedProcess]


def test_an_architecture_goes_to_other_images(
    searched: Searched, others: Path, tmp_path: Path
) -> None:
    """With a teacher of its own, in a run of its own: judged, timed and exported as ever."""
    student, ms, _ = searched
    folder = tmp_path / "b"
    # Long enough for BatchNorm to see what any architecture needs, whichever was found here.
    quick = (*QUICK_SEARCH, "--epochs", 10)
    options = ("--architecture", student, "--data", others, "--run", folder, "--start", student)
    done = run("search.py", *options, *quick, "--controls", "--rivals", "plain:4-8-16")
    assert done.returncode in (0, 1), done.stderr
    name = f"{ms:g}ms"
    new, facts = folder / "students" / name, facts_of(folder / "students" / name)
    assert {path.name for path in new.iterdir()} >= {path.name for path in student.iterdir()}
    loaded, known = load_student(new), load_student(student)
    assert loaded.architecture == known.architecture
    assert loaded.classes == tuple(COLOURS)
    assert facts["target_ms"] == ms
    assert facts["measured_ms"] > 0
    assert facts["onnx_parity"]
    assert facts["test_accuracy"] > 0.6
    assert facts["controls"].keys() - {"largest"} == {"random", "labels"}
    assert facts["controls"]["random"]["architecture"] != known.architecture.to_json()
    assert facts["trials"] == []
    # All but a classifier of three classes is what it started from.
    share = 1 - sum(p.numel() for p in loaded.head.classifier.parameters()) / facts["params"]
    assert facts["start"] == f"{student}: {share:.0%} of its parameters"
    assert f"that of {student}, not searched for these images" in done.stdout
    # The teacher was trained for the new images, and stored outputs for them.
    stored = np.load(folder / "targets" / "train" / "probabilities.npy", mmap_mode="r")
    assert stored.shape[-1] == 3
    # Again, nothing is learned anew but the student.
    again = run("search.py", *options, *quick)
    assert again.returncode in (0, 1), again.stderr
    phases = {line["phase"] for line in read_metrics(folder)}
    kinds = ["", "-plain-4-8-16", *(f"-{control}" for control in facts["controls"])]
    assert phases == {"teacher", *(f"student_{name}{kind}" for kind in kinds)}


def test_a_student_starts_from_its_slice_of_the_shared_weights(
    trained: tuple[Path, str], searched: Searched
) -> None:
    """With the statistics of plain images of the train split, as every score has it."""
    run_folder, architecture = trained[0], load_student(searched[0]).architecture
    config, settings = SearchConfig(run=run_folder, start="shared"), config_of(run_folder)
    space = preset_space("digits", 10)
    supernet = load_supernet(run_folder / "supernet.safetensors", space)
    known = Taught(settings, load_data(settings.data_settings(space.resolution)), None)
    ready = Ready(known, space, None, "shared", supernet)
    student, started_from = new_student(config, ready, architecture)
    assert started_from == "shared"
    expected = supernet.extract(architecture)
    before = expected.stem.conv[1].running_mean.clone()
    recalibrate(expected, calibration_images(known.data.train, settings.batch, config.seed))
    assert not torch.equal(expected.stem.conv[1].running_mean, before)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(student.state_dict()[name], tensor), name


def config_of(folder: Path) -> TrainConfig:
    return home_config(SearchConfig(run=folder))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--run", "b"), "--architecture {student}: give the images for it as --data"),
        (("--run", "b", "--data", "digits", "--start", "shared"), "there are no shared weights"),
        (("--run", "b", "--data", "digits", "--target-latency", "1", "2"), "it is one student"),
        (("--run", "{run}", "--data", "digits"), "the architecture's own; give another folder"),
        (("--run", "b", "--data", "nowhere"), "nowhere"),
        (("--run", "b", "--data", "digits", "--start", "nowhere"), "no weights of a student here"),
        (("--run", "b", "--data", "digits", "--teacher", "timm:nobody"), "nobody"),
    ],
)
def test_what_cannot_be_taken_elsewhere_is_one_line(
    searched: Searched, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    student = searched[0]
    places = {"student": student, "run": student.parents[1]}
    words = [tmp_path / word if word == "b" else word.format(**places) for word in options]
    refused(run("search.py", "--architecture", student, *words), said.format(**places))
    assert not (tmp_path / "b").exists()


def test_an_architecture_of_no_run_is_refused(searched: Searched, tmp_path: Path) -> None:
    alone = shutil.copytree(searched[0], tmp_path / "alone" / "student" / "5ms")
    done = run("search.py", "--architecture", alone, "--data", "digits", "--run", tmp_path / "b")
    refused(done, "no run here")


def test_a_damaged_architecture_or_one_of_another_space_is_refused(
    searched: Searched, tmp_path: Path
) -> None:
    """As where somebody has put a student into the folder of another run."""
    home = shutil.copytree(searched[0].parents[1], tmp_path / "home")
    student = home / "students" / searched[0].name
    options = ("--architecture", student, "--data", "digits", "--run", tmp_path / "b")
    (student / "metrics.json").write_text(json.dumps({"target_ms": 5, "table": "phone"}))
    refused(run("search.py", *options), "its 5 ms are of another latency table")
    other = replace(preset_space("digits", 10), stem_widths=(24,))
    foreign, facts = Student(other, other.middle()), {"classes": json.dumps(["0"] * 10)}
    write_student(student, foreign, other.middle(), other, facts | {"resize": "null"})
    refused(run("search.py", *options, "--target-latency", 5), "stem.width = 24")
    tensors = student / "student.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:100])
    refused(run("search.py", *options), "student.safetensors")
    assert not (tmp_path / "b").exists()


def test_a_run_without_a_table_is_no_home(searched: Searched, tmp_path: Path) -> None:
    home = shutil.copytree(searched[0].parents[1], tmp_path / "home")
    (home / "latency.json").unlink()
    student = home / "students" / searched[0].name
    done = run("search.py", "--architecture", student, "--data", "digits", "--run", tmp_path / "b")
    refused(done, "name the run that it was searched in")


def test_a_run_that_has_its_teacher_takes_no_other(searched: Searched) -> None:
    options = ("--target-latency", "1", "--teacher", "small_resnet18:1")
    done = run("search.py", "--run", searched[0].parents[1], *options)
    refused(done, "--teacher: the run has its teacher; give it to train.py")
    options = ("--target-latency", "1", "--teacher-resize", "9")
    done = run("search.py", "--run", searched[0].parents[1], *options)
    refused(done, "--teacher-resize: the run has its teacher; give it to train.py")


def test_a_start_that_is_nowhere_is_refused(trained: tuple[Path, str]) -> None:
    options = ("--target-latency", "1", "--start", "nowhere")
    done = run("search.py", "--run", trained[0], *options)
    refused(done, "nowhere/student.safetensors: no weights of a student here")
