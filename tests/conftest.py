"""What many tests share: a small space and its table, one run at smoke size."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

# Tiny networks gain nothing from threads, and lose much where several workers have them.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch
import wandb
from filelock import FileLock
from PIL import Image

from supernet.latency.measurement import find_or_measure_table
from supernet.latency_table import LatencyTable
from supernet.space import Architecture, SearchSpace
from tests.identities import EMBEDDING, embedding_options, make_identities
from tests.smoke import QUICK_SEARCH, SMOKE, middle_ms, run
from tests.tiny import PATIENCE, UNIT, enumerate_students, tiny_space, tiny_table

torch.set_num_threads(1)
COLOURS = {"blue": (20, 40, 220), "green": (30, 200, 60), "red": (230, 30, 20)}
LONGEST_FIRST = ("test_processes.py", "test_resume.py", "test_scripts.py", "test_pick.py")


@pytest.fixture(scope="session")
def space() -> SearchSpace:
    """Every kind of decision, few enough to enumerate."""
    return tiny_space()


@pytest.fixture(scope="session")
def every_architecture(space: SearchSpace) -> list[Architecture]:
    """All students of `space`, by brute force over stems, stages, layers and heads."""
    return enumerate_students(space)


@pytest.fixture(scope="session")
def table(space: SearchSpace) -> LatencyTable:
    """Random positive milliseconds."""
    return tiny_table(space)


@pytest.fixture(scope="session")
def measured_run(space: SearchSpace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the tiny space was measured; it is not changed."""
    folder = tmp_path_factory.mktemp("run")
    find_or_measure_table(folder, space, UNIT, PATIENCE, 0)
    return folder


@pytest.fixture
def measured(measured_run: Path, space: SearchSpace) -> LatencyTable:
    """The table that was measured there."""
    return LatencyTable.load(measured_run / "latency.json", space)


@pytest.fixture
def no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key in the environment or in netrc, and W&B's own folders out of the way."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "wandb-data"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "wandb-cache"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))
    wandb.teardown()  # it reads the environment once


@pytest.fixture
def random() -> np.random.Generator:
    """A fresh generator, the same for every test."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that all workers of a test run have in common."""
    own = tmp_path_factory.getbasetemp()
    return own if worker_id == "master" else own.parent


@pytest.fixture(scope="session")
def trained(shared: Path) -> tuple[Path, str]:
    """A trained run's folder, and what train.py printed; it is not changed, searches copy it."""
    folder = shared / "trained" / "smoke"
    done = made_once(folder, lambda: run("train.py", "--run", folder, *SMOKE))
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.fixture(scope="session")
def searched(
    shared: Path, trained: tuple[Path, str]
) -> tuple[Path, float, subprocess.CompletedProcess]:
    """The student's folder, its budget, and the finished search."""
    folder = shared / "searched" / "smoke"
    ms = middle_ms(trained[0])

    def search() -> subprocess.CompletedProcess:
        shutil.copytree(trained[0], folder)
        return run("search.py", "--run", folder, "--target-latency", ms, *QUICK_SEARCH)

    done = made_once(folder, search)
    return folder / "students" / f"{ms:g}ms", ms, done


@pytest.fixture(scope="session")
def faces(shared: Path) -> Path:
    """Made-up identities, made once."""
    folder = shared / "faces" / "own"

    def make() -> subprocess.CompletedProcess:
        make_identities(folder)
        return subprocess.CompletedProcess([], 0, "", "")

    made_once(folder, make)
    return folder


@pytest.fixture(scope="session")
def embedded(shared: Path, faces: Path) -> tuple[Path, str]:
    """A trained run of embeddings, and what train.py printed."""
    folder = shared / "embedded" / "run"
    options = ("--run", folder, *embedding_options(faces), *EMBEDDING)
    done = made_once(folder, lambda: run("train.py", *options))
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.fixture
def others(tmp_path: Path) -> Path:
    """A folder of images of other classes, which a teacher learns at once."""
    draws = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (tmp_path / "others" / name).mkdir(parents=True)
        for number in range(60):
            image = np.clip(draws.normal(colour, 40, (20, 18, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(image).save(tmp_path / "others" / name / f"{number}.png")
    return tmp_path / "others"


@pytest.fixture
def trained_copy(trained: tuple[Path, str], tmp_path: Path) -> Path:
    """The trained run's folder, to be searched in."""
    return shutil.copytree(trained[0], tmp_path / "copy" / "smoke")


def made_once(
    folder: Path, make: Callable[[], subprocess.CompletedProcess]
) -> subprocess.CompletedProcess:
    """Make what `folder` is to hold in the first worker that asks; return how that went."""
    folder.parent.mkdir(exist_ok=True)
    kept = folder.parent / "done.json"
    with FileLock(folder.parent / "lock"):
        if not kept.exists():
            done = make()
            kept.write_text(json.dumps([done.args, done.returncode, done.stdout, done.stderr]))
    return subprocess.CompletedProcess(*json.loads(kept.read_text()))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest; a file is one worker's."""
    last = len(LONGEST_FIRST)
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.name, last))
