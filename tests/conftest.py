"""What many tests share: a small space and its table, one run at smoke size."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import wandb

from supernet.choice.programme import programme
from supernet.latency.measurement import find_or_measure_table
from supernet.latency_table import LatencyTable
from supernet.space import Architecture, SearchSpace
from tests.smoke import QUICK_SEARCH, SMOKE, run, table_of
from tests.tiny import PATIENCE, UNIT, tiny_space, tiny_table

# Tiny networks gain nothing from threads, and lose much on a busy machine.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def space() -> SearchSpace:
    """Every kind of decision, few enough to enumerate."""
    return tiny_space()


@pytest.fixture(scope="session")
def every_architecture(space: SearchSpace) -> list[Architecture]:
    """All students of `space`, by brute force over all decisions."""
    decisions = space.decisions()
    grids = np.stack(np.meshgrid(*[range(len(d.choices)) for d in decisions], indexing="ij"), -1)
    names = [d.name for d in decisions]
    rows = grids.reshape(-1, len(names)).tolist()
    return list(dict.fromkeys(space.architecture(dict(zip(names, r, strict=True))) for r in rows))


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
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A trained run's folder, and what train.py printed."""
    folder = tmp_path_factory.mktemp("runs") / "smoke"
    done = run("train.py", "--run", folder, *SMOKE)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.fixture(scope="session")
def searched(trained: tuple[Path, str]) -> tuple[Path, float, subprocess.CompletedProcess]:
    """The student's folder, its budget, and the finished search."""
    folder, _ = trained
    budget = round(float(np.prod(programme(table_of(folder)).range_ms()) ** 0.5), 3)
    done = run("search.py", "--run", folder, "--target-latency", budget, *QUICK_SEARCH)
    return folder / "students" / f"{budget:g}ms", budget, done
