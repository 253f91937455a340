"""The supernet's invariant: one-hot choices are the extracted student."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from supernet.mixtures import centre_mask, prefix_mask
from supernet.slices import crop, shared_names
from supernet.space import FUSED, MBCONV, Architecture, SearchSpace
from supernet.student import Student
from supernet.supernet import Supernet
from tests.tiny import tiny_space
from tests.traffic import CopiesTo, Traffic


@pytest.fixture(params=[False, True], ids=["logits", "vectors"])
def space(request: pytest.FixtureRequest) -> SearchSpace:
    """The tiny space, and that of vectors of length 1."""
    return replace(tiny_space(), unit_length=request.param)


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
        shared, own = dict(supernet.shared.named_parameters()), dict(student.named_parameters())
        for name, of in shared_names(own, architecture):
            here = crop(shared[of].grad, own[name].shape)
            torch.testing.assert_close(here, own[name].grad, rtol=1e-8, atol=1e-8)


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
        shared, own = dict(supernet.shared.named_parameters()), dict(student.named_parameters())
        for name, of in shared_names(own, architecture):
            parameter, grad = own[name], shared[of].grad
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


@pytest.mark.parametrize("operation", [MBCONV, FUSED])
def test_every_choice_gets_a_gradient(
    space: SearchSpace, supernet: Supernet, images: Tensor, operation: str
) -> None:
    """Those not taken too: the sample is the smallest student of either operation."""
    supernet.train()
    smallest, o = space.positions(space.smallest()), (MBCONV, FUSED).index(operation)
    picked = {n: o if n.endswith(".operation") else at for n, at in smallest.items()}
    choices = space.one_hot(space.architecture(picked))
    choices = {n: p.double().requires_grad_() for n, p in choices.items()}
    supernet(images, choices).square().sum().backward()
    other = FUSED if operation == MBCONV else MBCONV
    for name, p in choices.items():
        # Neither a layer that the depth switches off nor an operation that is not drawn passes a
        # gradient to its own decisions; which operation it is, and how deep, has one.
        if len(p) > 1 and "layer2" not in name and f".{other}." not in name:
            assert (p.grad != 0).all(), name


@pytest.mark.parametrize("seed", range(4))
def test_the_gradient_at_a_student_is_the_slope_towards_every_choice(
    space: SearchSpace, supernet: Supernet, images: Tensor, seed: int
) -> None:
    """Against forward differences: a mask in front of a ReLU would pass none to what it masks."""
    supernet.train()
    architecture = space.random(np.random.default_rng(seed))
    choices = {n: p.double().requires_grad_() for n, p in space.one_hot(architecture).items()}
    loss = supernet(images, choices).square().sum()
    loss.backward()
    for name, p in choices.items():
        found = torch.zeros_like(p) if p.grad is None else p.grad
        for i in range(len(p)):
            nudged = {n: q.detach().clone() for n, q in choices.items()}
            nudged[name][i] += 1e-7
            with torch.no_grad():
                slope = (supernet(images, nudged).square().sum() - loss) / 1e-7
            assert float(slope) == pytest.approx(float(found[i]), rel=1e-3, abs=1e-4), name


def test_an_operation_not_drawn_keeps_no_graph(
    space: SearchSpace, supernet: Supernet, images: Tensor
) -> None:
    """It passes forward alone: its weights get no gradient."""
    supernet.train()
    choices = {n: p.double().requires_grad_() for n, p in space.one_hot(space.smallest()).items()}
    supernet(images, choices).square().sum().backward()
    for name, parameter in supernet.named_parameters():
        assert (f".{FUSED}." in name) == (parameter.grad is None), name


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


def test_all_choices_are_copied_to_a_device_at_once(space: SearchSpace) -> None:
    supernet, images = Supernet(space).to("meta"), torch.empty(2, 3, 8, 8, device="meta")
    with CopiesTo("meta") as copies:
        supernet(images, space.one_hot(space.middle()))
    assert copies.count == 1


def test_masks_are_made_of_constants_that_are_made_once(
    space: SearchSpace, supernet: Supernet, images: Tensor
) -> None:
    choices = space.one_hot(space.middle())
    supernet(images, choices)
    with Traffic() as second:
        supernet(images, choices)
    assert second.made == 0


def test_masks_against_explicit_loops() -> None:
    p = torch.tensor([0.2, 0.3, 0.5])
    expected = [sum(q for q, size in zip(p, (1, 3, 4), strict=True) if c < size) for c in range(5)]
    torch.testing.assert_close(prefix_mask(p, (1, 3, 4), 5), torch.tensor(expected))
    mask = centre_mask(p, (1, 3, 7))
    for y in range(7):
        for x in range(7):
            inside = [max(abs(y - 3), abs(x - 3)) <= k // 2 for k in (1, 3, 7)]
            torch.testing.assert_close(mask[y, x], (p * torch.tensor(inside)).sum())


def test_shared_weights_are_as_large_as_the_largest_students(
    space: SearchSpace, supernet: Supernet
) -> None:
    """Every operation's largest form is the whole of its weights."""
    shared, seen = supernet.shared.state_dict(), set()
    largest = {d.name: len(d.choices) - 1 for d in space.decisions()}
    for o, head in ((0, 0), (0, 1), (1, 1)):
        picked = {n: o if n.endswith(".operation") else at for n, at in largest.items()}
        architecture = space.architecture({**picked, "head.width": head})
        own = Student(space, architecture).state_dict()
        for name, of in shared_names(own, architecture):
            assert own[name].shape == shared[of].shape, name
            seen.add(of)
    assert seen == shared.keys()
