"""The distillation loss against an explicit loop and its limits."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from kd.batches import Batch
from kd.distances import DISTANCES
from kd.loss import kd_loss, loss_of


def example(seed: int = 0) -> tuple[torch.Tensor, Batch]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    teacher = torch.randn(5, 4, generator=generator, dtype=torch.float64).softmax(dim=1)
    labels = torch.rand(5, 4, generator=generator, dtype=torch.float64)
    labels /= labels.sum(dim=1, keepdim=True)
    return logits, Batch(torch.empty(5, 0), labels, teacher)


def softmax(values: list[float]) -> list[float]:
    powers = [math.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize(("temperature", "weight"), [(1.0, 1.0), (4.0, 0.7), (0.5, 0.2)])
def test_kd_loss_equals_an_explicit_loop(temperature: float, weight: float) -> None:
    logits, batch = example()
    total = 0.0
    rows = zip(logits, batch.labels, batch.probabilities, strict=True)
    for row, shares, teacher in (map(torch.Tensor.tolist, tensors) for tensors in rows):
        p = softmax([math.log(q) / temperature for q in teacher])
        s = softmax([z / temperature for z in row])
        divergence = sum(pk * math.log(pk / sk) for pk, sk in zip(p, s, strict=True))
        total += weight * temperature**2 * divergence
        answer = softmax(row)
        total -= (1 - weight) * sum(y * math.log(a) for y, a in zip(shares, answer, strict=True))
    assert kd_loss(logits, batch, temperature, weight).item() == pytest.approx(total / 5, rel=1e-12)


def test_an_image_without_a_label_has_the_teachers_term_alone() -> None:
    logits, batch = example()
    some = batch._replace(labels=batch.labels * torch.tensor([1, 0, 1, 0, 0])[:, None])
    rows = [Batch(*(tensor[i : i + 1] for tensor in batch)) for i in range(5)]
    teacher = [kd_loss(logits[i : i + 1], rows[i], 4.0, 1.0) for i in range(5)]
    labels = [kd_loss(logits[i : i + 1], rows[i], 4.0, 0.0) for i in (0, 2)]
    expected = (0.7 * sum(teacher) + 0.3 * sum(labels)) / 5
    assert torch.allclose(kd_loss(logits, some, 4.0, 0.7), expected, rtol=1e-12)


def test_weight_zero_is_exactly_cross_entropy() -> None:
    logits, batch = example()
    assert torch.equal(kd_loss(logits, batch, 4.0, 0.0), cross_entropy(logits, batch.labels))
    certain = batch._replace(labels=one_hot(batch.labels.argmax(dim=1), 4).double())
    expected = cross_entropy(logits, batch.labels.argmax(dim=1))
    assert torch.allclose(kd_loss(logits, certain, 4.0, 0.0), expected, rtol=1e-12)


def test_a_student_equal_to_its_teacher_has_no_loss() -> None:
    logits, batch = example()
    same = batch._replace(probabilities=logits.softmax(dim=1))
    assert kd_loss(logits + 3.0, same, 4.0, 1.0).item() == pytest.approx(0, abs=1e-15)


def test_gradient_at_high_temperature_is_that_of_matching_logits() -> None:
    """Hinton et al. 2015, section 2.1: dC/dz -> (z - v) / K for centred logits, times 1 / B."""
    logits, batch = example()
    logits = (logits - logits.mean(dim=1, keepdim=True)).requires_grad_()
    log_teacher = batch.probabilities.log()
    centred = log_teacher - log_teacher.mean(dim=1, keepdim=True)
    kd_loss(logits, batch, 1e4, 1.0).backward()
    assert torch.allclose(logits.grad, (logits.detach() - centred) / (4 * 5), rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("name", sorted(DISTANCES))
def test_stored_zeros_stay_finite(name: str) -> None:
    logits, batch = example()
    batch = Batch(*(tensor.float() for tensor in batch))
    zeros = batch._replace(probabilities=torch.eye(4)[batch.labels.argmax(dim=1)])
    logits = (logits * 50).float().requires_grad_()
    loss = kd_loss(logits, zeros, 1.0, 1.0, DISTANCES[name])
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
    assert torch.tensor(2.0**-24).half() > 0  # the clamp itself can be stored,
    assert torch.tensor(2.0**-26).half() == 0  # and nothing much smaller


@pytest.mark.parametrize("name", sorted(DISTANCES))
def test_loss_of_the_settings_is_that_distance_at_that_temperature(name: str) -> None:
    logits, batch = example()
    student = (logits / 3).log_softmax(dim=1)
    teacher = (batch.probabilities.log() / 3).log_softmax(dim=1)
    apart = DISTANCES[name](student, teacher, batch.labels)
    expected = 0.8 * 9 * apart + 0.2 * cross_entropy(logits, batch.labels)
    found = loss_of("teacher", name, kd_temperature=3.0, kd_weight=0.8)(logits, batch)
    assert torch.allclose(found, expected, rtol=1e-9)


def test_a_control_never_sees_the_teacher() -> None:
    logits, batch = example()
    blind = batch._replace(probabilities=torch.full((5, 4), float("nan")))
    loss = loss_of("labels", "dkd", kd_temperature=4.0, kd_weight=0.9)
    assert torch.equal(loss(logits, blind), cross_entropy(logits, batch.labels))
