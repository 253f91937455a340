"""Alpha heeds the table, is the same again for a seed, and leaves the shared weights alone."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from base.phase import Phase
from supernet.alpha import Alpha, probabilities
from supernet.choice.programme import programme
from supernet.latency_table import LatencyTable
from supernet.space import SearchSpace
from supernet.supernet import Supernet
from supernet.training.alpha import LOG_EVERY, AlphaSettings, train_alpha
from supernet.training.steps import Loss
from tests.labelled import Labelled

SETTINGS = AlphaSettings(
    alpha_steps=60,
    alpha_learning_rate=0.05,
    multiplier_rate=0.1,
    tau_start=2.0,
    tau_end=0.5,
    knots=3,
    precision="fp32",
    seed=0,
)


def batches(start: int) -> Iterator[Labelled]:
    for seed in itertools.count(start):
        generator = torch.Generator().manual_seed(seed)
        images = torch.rand(2, 3, 8, 8, generator=generator)
        yield Labelled(images, torch.randint(3, (2,), generator=generator))


def labels_loss(logits: Tensor, batch: Labelled) -> Tensor:
    return cross_entropy(logits, batch.labels)


def no_loss(logits: Tensor, _: Labelled) -> Tensor:
    """Any architecture is as good as any other."""
    return 0.0 * logits.sum()


def supernet_of(space: SearchSpace) -> Supernet:
    torch.manual_seed(0)
    return Supernet(space)


def trained(
    table: LatencyTable,
    loss: Loss = no_loss,
    settings: AlphaSettings = SETTINGS,
    supernet: Supernet | None = None,
) -> tuple[Alpha, list[tuple[str, int, Mapping[str, float]]]]:
    """Alpha, and what was logged."""
    lines = []

    def log(phase: str, step: int, **numbers: float) -> None:
        lines.append((phase, step, numbers))

    supernet = supernet or supernet_of(table.space)
    phase, log_choices = Phase("alpha", partial(log, "alpha")), partial(log, "choices")
    alpha = train_alpha(supernet, programme(table), batches, loss, settings, phase, log_choices)
    return alpha, lines


def with_kernel_5(table: LatencyTable, times: float) -> LatencyTable:
    """In stage 1 kernel 5 takes `times` as long as kernel 3."""
    first, rest = table.first[0].clone(), table.rest[0].clone()
    first[..., 1] = times * first[..., 0]
    rest[..., 1] = times * rest[..., 0]
    return replace(table, first=(first, table.first[1]), rest=(rest, table.rest[1]))


@pytest.mark.parametrize("layer", [1, 2])
def test_a_slower_choice_becomes_less_probable(table: LatencyTable, layer: int) -> None:
    """Only the table differs: kernel 5 takes a fifth of kernel 3, as long, or five times."""
    p = {}
    for times in (0.2, 1.0, 5.0):
        alpha, _ = trained(with_kernel_5(table, times))
        middle_ms = math.sqrt(math.prod(alpha.range_ms()))
        p[times] = probabilities(alpha(middle_ms))[f"stage1.layer{layer}.mbconv.kernel"][1].item()
    assert p[1.0] == pytest.approx(0.5, abs=1e-6)
    assert p[5.0] < 0.4 < 0.6 < p[0.2]


def test_alpha_comes_within_every_budget(table: LatencyTable) -> None:
    """From twice as slow, untrained: the multiplier rises until the mean latency is a budget's."""
    settings = replace(SETTINGS, alpha_steps=200, alpha_learning_rate=0.1, multiplier_rate=0.2)
    alpha, _ = trained(table, settings=settings)
    low_ms, high_ms = alpha.range_ms()
    untrained = Alpha(table.space, low_ms, high_ms, 2)
    with torch.no_grad():
        for target_ms in (1.2 * low_ms, 1.5 * low_ms, math.sqrt(low_ms * high_ms)):
            before, after = (
                float(table.expected_ms(probabilities(a(target_ms)))) for a in (untrained, alpha)
            )
            assert after <= target_ms < before


def test_the_seed_fixes_every_bit(table: LatencyTable) -> None:
    short = replace(SETTINGS, alpha_steps=5)
    one, two = (trained(table, labels_loss, short) for _ in range(2))
    other, _ = trained(table, labels_loss, replace(short, seed=1))
    assert torch.equal(one[0].logits, two[0].logits)
    assert one[1] == two[1]
    assert not torch.equal(one[0].logits, other.logits)


def test_shared_weights_and_statistics_stay(table: LatencyTable) -> None:
    supernet = supernet_of(table.space)
    before = {name: part.clone() for name, part in supernet.state_dict().items()}
    alpha, _ = trained(table, labels_loss, replace(SETTINGS, alpha_steps=5), supernet)
    assert all(torch.equal(part, before[name]) for name, part in supernet.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in supernet.parameters())
    assert alpha.logits.abs().max() > 0


def test_alpha_spans_the_tables_budgets(table: LatencyTable) -> None:
    alpha, _ = trained(table, settings=replace(SETTINGS, alpha_steps=1))
    assert alpha.range_ms() == pytest.approx(programme(table).range_ms())
    assert alpha.logits.shape[0] == SETTINGS.knots


def test_the_log_has_every_tenth_step_and_the_last(table: LatencyTable) -> None:
    _, lines = trained(table, settings=replace(SETTINGS, alpha_steps=2 * LOG_EVERY + 4))
    steps = {phase: [step for p, step, _ in lines if p == phase] for phase in ("alpha", "choices")}
    assert steps["alpha"] == steps["choices"] == [0, 10, 20, 23]
    for phase, step, numbers in lines:
        if phase == "choices":
            kernels = [numbers[f"stage1.mbconv.kernel={k}"] for k in (3, 5)]
            assert sum(kernels) == pytest.approx(1)
            continue
        ratio = numbers["expected_ms"] / numbers["target_ms"]
        assert numbers["expected_over_target"] == pytest.approx(ratio)
        assert numbers["tau"] == pytest.approx(2.0 * 0.25 ** (step / 24))


def test_settings_are_taken_out_of_a_runs() -> None:
    whole = {**vars(SETTINGS), "batch": 64, "preset": "digits"}
    assert AlphaSettings.of(whole) == SETTINGS
