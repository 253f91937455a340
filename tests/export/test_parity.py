"""Parity passes for the same answers, and for nothing else."""

import pytest
import torch

from export.parity import MAX_ABS_ERROR, parity

LOGITS = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0], [0.0, 1.0, 2.0], [5.0, 0.0, 1.0]])


def test_equal_logits_pass() -> None:
    result = parity(LOGITS, LOGITS.clone())
    assert (result.max_abs_error, result.top1_agreement, result.images) == (0.0, 1.0, 4)
    assert result.passed


@pytest.mark.parametrize(("factor", "passed"), [(0.5, True), (2.0, False)])
def test_one_perturbed_logit_is_judged_by_the_bound(factor: float, passed: bool) -> None:
    exported = LOGITS.clone()
    exported[2, 0] -= factor * MAX_ABS_ERROR
    result = parity(LOGITS, exported)
    assert result.max_abs_error == pytest.approx(factor * MAX_ABS_ERROR)
    assert result.top1_agreement == 1.0
    assert result.passed is passed


def test_a_flipped_class_fails_even_within_the_error_bound() -> None:
    reference = LOGITS.clone()
    reference[1] = torch.tensor([0.0, 1.0, 1.0 - 1e-5])
    exported = reference.clone()
    exported[1] = torch.tensor([0.0, 1.0 - 1e-5, 1.0])
    result = parity(reference, exported)
    assert result.max_abs_error < MAX_ABS_ERROR
    assert result.top1_agreement == 0.75
    assert not result.passed


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
