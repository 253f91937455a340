"""The two steps: what each moves, what each leaves, and that alpha heeds the table."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from base.errors import UserError
from supernet.alpha import Alpha, LatencyMultiplier, probabilities
from supernet.latency_table import LatencyTable
from supernet.space import SearchSpace
from supernet.supernet import Supernet
from supernet.training.steps import AlphaDraw, AlphaState, alpha_step, w_step
from tests.labelled import Labelled
from tests.traffic import Traffic


def loss(logits: Tensor, batch: Labelled) -> Tensor:
    return cross_entropy(logits, batch.labels)


def batch(seed: int) -> Labelled:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(6, 3, 8, 8, generator=generator)
    return Labelled(images, torch.randint(3, (6,), generator=generator))


def made(space: SearchSpace) -> tuple[Supernet, Alpha]:
    torch.manual_seed(0)
    return Supernet(space).train(), Alpha(space, 1.0, 8.0, 3)


def moved_by(alpha: Alpha, rate: float) -> AlphaState:
    optimizer = torch.optim.Adam(alpha.parameters(), rate)
    return AlphaState(alpha, LatencyMultiplier(alpha.log_knots, rate), optimizer)


def state(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: part.clone() for name, part in module.state_dict().items()}


def same(before: dict[str, Tensor], module: torch.nn.Module) -> bool:
    return all(torch.equal(part, before[name]) for name, part in module.state_dict().items())


def test_w_step_moves_w_and_leaves_alpha(space: SearchSpace) -> None:
    supernet, alpha = made(space)
    before_w, before_alpha = state(supernet), state(alpha)
    optimizer = torch.optim.SGD(supernet.parameters(), 0.1)
    w_step(supernet, [space.largest(), space.smallest()], [batch(0), batch(1)], loss, optimizer)
    assert not same(before_w, supernet)
    assert same(before_alpha, alpha)
    assert alpha.logits.grad is None


def test_w_step_is_the_mean_of_the_students_gradients(space: SearchSpace) -> None:
    supernet, _ = made(space)
    students, shares = [space.largest(), space.smallest()], [batch(0), batch(1)]
    before = supernet.shared.stem.conv[1].bias.detach().clone()
    expected = torch.zeros_like(before)
    for architecture, share in zip(students, shares, strict=True):
        supernet.zero_grad()
        loss(supernet.student_logits(share.images, architecture), share).backward()
        expected += supernet.shared.stem.conv[1].bias.grad / 2
    optimizer = torch.optim.SGD([supernet.shared.stem.conv[1].bias], 0.01)
    losses = w_step(supernet, students, shares, loss, optimizer)
    moved = supernet.shared.stem.conv[1].bias.detach() - before
    torch.testing.assert_close(moved, -0.01 * expected)
    assert len(losses) == 2


def test_alpha_step_moves_alpha_and_leaves_w_and_its_statistics(
    space: SearchSpace, table: LatencyTable
) -> None:
    supernet, alpha = made(space)
    supernet.requires_grad_(False)
    before_w, before_alpha = state(supernet), state(alpha)
    own = moved_by(alpha, 0.1)
    draw = AlphaDraw(1.0, 1.0, torch.Generator().manual_seed(0))
    _, expected_ms = alpha_step(supernet, own, table, draw, [batch(0)], loss)
    assert same(before_w, supernet)
    assert not same(before_alpha, alpha)
    assert expected_ms > 1.0
    assert own.multiplier.at(1.0) > 0


def test_a_loss_that_is_not_finite_moves_nothing(space: SearchSpace, table: LatencyTable) -> None:
    def broken(logits: Tensor, batch: Labelled) -> Tensor:
        return loss(logits, batch) * float("nan")

    supernet, alpha = made(space)
    parameters = {name: p.clone() for name, p in supernet.named_parameters()}
    w = torch.optim.SGD(supernet.parameters(), 0.1)
    with pytest.raises(UserError, match=r"loss .*nan.* lower --w-learning-rate"):
        w_step(supernet, [space.largest()], [batch(0)], broken, w)
    assert all(torch.equal(p, parameters[name]) for name, p in supernet.named_parameters())

    before, own = state(alpha), moved_by(alpha, 0.1)
    draw = AlphaDraw(2.0, 1.0, torch.Generator())
    with pytest.raises(UserError, match="alpha: loss"):
        alpha_step(supernet, own, table, draw, [batch(0)], broken)
    assert same(before, alpha)
    assert own.multiplier.at(2.0) == 0


def test_a_step_reads_its_losses_once(space: SearchSpace, table: LatencyTable) -> None:
    """They alone are on the device of the images; alpha and the table are not."""

    def reads(traffic: Traffic, losses: list[float]) -> int:
        return sum(tensor.flatten().tolist() == losses for tensor in traffic.read)

    supernet, alpha = made(space)
    students, parts = [space.largest(), space.smallest()], [batch(0), batch(1)]
    w = torch.optim.SGD(supernet.parameters(), 0.1)
    with Traffic() as traffic:
        losses = w_step(supernet, students, parts, loss, w)
    assert reads(traffic, losses) == 1
    supernet.requires_grad_(False)
    draw = AlphaDraw(2.0, 1.0, torch.Generator())
    with Traffic() as traffic:
        search_loss, _ = alpha_step(supernet, moved_by(alpha, 0.1), table, draw, parts, loss)
    assert reads(traffic, [search_loss]) == 1


def test_two_seeded_steps_are_bitwise_equal(space: SearchSpace, table: LatencyTable) -> None:
    def run() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        supernet, alpha = made(space)
        draws = np.random.default_rng(0)
        w = torch.optim.SGD(supernet.parameters(), 0.1, momentum=0.9)
        for step in range(3):
            w_step(supernet, [space.random(draws)], [batch(step)], loss, w)
        supernet.requires_grad_(False)
        own = moved_by(alpha, 0.1)
        draw = AlphaDraw(2.0, 1.0, torch.Generator().manual_seed(1))
        for step in range(3):
            alpha_step(supernet, own, table, draw, [batch(step)], loss)
        return state(supernet), state(alpha)

    one, two = run(), run()
    for first, second in zip(one, two, strict=True):
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_slower_entry_lowers_that_choice(space: SearchSpace, table: LatencyTable) -> None:
    """Only the table differs between the two runs."""

    def kernel_5(slower_ms: float) -> float:
        first = table.first[0].clone()
        first[..., 1] += slower_ms
        slowed = replace(table, first=(first, *table.first[1:]))
        supernet, alpha = made(space)
        supernet.requires_grad_(False)
        own = moved_by(alpha, 0.05)
        draw = AlphaDraw(2.0, 1.0, torch.Generator().manual_seed(2))
        for step in range(60):
            alpha_step(supernet, own, slowed, draw, [batch(step)], loss)
        return probabilities(alpha(2.0))["stage1.layer1.mbconv.kernel"][1].item()

    assert kernel_5(slower_ms=2.0) < kernel_5(slower_ms=0.0) - 0.1
