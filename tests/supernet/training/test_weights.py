"""The shared weights learn, repeat bitwise for a seed, and students of all latencies are taught."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from base.phase import Phase
from supernet.choice.programme import programme
from supernet.latency_table import LatencyTable
from supernet.sampling import fair_sampler
from supernet.space import Architecture
from supernet.supernet import Supernet
from supernet.training.weights import LOG_EVERY, STUDENTS, WSettings, train_w
from tests.labelled import Labelled

SETTINGS = WSettings(steps=40, w_learning_rate=0.1, weight_decay=1e-4, precision="fp32", seed=0)
Lines = list[tuple[int, Mapping[str, float]]]


def batches(start: int) -> Iterator[Labelled]:
    """Images whose class is the brightest channel."""
    for seed in itertools.count(start):
        images = torch.rand(32, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
        labels = torch.arange(32) % 3
        images[torch.arange(32), labels] += 1
        yield Labelled(images / 2, labels)


def loss(logits: Tensor, batch: Labelled) -> Tensor:
    return cross_entropy(logits, batch.labels)


def trained(
    table: LatencyTable, settings: WSettings = SETTINGS, steps: int = 40
) -> tuple[Supernet, Lines]:
    """The supernet, and what was logged."""
    lines: Lines = []
    torch.manual_seed(0)
    supernet = Supernet(table.space)
    sampler = fair_sampler(table, *programme(table).range_ms())

    def log(step: int, **numbers: float) -> None:
        lines.append((step, numbers))

    settings = replace(settings, steps=steps)
    train_w(supernet, sampler, batches, loss, settings, Phase("w", log))
    return supernet, lines


def test_every_kind_of_student_learns(table: LatencyTable) -> None:
    _, lines = trained(table)
    assert [step for step, _ in lines] == [0, 10, 20, 30, 39]
    first, last = lines[0][1], lines[-1][1]
    for kind in ("fast", "slow", "fair"):
        assert last[kind] < 0.5 * first[kind]
    assert last["learning_rate"] < 1e-3 < 0.08 < max(line["learning_rate"] for _, line in lines)


def test_the_seed_fixes_every_bit(table: LatencyTable) -> None:
    (one, first), (two, second) = (trained(table, steps=LOG_EVERY) for _ in range(2))
    other, _ = trained(table, replace(SETTINGS, seed=1), LOG_EVERY)
    assert first == second
    assert all(torch.equal(part, two.state_dict()[name]) for name, part in one.state_dict().items())
    assert any(
        not torch.equal(part, other.state_dict()[name]) for name, part in one.state_dict().items()
    )


def test_a_step_teaches_students_of_every_latency(
    table: LatencyTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each on its own quarter of the batch, of its own quarter of all latencies in the mean."""
    taught: list[tuple[Architecture, int]] = []
    run = Supernet.student_logits

    def watched(self: Supernet, images: Tensor, architecture: Architecture) -> Tensor:
        taught.append((architecture, len(images)))
        return run(self, images, architecture)

    monkeypatch.setattr(Supernet, "student_logits", watched)
    trained(table, steps=100)
    assert len(taught) == STUDENTS * 100
    assert {count for _, count in taught} == {32 // STUDENTS}
    fastest_ms, slowest_ms = programme(table).range_ms()
    ends = np.geomspace(fastest_ms, slowest_ms, STUDENTS + 1)
    for i, (low, high) in enumerate(itertools.pairwise(ends)):
        own = [table.predicted_ms(architecture) for architecture, _ in taught[i::STUDENTS]]
        # Log-uniform from low to high: the mean is (high - low) / log(high / low).
        mean_ms = (high - low) / np.log(high / low)
        assert np.mean(own) == pytest.approx(mean_ms, abs=4 * np.std(own) / 10)
        assert len(set(own)) > 5


def test_settings_are_taken_from_a_run() -> None:
    run = {"w_learning_rate": 0.2, "weight_decay": 0.0, "precision": "bf16", "seed": 3, "batch": 9}
    run["accumulate"] = 2
    assert WSettings.of(run, 7) == WSettings(7, 0.2, 0.0, "bf16", 3, 2)
