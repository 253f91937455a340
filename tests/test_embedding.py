"""Students that learn a teacher's vectors: both scripts, as a user runs them."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from export.onnx_file import read_metadata
from export.runtimes.onnx_session import onnx_session
from kd.run.folder import read_metrics
from supernet.choice.student_file import load_student
from tests.conftest import made_once
from tests.identities import EMBEDDING, embedding_options, of_images
from tests.smoke import QUICK_SEARCH, SMOKE, middle_ms, refused, run


@pytest.fixture(scope="session")
def student(shared: Path, embedded: tuple[Path, str]) -> tuple[Path, subprocess.CompletedProcess]:
    """A searched student's folder, and how the search went."""
    folder, ms = shared / "embedded-student" / "run", middle_ms(embedded[0])

    def search() -> subprocess.CompletedProcess:
        shutil.copytree(embedded[0], folder)
        options = ("--target-latency", ms, *QUICK_SEARCH, "--epochs", 8, "--controls")
        return run("search.py", "--run", folder, *options)

    done = made_once(folder, search)
    assert done.returncode in (0, 1), done.stderr
    return folder / "students" / f"{ms:g}ms", done


def test_a_student_is_judged_by_pairs_of_identities_it_never_saw(
    student: tuple[Path, subprocess.CompletedProcess], faces: Path
) -> None:
    folder, done = student
    facts = json.loads((folder / "metrics.json").read_text())
    own, teacher = facts["test_verification"], facts["teacher_test_verification"]
    assert own["pairs"] == teacher["pairs"] == 96
    assert teacher["accuracy"] > 0.9
    assert own["accuracy"] == facts["test_accuracy"] > 0.75
    assert facts["teacher_agreement"] > 0.4
    assert facts["onnx_parity"]
    assert facts["controls"].keys() - {"largest"} == {"random"}
    assert facts["controls"]["random"]["test_verification"]["pairs"] == 96
    assert all(
        trial.keys() == {"architecture", "predicted_ms", "loss", "cosine"}
        for trial in facts["trials"]
    )
    for row, found in (("student", own), ("teacher", teacher)):
        told = f"of 96 pairs right (4 folds), AUC {found['auc']:.4f}"
        assert any(line.startswith(row) and told in line for line in done.stdout.splitlines())
    assert "mean cosine of" in done.stdout
    assert "AUC" in (folder / "report.html").read_text()
    lines = read_metrics(folder.parent.parent)
    assert {"loss", "cosine"} <= lines[-1].keys()
    assert "accuracy" not in lines[-1]


def test_its_file_and_its_module_give_the_same_vectors_of_length_1(
    student: tuple[Path, subprocess.CompletedProcess], faces: Path
) -> None:
    folder, _ = student
    loaded = load_student(folder)
    assert loaded.classes == ()
    paths = sorted((faces / "images").rglob("*_0001.png"))
    pixels = [np.asarray(Image.open(path).resize((16, 16))) for path in paths]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 255
    session = onnx_session(folder / "student.onnx")
    (vectors,) = session.run(["vector"], {session.get_inputs()[0].name: images.numpy()})
    assert vectors.shape == (len(paths), 12)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    with torch.no_grad():
        np.testing.assert_allclose(vectors, loaded(images).numpy(), atol=1e-5)
    assert read_metadata(folder / "student.onnx")["output"].startswith("vector of 12 numbers")


def test_training_says_what_the_teacher_is(embedded: tuple[Path, str]) -> None:
    folder, printed = embedded
    assert "vectors of 12 numbers; of" in printed
    facts = json.loads((folder / "teacher.json").read_text())
    assert (facts["classes"], facts["vector"]) == ([], 12)
    assert 0.6 < facts["recognised"] <= 1
    stored = np.load(folder / "targets" / "train" / "probabilities.npy", mmap_mode="r")
    assert stored.shape[-1] == 12
    np.testing.assert_allclose(np.linalg.norm(stored.astype(np.float32), axis=-1), 1, atol=2e-3)


def test_an_architecture_of_classes_goes_to_embeddings(
    searched: tuple[Path, float, subprocess.CompletedProcess], faces: Path, tmp_path: Path
) -> None:
    """AKD's transfer to faces: with its weights, but for the classifier."""
    known, ms, _ = searched
    options = ("--architecture", known, "--start", known, "--run", tmp_path / "b")
    done = run("search.py", *options, *of_images(faces), *QUICK_SEARCH)
    assert done.returncode in (0, 1), done.stderr
    folder = tmp_path / "b" / "students" / f"{ms:g}ms"
    loaded = load_student(folder)
    assert loaded.architecture == load_student(known).architecture
    assert loaded(torch.rand(2, *loaded.image_shape)).shape == (2, 12)
    facts = json.loads((folder / "metrics.json").read_text())
    assert facts["test_verification"]["pairs"] == 96
    assert facts["onnx_parity"]
    share = 1 - sum(p.numel() for p in loaded.head.classifier.parameters()) / facts["params"]
    assert facts["start"] == f"{known}: {share:.0%} of its parameters"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--pairs", ""), "needs --pairs, the list of pairs that judge it"),
        (("--teacher", "timm:resnet18"), "takes one trained network as --teacher"),
        (("--guide", "labels"), "--guide labels: not with --task embedding; leave it"),
        (("--latency-precision", "int8"), "--latency-precision int8: not with --task embedding"),
        (("--kd-distance", "dkd"), "--kd-distance dkd: not with --task embedding"),
        (("--relation-weight", "-1"), "--relation-weight -1.0: expected 0 or more"),
        (("--data", "digits"), "--data digits: no folder; --pairs names images in folders"),
    ],
)
def test_what_does_not_go_with_the_task_is_one_line(
    faces: Path, tmp_path: Path, options: tuple[str, str], expected: str
) -> None:
    given = [*embedding_options(faces)]
    if options[0] in ("--pairs", "--data"):
        at = given.index(options[0])
        given[at : at + 2] = options if options[1] else ()
    else:
        given += options
    done = run("train.py", "--run", tmp_path / "run", *EMBEDDING, *given)
    refused(done, expected)
    assert not (tmp_path / "run").exists()


def test_pairs_are_for_embeddings(faces: Path, tmp_path: Path) -> None:
    options = ("--run", tmp_path / "run", *SMOKE, "--pairs", faces / "pairs.txt")
    refused(run("train.py", *options), "are for --task embedding; give that, too")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--retrain-with", "labels"), "--retrain-with labels: not with --task embedding"),
        (("--rivals", "plain:4-8-16"), "--rivals: not with --task embedding"),
    ],
)
def test_a_search_that_needs_classes_is_one_line(
    embedded: tuple[Path, str], options: tuple[str, str], expected: str
) -> None:
    refused(run("search.py", "--run", embedded[0], "--target-latency", 1, *options), expected)
