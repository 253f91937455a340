"""The surrogate against sums made by hand, and least squares written out."""

import dataclasses

import numpy as np
import pytest
import torch

from supernet.choice.surrogate import encode_architecture, fit_surrogate
from supernet.space import Architecture, SearchSpace


@pytest.fixture(scope="module")
def losses(space: SearchSpace, every_architecture: list[Architecture]) -> dict:
    """A loss that is a sum over existing layers' choices, by an explicit loop."""
    draws = np.random.default_rng(0)
    parts = {
        d.name: dict(zip(d.choices, draws.normal(size=len(d.choices)), strict=True))
        for d in space.decisions()
    }

    def loss(architecture: Architecture) -> float:
        total = 2.0 + parts["stem.width"][architecture.stem_width]
        total += parts["head.width"][architecture.head_width]
        for s, stage in enumerate(architecture.stages, start=1):
            total += parts[f"stage{s}.width"][stage.width]
            total += parts[f"stage{s}.depth"][len(stage.layers)]
            for i, layer in enumerate(stage.layers, start=1):
                form = dataclasses.asdict(layer)
                operation = form.pop("operation")
                total += parts[f"stage{s}.layer{i}.operation"][operation]
                for name, value in form.items():
                    total += parts[f"stage{s}.layer{i}.{operation}.{name}"][value]
        return total

    return {a: loss(a) for a in every_architecture}


def test_sums_are_found_from_a_few_students(space: SearchSpace, losses: dict) -> None:
    draws = np.random.default_rng(1)
    some = draws.choice(len(losses), 60, replace=False)
    known = {a: loss for i, (a, loss) in enumerate(losses.items()) if i in some}
    surrogate = fit_surrogate(space, known)
    assert surrogate.explained > 0.999
    for architecture, loss in losses.items():
        assert surrogate.loss(architecture) == pytest.approx(loss, abs=0.01)


def test_what_choices_do_together_is_left_out(space: SearchSpace, losses: dict) -> None:
    """The fit to noisy losses is that of least squares, but for the small ridge."""
    draws = np.random.default_rng(2)
    noisy = {a: loss + draws.normal() for a, loss in losses.items()}
    surrogate = fit_surrogate(space, noisy)
    designs = torch.stack([encode_architecture(space, a) for a in noisy]).numpy()
    designs = np.column_stack([designs, np.ones(len(designs))])
    targets = np.array(list(noisy.values()))
    by_hand = designs @ np.linalg.lstsq(designs, targets, rcond=None)[0]
    found = np.array([surrogate.loss(a) for a in noisy])
    assert np.corrcoef(found, by_hand)[0, 1] > 0.99
    assert 0 < surrogate.explained < np.var(by_hand) / np.var(targets)


def test_noise_explains_nothing(space: SearchSpace, every_architecture: list[Architecture]) -> None:
    draws = np.random.default_rng(3)
    noise = {a: draws.normal() for a in every_architecture}
    assert abs(fit_surrogate(space, noise).explained) < 0.1


def test_absent_layers_and_other_operations_have_no_choices(
    space: SearchSpace, every_architecture: list[Architecture]
) -> None:
    for architecture in every_architecture:
        layers = sum(len(stage.layers) for stage in architecture.stages)
        assert (
            encode_architecture(space, architecture).sum()
            == 2 + 2 * len(architecture.stages) + 4 * layers
        )


def test_equal_losses_are_explained_by_the_base(
    space: SearchSpace, every_architecture: list[Architecture]
) -> None:
    surrogate = fit_surrogate(space, dict.fromkeys(every_architecture[:9], 1.5))
    assert surrogate.loss(every_architecture[-1]) == pytest.approx(1.5)
