"""Verification, beside brute force."""

import numpy as np
import pytest
import torch
from torch import Tensor

from kd.images.identities import Pairs
from kd.student.verification import (
    FALSE_ACCEPTS,
    agreement,
    best_threshold,
    right_share,
    verify,
)


def of_cosines(cosines: np.ndarray) -> Tensor:
    """Vectors whose pairs (2 i, 2 i + 1) have these cosines."""
    pairs = [[[1.0, 0.0], [c, np.sqrt(1 - c * c)]] for c in cosines.tolist()]
    return torch.tensor(np.concatenate(pairs), dtype=torch.float32)


def pairs_of(same: np.ndarray, folds: np.ndarray) -> Pairs:
    first = 2 * np.arange(len(same))
    return Pairs(first, first + 1, same, folds)


@pytest.fixture
def drawn(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of pairs, those of one identity larger on average; some are equal."""
    same = random.random(300) < 0.5
    return np.round(np.clip(random.normal(0.3 * same, 0.3), -0.99, 0.99), 2), same


def test_the_best_threshold_is_none_worse(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    cosines, same = drawn
    tried = np.concatenate([[-2], np.unique(cosines) + 0.005, [2]])
    best = max(np.mean((cosines >= t) == same) for t in tried)
    found = best_threshold(cosines, same)
    assert right_share(cosines, same, found) == best
    assert found not in cosines


@pytest.mark.parametrize("kind", [True, False])
def test_pairs_of_one_kind_have_a_threshold_that_tells_all(kind: bool) -> None:
    cosines, same = np.array([0.1, 0.5, 0.3]), np.full(3, kind)
    assert right_share(cosines, same, best_threshold(cosines, same)) == 1


def test_every_fold_is_judged_by_the_threshold_of_the_others(
    drawn: tuple[np.ndarray, np.ndarray],
) -> None:
    cosines, same = drawn
    folds = np.arange(300) % 10
    found = verify(of_cosines(cosines), pairs_of(same, folds))
    shares = []
    for fold in range(10):
        inside = folds == fold
        threshold = best_threshold(cosines[~inside], same[~inside])
        right = [(cosines[i] >= threshold) == same[i] for i in np.flatnonzero(inside)]
        shares.append(sum(right) / len(right))
    assert found.accuracy == pytest.approx(np.mean(shares))
    assert found.accuracy_std == pytest.approx(np.std(shares))
    assert (found.pairs, found.folds) == (300, 10)


def test_area_and_accepted_share_are_those_of_counting(random: np.random.Generator) -> None:
    """More than a thousand pairs of two identities, so that one of them may be accepted."""
    same = np.arange(3000) % 2 == 0
    cosines = np.clip(random.normal(0.5 * same, 0.2), -0.99, 0.99)
    found = verify(of_cosines(cosines), pairs_of(same, np.arange(3000) % 10))
    own, others = cosines[same], cosines[~same]
    above = (own[:, None] > others[None]).mean()
    assert found.auc == pytest.approx(above, abs=1e-5)
    accepted = max(
        (own >= threshold).mean()
        for threshold in cosines
        if (others >= threshold).mean() <= FALSE_ACCEPTS
    )
    assert found.accepted == pytest.approx(accepted)
    assert 0 < accepted < 1


def test_a_perfect_embedding_is_right_on_all() -> None:
    same = np.arange(40) % 2 == 0
    found = verify(of_cosines(np.where(same, 0.9, 0.1)), pairs_of(same, np.arange(40) % 4))
    assert (found.accuracy, found.accuracy_std, found.accepted, found.auc) == (1, 0, 1, 1)


def test_vectors_that_are_not_finite_are_like_none() -> None:
    """Parity fails for them, and says so; their pairs are told as far as they can be."""
    same = np.arange(40) % 2 == 0
    vectors = of_cosines(np.where(same, 0.9, 0.1))
    vectors[0] = torch.nan
    found = verify(vectors, pairs_of(same, np.arange(40) % 4))
    assert found.accuracy == pytest.approx(39 / 40)


def test_agreement_is_the_mean_cosine() -> None:
    vectors = of_cosines(np.array([0.2, 0.6]))
    assert agreement(vectors[::2], vectors[1::2]) == pytest.approx(0.4)
