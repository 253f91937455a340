"""How far a student's distribution is from its teacher's: one function a distance.

Each takes log-probabilities [B, K] of student and teacher, both at the same temperature, and the
labels [B, K] as shares of the classes. It returns a scalar, the mean over the batch.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, kl_div

Distance = Callable[[Tensor, Tensor, Tensor], Tensor]

# Weights of the target's part and of the other classes' part (Zhao et al. 2022, section 4).
TARGET_WEIGHT, OTHERS_WEIGHT = 1.0, 8.0
# Bound on the weights q/p, whose gradients would have a large variance (Wang et al. 2021).
LARGEST_RATIO = 5.0
# Stands for the logarithm of 0 where infinity would make differences that are not numbers.
NO_LOG_PROBABILITY = -1e4


def kl(log_student: Tensor, log_teacher: Tensor, labels: Tensor) -> Tensor:
    """Return KL(p || q) of student q from teacher p (Hinton et al. 2015, arXiv:1503.02531)."""
    return kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


def dkd(log_student: Tensor, log_teacher: Tensor, labels: Tensor) -> Tensor:
    """Return decoupled KD's loss: KL of the target, plus 8 KL among the others.

    DKD, arXiv:2203.08679, equation 7.

    The target is the label; of a mixed image, the label with the larger share; of an image without
    one, the teacher's likeliest class.
    """
    known = labels.sum(dim=1, keepdim=True) > 0
    target = torch.where(known, labels, log_teacher.exp()).argmax(dim=1, keepdim=True)
    binary = kl(_target_or_not(log_student, target), _target_or_not(log_teacher, target), labels)
    others = kl(_others(log_student, target), _others(log_teacher, target), labels)
    return TARGET_WEIGHT * binary + OTHERS_WEIGHT * others


def dist(log_student: Tensor, log_teacher: Tensor, labels: Tensor) -> Tensor:
    """Return DIST's loss: 1 - r over the classes of an image, plus over the images of a class.

    r is Pearson's correlation of the probabilities: relations are to be kept, values may differ
    (DIST, arXiv:2205.10536, eq. 8 to 10).
    """
    student, teacher = log_student.exp(), log_teacher.exp()
    between_classes = 1 - _correlation(student, teacher).mean()
    within_classes = 1 - _correlation(student.T, teacher.T).mean()
    return between_classes + within_classes


def alpha_divergence(log_student: Tensor, log_teacher: Tensor, labels: Tensor) -> Tensor:
    """Return AlphaNet's loss, the mean of max(D_-1, D_1) (arXiv:2102.07954, eq. 7 and 8).

    D_1 = KL(p || q) punishes what the student q misses of the teacher p; D_-1 = Σ q (q/p - 1) / 2
    punishes what it makes up, with q/p at most 5. The gradient is that of weights held fixed.
    """
    student, teacher = log_student.exp().detach(), log_teacher.exp()
    ratio = (log_student.detach() - log_teacher).exp().clamp(max=LARGEST_RATIO)
    missed = (teacher * (log_teacher - log_student.detach())).sum(dim=1)
    made_up = (student * (ratio - 1)).sum(dim=1) / 2
    value = torch.maximum(missed, made_up)
    weights = torch.where((made_up > missed)[:, None], student * ratio, -teacher)
    surrogate = (weights * log_student).sum(dim=1)
    return (value + surrogate - surrogate.detach()).mean()


DISTANCES: Mapping[str, Distance] = {
    "kl": kl,
    "dkd": dkd,
    "dist": dist,
    "alpha_divergence": alpha_divergence,
}


def _target_or_not(log_p: Tensor, target: Tensor) -> Tensor:
    """Log-probabilities [B, 2] of the target and of all other classes together."""
    others = log_p.scatter(1, target, NO_LOG_PROBABILITY).logsumexp(dim=1, keepdim=True)
    return torch.cat([log_p.gather(1, target), others], dim=1)


def _others(log_p: Tensor, target: Tensor) -> Tensor:
    """Log-probabilities [B, K] among the classes that are not the target."""
    return log_p.scatter(1, target, NO_LOG_PROBABILITY).log_softmax(dim=1)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation of every row."""
    return cosine_similarity(a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True))
