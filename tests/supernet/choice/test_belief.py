"""What is believed of choices, against Bayes' rule in another form, and against a known truth."""

from dataclasses import replace

import numpy as np
import pytest

from supernet.choice.belief import (
    BY_KIND,
    BY_PLACE,
    FEWEST,
    NOISE,
    TOLD,
    TOLD_SPREAD,
    Belief,
    believed_at_first,
    kinds_of_choices,
    without_outliers,
)
from supernet.choice.surrogate import Surrogate, encode_architecture, fit_surrogate
from supernet.space import Architecture, SearchSpace


@pytest.fixture(scope="module")
def surrogate(space: SearchSpace, every_architecture: list[Architecture]) -> Surrogate:
    """Fitted to losses that are drawn at random."""
    draws = np.random.default_rng(0)
    return fit_surrogate(space, {a: float(draws.normal()) for a in every_architecture})


@pytest.fixture(scope="module")
def at_first(surrogate: Surrogate, every_architecture: list[Architecture]) -> Belief:
    return believed_at_first(surrogate, every_architecture[::7])


def some(every: list[Architecture], count: int, seed: int = 1) -> list[Architecture]:
    picked = np.random.default_rng(seed).choice(len(every), count, replace=False)
    return [every[i] for i in picked]


def test_choices_are_of_one_kind_in_all_layers(space: SearchSpace) -> None:
    """By loops over pairs of choices; widths and depths are of a kind of their own."""
    names = [(d.name, choice) for d in space.decisions() for choice in d.choices]
    kinds = kinds_of_choices(space)
    assert (kinds.sum(axis=1) == 1).all()
    for i, (name, choice) in enumerate(names):
        for j, (other, same) in enumerate(names):
            both_layers = "layer" in name and "layer" in other
            one = name.split(".")[2:] == other.split(".")[2:] if both_layers else name == other
            assert (kinds[i] @ kinds[j] == 1) == (one and choice == same), (name, other)
    assert any(len({names[i][0] for i in np.flatnonzero(column)}) > 2 for column in kinds.T)


def test_at_first_it_is_what_the_surrogate_says(
    surrogate: Surrogate, at_first: Belief, every_architecture: list[Architecture]
) -> None:
    """The groups of features make losses differ as much as they are said to, all together."""
    told = np.array([surrogate.loss(a) for a in every_architecture])
    expected, deviations = np.transpose([at_first.loss(a) for a in every_architecture])
    assert np.corrcoef(told, expected)[0, 1] == pytest.approx(1)
    draws = np.random.default_rng(0)
    designs = np.stack(
        [encode_architecture(surrogate.space, a).numpy() for a in every_architecture]
    )
    spread = [(designs @ at_first.drawn(1.0, draws)).std() for _ in range(200)]
    together = np.sqrt(BY_PLACE**2 + BY_KIND**2 + TOLD**2 + TOLD_SPREAD**2)
    assert np.sqrt(np.mean(np.square(spread))) == pytest.approx(together, rel=0.1)
    assert (deviations > NOISE).all()


@pytest.mark.parametrize("count", [FEWEST, 9, 40])
def test_what_is_learned_is_bayes_rule(
    at_first: Belief, every_architecture: list[Architecture], count: int
) -> None:
    """As a Gaussian process: by the covariances of students' losses, not by those of weights."""
    draws = np.random.default_rng(count)
    losses = {a: float(draws.normal(2, 0.3)) for a in some(every_architecture, count)}
    found = at_first.after(losses)
    asked = some(every_architecture, 20, seed=2)

    def covariance(one: list[Architecture], other: list[Architecture]) -> np.ndarray:
        return at_first.features(one) @ at_first.covariance @ at_first.features(other).T

    def prior(students: list[Architecture]) -> np.ndarray:
        return at_first.features(students) @ at_first.mean

    known, values = list(losses), without_outliers(np.array(list(losses.values())))
    scale = values.std()
    gain = covariance(asked, known) @ np.linalg.inv(
        covariance(known, known) + NOISE**2 * np.eye(count)
    )
    expected = prior(asked) + gain @ ((values - values.mean()) / scale - prior(known))
    left = covariance(asked, asked) - gain @ covariance(known, asked)
    means, deviations = np.transpose([found.loss(a) for a in asked])
    assert means == pytest.approx(values.mean() + scale * expected, abs=1e-6)
    assert deviations == pytest.approx(scale * np.sqrt(np.diag(left) + NOISE**2), rel=1e-6)


