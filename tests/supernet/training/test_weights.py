"""The shared weights learn, repeat bitwise for a seed, and both ends of the space are taught."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from base.phase import Phase
from supernet.choice.programme import programme
from supernet.latency_table import LatencyTable
from supernet.sampling import fair_sampler
from supernet.space import FUSED, MBCONV, Architecture, Layer
from supernet.supernet import Supernet
from supernet.training.weights import LOG_EVERY, WSettings, train_w
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
    for kind in ("largest", "smallest", "fair"):
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


# The ends of every operation, by the width of the stage that they belong to.
LARGEST = {
    6: {MBCONV: Layer(MBCONV, 5, 2, False), FUSED: Layer(FUSED, 3, 1, False)},
    8: {MBCONV: Layer(MBCONV, 3, 3, True), FUSED: Layer(FUSED, 3, 2, True)},
}
SMALLEST = {
    4: {MBCONV: Layer(MBCONV, 3, 2, False), FUSED: Layer(FUSED, 3, 1, False)},
    6: {MBCONV: Layer(MBCONV, 3, 1, False), FUSED: Layer(FUSED, 3, 2, True)},
}


def test_a_step_teaches_both_ends_and_two_fair_students(
    table: LatencyTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each on its own quarter of the batch; the fair ones differ from step to step."""
    taught: list[tuple[Architecture, int]] = []
    run = Supernet.student_logits

    def watched(self: Supernet, images: Tensor, architecture: Architecture) -> Tensor:
        taught.append((architecture, len(images)))
        return run(self, images, architecture)

    monkeypatch.setattr(Supernet, "student_logits", watched)
    trained(table, steps=12)
    assert len(taught) == 4 * 12
    assert {count for _, count in taught} == {8}
    for s in range(12):
        largest, smallest = taught[4 * s][0], taught[4 * s + 1][0]
        assert (largest.stem_width, smallest.stem_width) == (6, 4)
        assert [len(stage.layers) for stage in largest.stages] == [2, 2]
        assert [len(stage.layers) for stage in smallest.stages] == [1, 1]
        for stage in largest.stages:
            assert all(layer == LARGEST[stage.width][layer.operation] for layer in stage.layers)
        for stage in smallest.stages:
            assert all(layer == SMALLEST[stage.width][layer.operation] for layer in stage.layers)
    operations = [
        {taught[4 * s + end][0].stages[0].layers[0].operation for s in range(12)} for end in (0, 1)
    ]
    assert operations == [{MBCONV, FUSED}] * 2
    fair = {taught[4 * s + i][0] for s in range(12) for i in (2, 3)}
    assert len(fair) > 8


def test_settings_are_taken_from_a_run() -> None:
    run = {"w_learning_rate": 0.2, "weight_decay": 0.0, "precision": "bf16", "seed": 3, "batch": 9}
    run["accumulate"] = 2
    assert WSettings.of(run, 7) == WSettings(7, 0.2, 0.0, "bf16", 3, 2)
