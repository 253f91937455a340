"""Workers hand their batches over in shared memory, and say so where it is too small."""

import os
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import Dataset

from base.errors import UserError
from kd.images.loader import batches, check_shared_memory, usable_workers

DOCKERS = SimpleNamespace(total=64 * 2**20, free=63 * 2**20)


class Dying(Dataset):
    """Its workers end as those do that write into shared memory which is full."""

    def __init__(self, end: int | None) -> None:
        self.end = end

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        os.kill(os.getpid(), self.end)
        return index


@pytest.mark.parametrize("end", [signal.SIGBUS, signal.SIGKILL])
def test_workers_that_the_system_ends_are_one_line(end: int) -> None:
    with pytest.raises(
        UserError, match=r"^--workers 1: one was ended .* /dev/shm, with .* give fe"
    ):
        list(batches(Dying(end), 2, None, workers=1))


def test_other_faults_in_workers_are_not_hidden() -> None:
    with pytest.raises(TypeError, match="NoneType"):
        list(batches(Dying(None), 2, None, workers=1))


@pytest.mark.parametrize(
    ("wanted", "gpus", "expected"),
    [(None, 0, 0), (None, 1, 16), (None, 4, 5), (0, 1, 0), (3, 4, 3), (99, 0, 20)],
)
def test_a_gpu_has_its_share_of_the_cores_to_decode(
    monkeypatch: pytest.MonkeyPatch, wanted: int | None, gpus: int, expected: int
) -> None:
    """Of twenty; a network that trains on the CPU needs all of them itself."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(20)))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert usable_workers(wanted) == expected


def test_too_little_shared_memory_is_said_before_anything_is_spent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Docker's default, and a batch of the imagenet preset."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DOCKERS)
    check_shared_memory(256, (224, 224), 3, workers=0)
    check_shared_memory(320, (16, 16), 3, workers=4)
    said = (
        r"--workers 4: their batches of 256 images take 1176 MiB, and /dev/shm, with 63 of 64 MiB"
    )
    with pytest.raises(UserError, match=said):
        check_shared_memory(256, (224, 224), 3, workers=4)
