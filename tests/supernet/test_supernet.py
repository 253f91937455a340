"""The supernet's invariant: one-hot choices are the extracted student."""

import numpy as np
import pytest
import torch
from torch import Tensor

from supernet.slices import crop
from supernet.space import Architecture, SearchSpace
from supernet.student import Student
from supernet.supernet import Supernet, centre_mask, prefix_mask


@pytest.fixture
def supernet(space: SearchSpace) -> Supernet:
    """Double precision, with BatchNorm parameters and statistics that are not the initial ones."""
    torch.manual_seed(0)
    net = Supernet(space).double()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias)
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net


@pytest.fixture
def images() -> Tensor:
    return torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def some_architectures(space: SearchSpace) -> list[Architecture]:
    draws = np.random.default_rng(3)
    return [space.smallest(), space.largest(), *(space.random(draws) for _ in range(12))]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_one_hot_supernet_equals_extracted_student(
    space: SearchSpace, supernet: Supernet, images: Tensor, training: bool
) -> None:
    supernet.train(training)
    for architecture in some_architectures(space):
        student = supernet.extract(architecture).train(training)
        choices = {name: p.double() for name, p in space.one_hot(architecture).items()}
        supernet.zero_grad()
        mixed, plain = supernet(images, choices), student(images)
        torch.testing.assert_close(mixed, plain, rtol=1e-9, atol=1e-9)

        mixed.square().sum().backward()
        plain.square().sum().backward()
        shared = dict(supernet.largest.named_parameters())
        for name, parameter in student.named_parameters():
            here = crop(shared[name].grad, parameter.shape)
            torch.testing.assert_close(here, parameter.grad, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_sliced_student_equals_extracted_student(
    space: SearchSpace, supernet: Supernet, images: Tensor, training: bool
) -> None:
    supernet.train(training)
    for architecture in some_architectures(space):
        student = supernet.extract(architecture).train(training)
        supernet.zero_grad()
        sliced, plain = supernet.student_logits(images, architecture), student(images)
        torch.testing.assert_close(sliced, plain, rtol=1e-12, atol=1e-12)
        sliced.square().sum().backward()
        plain.square().sum().backward()
        shared = dict(supernet.largest.named_parameters())
        for name, parameter in student.named_parameters():
            grad = shared[name].grad
            torch.testing.assert_close(crop(grad, parameter.shape), parameter.grad)
            # What is not in the slice gets nothing.
            assert torch.isclose(grad.abs().sum(), parameter.grad.abs().sum())


def test_extract_copies(space: SearchSpace, supernet: Supernet) -> None:
    before = {name: p.clone() for name, p in supernet.state_dict().items()}
    student = supernet.extract(space.middle())
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    assert all(torch.equal(before[n], p) for n, p in supernet.state_dict().items())


def test_mixed_forward_keeps_nothing(
    space: SearchSpace, supernet: Supernet, images: Tensor
) -> None:
    supernet.train()
    before = {name: p.clone() for name, p in supernet.state_dict().items()}
    supernet(images, {n: p.double() for n, p in space.one_hot(space.middle()).items()})
    assert all(torch.equal(before[n], p) for n, p in supernet.state_dict().items())


def test_every_choice_gets_a_gradient(
    space: SearchSpace, supernet: Supernet, images: Tensor
) -> None:
    """Those not taken too: the sample is the smallest student."""
    supernet.train()
    choices = {n: p.double().requires_grad_() for n, p in space.one_hot(space.smallest()).items()}
    supernet(images, choices).square().sum().backward()
    for name, p in choices.items():
        # A layer that the depth switches off passes no gradient to its own decisions.
        if len(p) > 1 and "layer2" not in name:
            assert (p.grad != 0).all(), name


def test_choice_gradient_is_the_derivative(
    space: SearchSpace, supernet: Supernet, images: Tensor
) -> None:
    """Against central differences, at relaxed choices."""
    supernet.train()
    generator = torch.Generator().manual_seed(2)
    choices = {
        d.name: torch.rand(len(d.choices), generator=generator).double().softmax(0)
        for d in space.decisions()
    }
    names = list(choices)

    def loss(*vectors: Tensor) -> Tensor:
        return supernet(images, dict(zip(names, vectors, strict=True))).square().mean()

    vectors = [p.requires_grad_() for p in choices.values()]
    assert torch.autograd.gradcheck(loss, vectors, atol=1e-5, fast_mode=True)


def test_masks_against_explicit_loops() -> None:
    p = torch.tensor([0.2, 0.3, 0.5])
    expected = [sum(q for q, size in zip(p, (1, 3, 4), strict=True) if c < size) for c in range(5)]
    torch.testing.assert_close(prefix_mask(p, (1, 3, 4), 5), torch.tensor(expected))
    mask = centre_mask(p, (1, 3, 7))
    for y in range(7):
        for x in range(7):
            inside = [max(abs(y - 3), abs(x - 3)) <= k // 2 for k in (1, 3, 7)]
            torch.testing.assert_close(mask[y, x], (p * torch.tensor(inside)).sum())


def test_largest_student_is_the_supernet(space: SearchSpace, supernet: Supernet) -> None:
    student = Student(space, space.largest())
    shapes = {name: p.shape for name, p in student.state_dict().items()}
    assert {name: p.shape for name, p in supernet.largest.state_dict().items()} == shapes
