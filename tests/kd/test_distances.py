"""Every distance against an explicit loop over images and classes, and against its limits."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

import kd.distances
from kd.distances import DISTANCES, LARGEST_RATIO, alpha_divergence, dist, dkd, kl

Rows = Sequence[Sequence[float]]
NAMES = sorted(DISTANCES)


def example(seed: int = 0, spread: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of student and teacher [6, 5], and mixed labels."""
    draws = torch.Generator().manual_seed(seed)
    student, teacher = (
        (spread * torch.randn(6, 5, generator=draws, dtype=torch.float64)).log_softmax(dim=1)
        for _ in range(2)
    )
    labels = torch.rand(6, 5, generator=draws, dtype=torch.float64)
    return student, teacher, labels / labels.sum(dim=1, keepdim=True)


def divergence(p: Sequence[float], q: Sequence[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def kl_by_loop(students: Rows, teachers: Rows, labels: Rows) -> float:
    return sum(divergence(p, q) for p, q in zip(teachers, students, strict=True)) / len(labels)


def parts_by_loop(q: Sequence[float], p: Sequence[float], target: int) -> tuple[float, float]:
    """The target against the rest, and the others among themselves."""
    binary = divergence([p[target], 1 - p[target]], [q[target], 1 - q[target]])
    p_others = [v / (1 - p[target]) for k, v in enumerate(p) if k != target]
    q_others = [v / (1 - q[target]) for k, v in enumerate(q) if k != target]
    return binary, divergence(p_others, q_others)


def dkd_by_loop(students: Rows, teachers: Rows, labels: Rows) -> float:
    total = 0.0
    for q, p, shares in zip(students, teachers, labels, strict=True):
        binary, others = parts_by_loop(q, p, max(range(len(shares)), key=lambda k: shares[k]))
        total += binary + 8 * others
    return total / len(labels)


def pearson(a: Sequence[float], b: Sequence[float]) -> float:
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    covariance = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    deviations = [sum((v - m) ** 2 for v in c) for c, m in ((a, mean_a), (b, mean_b))]
    return covariance / math.sqrt(math.prod(deviations))


def dist_by_loop(students: Rows, teachers: Rows, labels: Rows) -> float:
    rows = [1 - pearson(q, p) for q, p in zip(students, teachers, strict=True)]
    columns = zip(zip(*students, strict=True), zip(*teachers, strict=True), strict=True)
    columns = [1 - pearson(q, p) for q, p in columns]
    return sum(rows) / len(rows) + sum(columns) / len(columns)


def alpha_by_loop(students: Rows, teachers: Rows, labels: Rows) -> float:
    total = 0.0
    for q, p in zip(students, teachers, strict=True):
        made_up = sum(b * (min(b / a, 5.0) - 1) / 2 for a, b in zip(p, q, strict=True))
        total += max(divergence(p, q), made_up)
    return total / len(labels)


BY_LOOP: dict[str, Callable[[Rows, Rows, Rows], float]] = {
    "kl": kl_by_loop,
    "dkd": dkd_by_loop,
    "dist": dist_by_loop,
    "alpha_divergence": alpha_by_loop,
}


@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("name", NAMES)
def test_distance_equals_its_loop(name: str, spread: float) -> None:
    for seed in range(5):
        student, teacher, labels = example(seed, spread)
        rows = (student.exp().tolist(), teacher.exp().tolist(), labels.tolist())
        found = DISTANCES[name](student, teacher, labels).item()
        assert found == pytest.approx(BY_LOOP[name](*rows), rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_a_student_equal_to_its_teacher_is_at_no_distance(name: str) -> None:
    student, teacher, labels = example()
    same = teacher.clone().requires_grad_()
    distance = DISTANCES[name](same, teacher, labels)
    assert distance.item() == pytest.approx(0, abs=1e-12)
    assert DISTANCES[name](student, teacher, labels) > 0.01


@pytest.mark.parametrize("name", NAMES)
def test_following_the_gradient_comes_closer(name: str) -> None:
    student, teacher, labels = example()
    logits = student.clone().requires_grad_()
    before = DISTANCES[name](logits.log_softmax(dim=1), teacher, labels)
    before.backward()
    assert torch.allclose(logits.grad.sum(dim=1), torch.zeros(6, dtype=torch.float64), atol=1e-12)
    nearer = (logits - 1e-3 * logits.grad).detach().log_softmax(dim=1)
    assert DISTANCES[name](nearer, teacher, labels) < before


def test_dkd_is_kl_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zhao et al. 2022, eq. 6: KL is the target's part plus 1 - p_target times the others'."""
    student, teacher, labels = example()
    for i in range(len(labels)):
        one = (student[i : i + 1], teacher[i : i + 1], labels[i : i + 1])
        others = 1 - teacher[i, labels[i].argmax()].exp().item()
        monkeypatch.setattr(kd.distances, "OTHERS_WEIGHT", others)
        assert dkd(*one).item() == pytest.approx(kl(*one).item(), rel=1e-9)


def test_dkd_looks_at_no_label_but_the_largest() -> None:
    student, teacher, labels = example()
    one_hot = torch.eye(5, dtype=torch.float64)[labels.argmax(dim=1)]
    assert torch.equal(dkd(student, teacher, labels), dkd(student, teacher, one_hot))
    other = dkd(student, teacher, one_hot.roll(1, dims=1))
    assert not torch.isclose(dkd(student, teacher, labels), other)


def test_dkd_of_an_image_without_a_label_takes_the_teachers_likeliest_class() -> None:
    student, teacher, labels = example()
    guessed = torch.eye(5, dtype=torch.float64)[teacher.argmax(dim=1)]
    known = torch.arange(len(labels))[:, None] % 2 == 0
    assert torch.equal(
        dkd(student, teacher, labels * known),
        dkd(student, teacher, torch.where(known, labels, guessed)),
    )


def test_dist_asks_for_relations_only() -> None:
    """Probabilities that are drawn to the uniform ones, the same for all, keep their relations."""
    _, teacher, labels = example()
    for share in (0.9, 0.4, 0.01):
        related = (share * teacher.exp() + (1 - share) / 5).log()
        assert dist(related, teacher, labels).item() == pytest.approx(0, abs=1e-12)
        assert kl(related, teacher, labels) > 1e-4


def unclipped(log_student: Tensor, log_teacher: Tensor) -> Tensor:
    """max(D_1, D_-1) as it is written down, for autograd to follow."""
    q, p = log_student.exp(), log_teacher.exp()
    missed = (p * (log_teacher - log_student)).sum(dim=1)
    made_up = (q * (q / p - 1)).sum(dim=1) / 2
    return torch.maximum(missed, made_up).mean()


def test_alpha_divergence_has_the_gradient_of_the_formula() -> None:
    sides = set()
    for seed in range(20):
        student, teacher, labels = example(seed, spread=0.5)
        q, p = student.exp(), teacher.exp()
        if (q / p).max() >= LARGEST_RATIO:
            continue
        sides |= set(((q * (q / p - 1)).sum(1) / 2 > (p * (p / q).log()).sum(1)).tolist())
        gradients = []
        for distance in (
            lambda log_q, log_p=teacher, y=labels: alpha_divergence(log_q, log_p, y),
            lambda log_q, log_p=teacher: unclipped(log_q, log_p),
        ):
            logits = student.clone().requires_grad_()
            value = distance(logits.log_softmax(dim=1))
            value.backward()
            gradients.append((value.detach(), logits.grad))
        (value, gradient), (expected, by_autograd) = gradients
        assert torch.allclose(value, expected, rtol=1e-12)
        assert torch.allclose(gradient, by_autograd, rtol=1e-9, atol=1e-14)
    assert sides == {True, False}


def test_alpha_divergence_bounds_what_a_made_up_class_weighs() -> None:
    """The student is sure of what the teacher excludes: without a bound the gradient is 1e9."""
    teacher = torch.tensor([[1 - 1e-9, 1e-9]], dtype=torch.float64).log()
    logits = torch.zeros(1, 2, dtype=torch.float64).requires_grad_()
    alpha_divergence(logits.log_softmax(dim=1), teacher, torch.eye(2)[:1]).backward()
    assert logits.grad.abs().max() <= LARGEST_RATIO


@pytest.mark.parametrize("name", NAMES)
def test_certain_answers_stay_finite(name: str) -> None:
    """Single precision; student and teacher sure of different classes, or of the same."""
    certain = 60 * torch.eye(4)
    for turned in (certain, certain.roll(1, dims=0), torch.zeros(4, 4)):
        for teacher in (certain, torch.zeros(4, 4)):
            logits = turned.clone().requires_grad_()
            log_p = teacher.log_softmax(dim=1)
            value = DISTANCES[name](logits.log_softmax(dim=1), log_p, torch.eye(4))
            value.backward()
            assert value.isfinite()
            assert logits.grad.isfinite().all()