def test_from_fewer_nothing_is_learned(
    at_first: Belief, every_architecture: list[Architecture]
) -> None:
    assert at_first.after(dict.fromkeys(every_architecture[: FEWEST - 1], 1.0)) is at_first


def test_equal_losses_are_no_error(
    at_first: Belief, every_architecture: list[Architecture]
) -> None:
    found = at_first.after(dict.fromkeys(some(every_architecture, 6), 2.0))
    assert np.isfinite(found.loss(every_architecture[0])).all()


@pytest.mark.parametrize("worst", [1e9, np.inf])
def test_a_training_that_diverged_hides_nothing(
    at_first: Belief, every_architecture: list[Architecture], worst: float
) -> None:
    """The others tell as much as if it had been bad, and no more."""
    losses = {a: 2 + 0.1 * i for i, a in enumerate(some(every_architecture, 9))}
    first, *_ = losses
    found, bad = (at_first.after({**losses, first: own}) for own in (worst, 4.0))
    for a in every_architecture[::50]:
        assert found.loss(a) == pytest.approx(bad.loss(a))


def test_where_most_diverge_nothing_is_learned(
    at_first: Belief, every_architecture: list[Architecture]
) -> None:
    assert at_first.after(dict.fromkeys(some(every_architecture, 6), np.inf)) is at_first


def test_outliers_are_cut_by_hand() -> None:
    """The median is 3, the median distance from it 1: nothing is above 3 + 4."""
    found = without_outliers(np.array([2.0, 3.0, 4.0, 1.0, 50.0]))
    assert found.tolist() == [2.0, 3.0, 4.0, 1.0, 7.0]


def test_draws_hang_on_no_last_bit(
    at_first: Belief, every_architecture: list[Architecture]
) -> None:
    """Other processors round otherwise, and are to draw the same students."""
    belief = at_first.after({a: float(i) for i, a in enumerate(some(every_architecture, 6))})
    moved = replace(belief, covariance=belief.covariance * (1 + 1e-15))
    one, other = (own.drawn(1.0, np.random.default_rng(5)) for own in (belief, moved))
    assert one == pytest.approx(other, abs=1e-9)


def test_draws_are_as_likely_as_believed(
    at_first: Belief, every_architecture: list[Architecture]
) -> None:
    """Mean and covariance of the drawn losses of choices; without a spread it is the mean."""
    losses = {a: float(i) for i, a in enumerate(some(every_architecture, 12))}
    belief, draws = at_first.after(losses), np.random.default_rng(0)
    drawn = np.stack([belief.drawn(1.0, draws) for _ in range(20_000)])
    mean = belief.choices @ belief.mean[:-1]
    covariance = belief.choices @ belief.covariance[:-1, :-1] @ belief.choices.T
    deviation = np.sqrt(np.diag(covariance))
    assert np.abs(drawn.mean(axis=0) - mean).max() < 0.05 * deviation.max()
    assert np.abs(np.cov(drawn.T) - covariance).max() < 0.05 * deviation.max() ** 2
    assert belief.drawn(0.0, draws) == pytest.approx(mean)


def test_a_few_trainings_mend_a_surrogate_that_is_wrong_of_an_operation(
    space: SearchSpace, every_architecture: list[Architecture]
) -> None:
    """What it says of all operations has the wrong sign; they are right in other layers too."""
    draws, names = np.random.default_rng(3), [d.name for d in space.decisions()]
    truth = np.concatenate([draws.normal(size=len(d.choices)) for d in space.decisions()])
    of_operations = np.repeat(
        [name.endswith("operation") for name in names], [len(d.choices) for d in space.decisions()]
    )
    better = np.array([c == "fused" for d in space.decisions() for c in d.choices])
    truth[of_operations] = np.where(better[of_operations], -3.0, 3.0)
    designs = np.stack([encode_architecture(space, a).numpy() for a in every_architecture])
    losses = designs @ truth
    wrong = fit_surrogate(
        space,
        dict(
            zip(every_architecture, designs @ np.where(of_operations, -truth, truth), strict=True)
        ),
    )
    known = some(every_architecture, 12)
    noisy = {a: losses[every_architecture.index(a)] + draws.normal(0, 1) for a in known}
    belief = believed_at_first(wrong, every_architecture[::7]).after(noisy)
    told = np.array([wrong.loss(a) for a in every_architecture])
    found = np.array([belief.loss(a)[0] for a in every_architecture])
    assert np.corrcoef(told, losses)[0, 1] < 0
    assert np.corrcoef(found, losses)[0, 1] > 0.6
