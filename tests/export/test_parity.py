"""Parity passes for the same answers, and for nothing else."""

import math

import pytest
import torch

from export.parity import MAX_ERROR, Rounding, parity, rounding

LOGITS = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0], [0.0, 1.0, 2.0], [5.0, 0.0, 1.0]])


def test_equal_logits_pass() -> None:
    result = parity(LOGITS, LOGITS.clone())
    assert (result.max_abs_error, result.top1_agreement, result.images) == (0.0, 1.0, 4)
    assert result.passed


@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize(("factor", "passed"), [(0.5, True), (2.0, False)])
def test_one_perturbed_logit_is_judged_beside_the_largest(
    scale: float, factor: float, passed: bool
) -> None:
    """The largest is 5: rounding errors grow with the logits, so the bound does."""
    reference = scale * LOGITS.double()
    exported = reference.clone()
    exported[2, 0] -= factor * 5 * scale * MAX_ERROR
    result = parity(reference, exported)
    assert result.max_abs_error == pytest.approx(factor * 5 * scale * MAX_ERROR)
    assert result.bound == pytest.approx(5 * scale * MAX_ERROR)
    assert result.top1_agreement == 1.0
    assert result.passed is passed


def test_small_logits_have_the_bound_of_one() -> None:
    assert parity(LOGITS / 100, LOGITS / 100).bound == MAX_ERROR


@pytest.mark.parametrize(("margin", "passed"), [(1.9, True), (2.1, False)])
def test_another_answer_passes_between_near_ties_alone(margin: float, passed: bool) -> None:
    """Two logits that are apart by less than two errors may change places."""
    reference = LOGITS.double()
    reference[1] = torch.tensor([0.0, 1.0, 1.0 - margin * 5 * MAX_ERROR])
    exported = reference.clone()
    exported[1, 1] -= margin * 5 * MAX_ERROR / 2 + 1e-9
    exported[1, 2] += margin * 5 * MAX_ERROR / 2 + 1e-9
    result = parity(reference, exported)
    assert result.top1_agreement == 0.75
    assert result.passed is passed


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("both", [False, True])
def test_a_value_that_is_not_finite_fails(value: float, both: bool) -> None:
    exported = LOGITS.clone()
    exported[0, 0] = value
    assert not parity(exported if both else LOGITS, exported).passed


def test_different_shapes_and_no_images_are_no_parity() -> None:
    with pytest.raises(ValueError, match="same"):
        parity(LOGITS, LOGITS[:, :1])
    with pytest.raises(ValueError, match="at least 1"):
        parity(LOGITS[:0], LOGITS[:0])


def answering(*classes: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(classes), 3).float()


def test_rounding_by_hand() -> None:
    """Of ten images 8 were right; now two of them are not, one other is, and one stays wrong."""
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])
    exact = answering(0, 1, 2, 0, 1, 2, 0, 1, 0, 1)
    rounded = answering(1, 2, 2, 0, 1, 2, 0, 1, 2, 2)
    found = rounding(exact, rounded, labels)
    assert (found.fp32_accuracy, found.accuracy) == pytest.approx((0.8, 0.7))
    assert found.lost == pytest.approx(0.1)
    assert found.agreement == pytest.approx(0.6)
    # Differences 1, 1, -1 and seven 0: their mean is 0.1, their mean square 0.3.
    assert found.error == pytest.approx(math.sqrt((0.3 - 0.1**2) / 10))
    assert found.within(0)  # of ten images that may be chance


@pytest.mark.parametrize(
    ("lost", "error", "bound", "kept"),
    [
        (0.0049, 0.0, 0.005, True),
        (0.0051, 0.0, 0.005, False),
        (0.0199, 0.01, 0.005, True),  # as much as chance may do
        (0.0201, 0.01, 0.005, False),
        (-0.1, 0.0, 0.0, True),
        (0.0, 0.0, 0.0, True),
        (0.001, 0.0, 0.0, False),
    ],
)
def test_a_loss_is_within_its_bound_or_within_chance(
    lost: float, error: float, bound: float, kept: bool
) -> None:
    assert Rounding(0.9, 0.9 - lost, 0.9, error).within(bound) is kept


def test_the_same_answers_lose_nothing() -> None:
    found = rounding(LOGITS, LOGITS, torch.tensor([0, 1, 0, 0]))
    assert found == Rounding(0.75, 0.75, 1.0, 0.0)
    assert found.within(0)
