"""The loss of an embedding: a student's vectors beside its teacher's, and relations among them."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize, pdist, smooth_l1_loss

from kd.batches import Batch

SIZE = 4.0  # of the distance of vectors: of 1, 4 and 10 it did best with the recipes' rates
GROUP = 64  # vectors whose relations are compared: angles take the third power of them
LEAST = 3  # an angle has three
# Two vectors nearer than this are alike: whither one lies from the other is rounding.
ALIKE = 1e-2
ANGLES = 2.0  # weight of angles beside distances (RKD, section 4)


def embedding_loss(vectors: Tensor, batch: Batch, relation_weight: float) -> Tensor:
    """Return the loss of a batch: S times the distance of vectors, plus the weighed relations'.

    The distance is the mean of 1 - cos(s, t) + 1 - cos(s - m, t - m), where s and t are vectors of
    student and teacher, and m is the teacher's mean over the batch. Where a teacher's vectors have
    much in common, as features after a ReLU have, the first term alone is small for a student that
    answers all images with m, and moves it little. `vectors` [B, D] are of any length;
    `batch.probabilities` [B, D] are the teacher's, of length 1.
    """
    student, teacher = normalize(vectors), batch.probabilities
    apart = 1 - cosine_similarity(student, teacher).mean()
    if len(student) >= LEAST:
        mean = teacher.mean(dim=0)
        apart = apart + 1 - cosine_similarity(student - mean, teacher - mean).mean()
    if not relation_weight:
        return SIZE * apart
    return SIZE * apart + relation_weight * relation_loss(student, teacher)


def relation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return RKD's loss of distances, plus twice that of angles (arXiv:1904.05068, eq. 4 to 8).

    Both are Huber losses between relations of student's [B, D] and teacher's vectors [B, D], among
    groups of at most 64; distances are in those of the group's mean. Fewer than three vectors have
    no relations.
    """
    if len(student) < LEAST:
        return student.new_zeros(())
    many = math.ceil(len(student) / GROUP)
    groups = list(zip(student.tensor_split(many), teacher.tensor_split(many), strict=True))
    return sum(_compared(*group) for group in groups) / len(groups)


def _compared(student: Tensor, teacher: Tensor) -> Tensor:
    ways: tuple[tuple[float, Callable[[Tensor], Tensor]], ...]
    ways = (1.0, distances), (ANGLES, angles)
    return sum(weight * smooth_l1_loss(of(student), of(teacher)) for weight, of in ways)


def distances(vectors: Tensor) -> Tensor:
    """Return the distance of every pair of vectors [N, D], [N (N - 1) / 2], in their mean."""
    found = pdist(vectors.float())
    return found / found.mean().clamp(min=torch.finfo().eps)


def angles(vectors: Tensor) -> Tensor:
    """Return the cosine [N, N, N] of the angle at vector i, of N, between vectors j and k."""
    towards = normalize(vectors[None] - vectors[:, None], dim=2, eps=ALIKE)
    return torch.einsum("ijd,ikd->ijk", towards, towards)
