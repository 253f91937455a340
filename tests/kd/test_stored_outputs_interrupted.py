"""A writer of teacher outputs that is interrupted, runs out of disk, or is given nonsense."""

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import kd.outputs_writer
from base.errors import UserError
from kd.images.splits import Data, DataSettings, load_data
from kd.outputs_writer import store_outputs
from kd.stored_outputs import open_outputs, stored_shape
from tests.smoke import ROOT

IDENTITY = {"data": "d1", "teacher": "t1"}
VIEWS, CALLS = 2, 9  # 3 rows of 12 images, in batches of 5


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data(DataSettings(resolution=(8, 8), limit=60))


@pytest.fixture(autouse=True)
def _saves_every_second_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kd.outputs_writer, "SAVE_EVERY", 2)


class Interrupted:
    """A teacher that stops at one of its calls; `scale` makes it another teacher."""

    def __init__(
        self, at: int | None, error: Callable[[], BaseException], scale: float = 1.0
    ) -> None:
        self.at, self.error, self.scale, self.calls = at, error, scale, 0

    def __call__(self, images: Tensor) -> Tensor:
        if self.calls == self.at:
            raise self.error()
        self.calls += 1
        return (self.scale * images.flatten(1)[:, 60:70]).softmax(dim=1)


def teacher(at: int | None = None, scale: float = 1.0) -> Interrupted:
    return Interrupted(at, KeyboardInterrupt, scale)


def store(
    data: Data,
    probabilities: Callable[[Tensor], Tensor],
    folder: Path,
    identity: dict[str, str] = IDENTITY,
    description: str | None = None,
    most: int = 4,
) -> None:
    shape = stored_shape(data.search, VIEWS, 10, most)
    store_outputs(
        probabilities, data.search, shape, folder, identity, batch=5, description=description
    )


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("description", ["outputs", None])
@pytest.mark.parametrize("at", range(CALLS))
def test_an_interrupted_writer_goes_on_where_it_was(
    data: Data, tmp_path: Path, at: int, description: str | None
) -> None:
    store(data, teacher(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        store(data, teacher(at), tmp_path / "search", description=description)
    assert not (tmp_path / "search").exists()
    again = teacher()
    store(data, again, tmp_path / "search", description=description)
    assert content(tmp_path / "search") == content(tmp_path / "whole")
    assert again.calls == CALLS - at // 2 * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["search", "whole"]


def test_a_writer_may_be_interrupted_again_and_again(data: Data, tmp_path: Path) -> None:
    store(data, teacher(), tmp_path / "whole")
    for _ in range(CALLS // 2):
        with pytest.raises(KeyboardInterrupt):
            store(data, teacher(2), tmp_path / "search", description="outputs")
    last = teacher()
    store(data, last, tmp_path / "search", description="outputs")
    assert last.calls == 1
    assert content(tmp_path / "search") == content(tmp_path / "whole")


@pytest.mark.parametrize("change", ["teacher", "shape"])
def test_what_another_teacher_began_is_begun_anew(data: Data, tmp_path: Path, change: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        store(data, teacher(7), tmp_path / "search", description="outputs")
    identity = {"data": "d1", "teacher": "t2"} if change == "teacher" else IDENTITY
    most = 5 if change == "shape" else 4
    other = teacher(scale=9.0)
    store(data, other, tmp_path / "search", identity, "outputs", most)
    assert other.calls == CALLS
    store(data, teacher(scale=9.0), tmp_path / "whole", identity, most=most)
    assert content(tmp_path / "search") == content(tmp_path / "whole")


def damage(partial: Path, how: str) -> None:
    facts = partial / "targets.json"
    if how == "truncated array":
        array = partial / "probabilities.npy"
        array.write_bytes(array.read_bytes()[:-8])
    elif how == "lost array":
        (partial / "seeds.npy").unlink()
    elif how == "truncated facts":
        facts.write_text(facts.read_text()[:-8])
    else:
        facts.write_text(json.dumps(json.loads(facts.read_text()) | {"done": how}))


@pytest.mark.parametrize(
    "how", ["truncated array", "lost array", "truncated facts", -1, CALLS + 1, "4", None]
)
def test_what_is_left_but_damaged_is_begun_anew(data: Data, tmp_path: Path, how: object) -> None:
    store(data, teacher(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        store(data, teacher(7), tmp_path / "search")
    damage(tmp_path / ".search.partial", how)
    again = teacher()
    store(data, again, tmp_path / "search")
    assert again.calls == CALLS
    assert content(tmp_path / "search") == content(tmp_path / "whole")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_are_refused(data: Data, tmp_path: Path, value: float) -> None:
    good = teacher()

    def broken(images: Tensor) -> Tensor:
        found = good(images)
        if good.calls == 5:  # the second batch of the second row
            found[1, 3] = value
        return found

    with pytest.raises(UserError, match="its outputs for image 5 and those after it are not") as e:
        store(data, broken, tmp_path / "search")
    assert "\n" not in str(e.value)
    assert not (tmp_path / "search").exists()


def test_a_full_disk_is_said_before_the_teacher_runs(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(data, teacher(), tmp_path / "search")
    before = content(tmp_path / "search")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    unused = teacher()
    with pytest.raises(UserError, match=r"search: .*No space left on device.*--views") as caught:
        store(data, unused, tmp_path / "search", {"data": "d1", "teacher": "t2"})
    assert "\n" not in str(caught.value)
    assert unused.calls == 0
    assert content(tmp_path / "search") == before
    monkeypatch.undo()
    store(data, teacher(), tmp_path / "other")
    assert content(tmp_path / "other") == before


def evenly(images: torch.Tensor) -> torch.Tensor:
    return torch.full((len(images), 1000), 1e-3)


def limited(folder: Path, most_bytes: int) -> None:
    """Store outputs with 1,000 classes in a process whose files are limited."""
    split = load_data(DataSettings(resolution=(8, 8), limit=60)).search
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    try:
        shape = stored_shape(split, VIEWS, 1000, 1000)
        store_outputs(evenly, split, shape, folder, IDENTITY)
    except UserError as error:
        print(error)


def test_a_real_limit_on_files_ends_in_one_line_and_leaves_the_older_outputs(
    data: Data, tmp_path: Path
) -> None:
    store(data, teacher(), tmp_path / "search")
    before = content(tmp_path / "search")
    code = (
        "from tests.kd.test_stored_outputs_interrupted import *; "
        f"limited(Path({str(tmp_path / 'search')!r}), 40_000)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"{tmp_path / 'search'}: cannot hold the teacher's outputs")
    assert "File too large" in line
    assert content(tmp_path / "search") == before
    open_outputs(tmp_path / "search", IDENTITY)
