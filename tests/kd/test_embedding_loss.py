"""The loss of an embedding, beside explicit loops."""

import math
from itertools import combinations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize, smooth_l1_loss

from kd.batches import Batch
from kd.embedding_loss import GROUP, SIZE, angles, distances, embedding_loss, relation_loss


def drawn(count: int, size: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


def batch_of(teacher: Tensor) -> Batch:
    return Batch(torch.zeros(len(teacher), 3, 8, 8), torch.zeros_like(teacher), teacher)


def test_distances_are_those_of_all_pairs_in_their_mean() -> None:
    vectors = drawn(6)
    found = [math.dist(*map(Tensor.tolist, pair)) for pair in combinations(vectors, 2)]
    expected = torch.tensor(found) / (sum(found) / len(found))
    torch.testing.assert_close(distances(vectors), expected)


def test_angles_are_those_of_all_triplets() -> None:
    vectors, found = drawn(5), torch.zeros(5, 5, 5)
    for i in range(5):
        for j in range(5):
            for k in range(5):
                if i not in (j, k):
                    one, other = vectors[j] - vectors[i], vectors[k] - vectors[i]
                    found[i, j, k] = one @ other / (one.norm() * other.norm())
    torch.testing.assert_close(angles(vectors), found)


@pytest.mark.parametrize("count", [3, 8, GROUP + 5])
def test_relations_are_compared_in_groups(count: int) -> None:
    student, teacher = drawn(count), drawn(count, size=9, seed=1)
    half = math.ceil(count / 2)
    parts = [slice(0, count)] if count <= GROUP else [slice(0, half), slice(half, count)]
    losses = [
        smooth_l1_loss(distances(student[own]), distances(teacher[own]))
        + 2 * smooth_l1_loss(angles(student[own]), angles(teacher[own]))
        for own in parts
    ]
    torch.testing.assert_close(relation_loss(student, teacher), sum(losses) / len(losses))


def test_a_turned_and_larger_copy_has_the_same_relations() -> None:
    vectors = drawn(7)
    turned, _ = torch.linalg.qr(drawn(5, seed=2))
    assert relation_loss(3 * vectors @ turned, vectors) < 1e-10
    assert relation_loss(drawn(7, seed=3), vectors) > 0.01


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_vectors_have_no_relations(count: int) -> None:
    assert relation_loss(drawn(count), drawn(count, seed=1)) == 0


def cosine(one: Tensor, other: Tensor) -> float:
    return (one @ other / one.norm() / other.norm()).item()


def test_the_loss_is_that_of_cosines_about_0_and_about_the_mean_and_weighed_relations() -> None:
    vectors, teacher = drawn(4), normalize(drawn(4, seed=1))
    mean, expected = sum(teacher) / 4, 0.0
    for vector, told in zip(vectors, teacher, strict=True):
        own = vector / vector.norm()
        expected += (1 - cosine(own, told) + 1 - cosine(own - mean, told - mean)) / 4
    alone = embedding_loss(vectors, batch_of(teacher), 0.0)
    assert alone.item() == pytest.approx(SIZE * expected, abs=1e-5)
    expected = alone + 0.5 * relation_loss(normalize(vectors), teacher)
    torch.testing.assert_close(embedding_loss(vectors, batch_of(teacher), 0.5), expected)
    assert embedding_loss(3 * teacher, batch_of(teacher), 1.0).abs() < 1e-5


def test_one_answer_for_all_images_is_no_way_out() -> None:
    """The teacher's mean is near all its vectors where they have much in common."""
    teacher = normalize(drawn(16, seed=1) / 4 + 1)
    mean = teacher.mean(dim=0)
    assert cosine(mean, teacher[0]) > 0.9
    same = mean + 1e-4 * drawn(16, seed=2)
    assert embedding_loss(same, batch_of(teacher), 0.0) > 0.8 * SIZE


@pytest.mark.parametrize("count", [1, 2])
def test_few_images_have_no_mean(count: int) -> None:
    """The shares of a small batch may be of one image."""
    vectors, teacher = drawn(count), normalize(drawn(count, seed=1))
    expected = sum(1 - cosine(a, b) for a, b in zip(vectors, teacher, strict=True)) / count
    found = embedding_loss(vectors, batch_of(teacher), 1.0)
    assert found.item() == pytest.approx(SIZE * expected, abs=1e-5)


@pytest.mark.parametrize("rounded", [False, True])
def test_equal_images_leave_a_gradient_of_the_usual_size(rounded: bool) -> None:
    """A batch may hold one image twice, and the teacher's stored vectors are rounded."""
    teacher, gradients = normalize(drawn(16, seed=1)), []
    for twice in (False, True):
        vectors, told = drawn(16), teacher.clone()
        if twice:
            vectors[1] = vectors[0]
            told[1] = told[0] + (2.0**-12 if rounded else 0)
        vectors.requires_grad_()
        embedding_loss(vectors, batch_of(told), 1.0).backward()
        gradients.append(vectors.grad.norm().item())
    assert gradients[1] < 2 * gradients[0]
