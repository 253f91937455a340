"""Architecture logits, samples and the multiplier."""

import math

import pytest
import torch

from supernet.alpha import (
    Alpha,
    LatencyMultiplier,
    entropy,
    gumbel_sample,
    knot_weights,
    named_probabilities,
    probabilities,
    stage_shares,
)
from supernet.space import SearchSpace


@pytest.fixture
def alpha(space: SearchSpace) -> Alpha:
    alpha = Alpha(space, 2.0, 32.0, 5)
    torch.nn.init.normal_(alpha.logits, generator=torch.Generator().manual_seed(0))
    return alpha


def test_knot_weights_interpolate_in_log_t() -> None:
    knots = torch.linspace(math.log(2), math.log(32), 5, dtype=torch.float64)  # 2 4 8 16 32
    for t, expected in [(4, [0, 1, 0, 0, 0]), (4 * 2**0.25, [0, 0.75, 0.25, 0, 0])]:
        torch.testing.assert_close(knot_weights(t, knots), torch.tensor(expected).double())
    for t, end in [(0.1, 0), (1000, 4)]:
        assert knot_weights(t, knots)[end] == 1
    assert all(abs(float(knot_weights(t, knots).sum()) - 1) < 1e-12 for t in (2, 3, 11, 31.9))


def test_alpha_at_a_knot_is_that_knot(alpha: Alpha) -> None:
    first = alpha(8.0)[alpha.decisions[0].name]
    torch.testing.assert_close(first, alpha.logits[2, : len(first)].log_softmax(0))


def test_samples_are_one_hot_and_follow_the_probabilities(alpha: Alpha) -> None:
    generator = torch.Generator().manual_seed(0)
    log_p = {n: lp.detach() for n, lp in alpha(5.0).items()}
    draws = [gumbel_sample(log_p, 1.0, generator) for _ in range(4000)]
    for name, p in probabilities(log_p).items():
        stacked = torch.stack([draw[name] for draw in draws])
        torch.testing.assert_close(stacked.sum(1), torch.ones(len(draws)))
        assert ((stacked - stacked.round()).abs() < 1e-6).all()
        # Four standard errors of a share of 4000 draws.
        assert ((stacked.mean(0) - p).abs() < 4 * (p * (1 - p) / 4000).sqrt() + 1e-6).all()


def test_gradient_is_that_of_the_relaxed_sample(alpha: Alpha) -> None:
    """Straight-through: backward as if the softmax had been the output."""
    name, tau = "stage1.layer1.kernel", 0.7
    log_p = {name: torch.tensor([-0.3, -1.4]).requires_grad_()}
    drawn = gumbel_sample(log_p, tau, torch.Generator().manual_seed(4))[name]
    (drawn * torch.tensor([1.0, 3.0])).sum().backward()

    uniform = torch.rand(2, generator=torch.Generator().manual_seed(4))
    relaxed_of = log_p[name].detach().requires_grad_()
    soft = ((relaxed_of - torch.log(-torch.log(uniform))) / tau).softmax(0)
    (soft * torch.tensor([1.0, 3.0])).sum().backward()
    torch.testing.assert_close(log_p[name].grad, relaxed_of.grad)


def test_same_generator_same_draw(alpha: Alpha) -> None:
    one, two = (gumbel_sample(alpha(5.0), 1.0, torch.Generator().manual_seed(9)) for _ in "ab")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_entropy_is_one_when_undecided_and_zero_when_decided(space: SearchSpace) -> None:
    alpha = Alpha(space, 2.0, 32.0, 3)
    assert entropy(alpha(4.0)) == pytest.approx(1.0)
    with torch.no_grad():
        alpha.logits[:, 0] = 0
        offset = 0
        for decision in alpha.decisions:
            alpha.logits[:, offset] = 50.0
            offset += len(decision.choices)
    assert entropy(alpha(4.0)) == pytest.approx(0.0, abs=1e-6)


def test_named_probabilities_and_stage_shares(alpha: Alpha) -> None:
    named = named_probabilities(alpha, 5.0)
    assert set(named["stage2.layer1.mbconv.squeeze_excite"]) == {"no", "yes"}
    assert set(named["stage1.layer1.operation"]) == {"mbconv", "fused"}
    assert "stage1.layer1.mbconv.expansion" not in named  # one choice only
    shares = stage_shares(alpha, 5.0)
    kernels = [named[f"stage1.layer{i}.mbconv.kernel"]["5"] for i in (1, 2)]
    assert shares["stage1.mbconv.kernel=5"] == pytest.approx(sum(kernels) / 2)
    assert shares["head.width=8"] == pytest.approx(named["head.width"]["8"])


def test_multiplier_rises_over_budget_falls_under_it_and_stays_positive(alpha: Alpha) -> None:
    multiplier = LatencyMultiplier(alpha.log_knots, rate=0.1)
    multiplier.ascend(8.0, excess=0.5)
    assert multiplier.at(8.0) == pytest.approx(0.05)
    assert multiplier.at(2.0) == 0  # far away in T
    multiplier.ascend(8.0, excess=-2.0)
    assert multiplier.at(8.0) == 0
