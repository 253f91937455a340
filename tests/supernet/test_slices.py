"""A student cut out without modules is, bit by bit, the module that runs on the same slices."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from base.errors import UserError
from supernet.presets import preset_space
from supernet.slices import crop, shared_names
from supernet.space import Architecture, SearchSpace
from supernet.student import Student
from supernet.supernet import Supernet

SPACES = [preset_space(name, 5) for name in ("digits", "cifar10", "imagenet")]


def as_module(supernet: Supernet, images: Tensor, architecture: Architecture) -> Tensor:
    """Run a student's module on views of the shared weights, as `functional_call` does it."""
    student = Student(supernet.space, architecture).train(supernet.training)
    shared, own = supernet.shared.state_dict(keep_vars=True), student.state_dict()
    names = shared_names(own, architecture)
    slices = {name: crop(shared[of], own[name].shape) for name, of in names}
    return functional_call(student, slices, images)


def some_students(space: SearchSpace) -> list[Architecture]:
    draws = np.random.default_rng(0)
    return [space.largest(), space.smallest(), *(space.random(draws) for _ in range(4))]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_outputs_gradients_and_statistics_are_the_modules(
    space: SearchSpace, training: bool
) -> None:
    torch.manual_seed(0)
    cut = Supernet(space).to(memory_format=torch.channels_last).train(training)
    module = copy.deepcopy(cut)
    images = torch.rand(3, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    for architecture in some_students(space):
        found = cut.student_logits(images, architecture)
        expected = as_module(module, images, architecture)
        assert torch.equal(found, expected)
        found.square().sum().backward()
        expected.square().sum().backward()
    gradients = dict(module.named_parameters())
    for name, parameter in cut.named_parameters():
        if parameter.grad is None:  # an operation that none of the students has
            assert gradients[name].grad is None, name
        else:
            assert torch.equal(parameter.grad, gradients[name].grad), name
    statistics = dict(module.named_buffers())
    assert all(torch.equal(part, statistics[name]) for name, part in cut.named_buffers())


def test_running_statistics_move_in_training_only(space: SearchSpace) -> None:
    supernet, images = Supernet(space), torch.rand(4, 3, 8, 8)
    before = {name: part.clone() for name, part in supernet.named_buffers()}

    def moved() -> bool:
        return any(not torch.equal(p, before[name]) for name, p in supernet.named_buffers())

    supernet.eval().student_logits(images, space.smallest())
    assert not moved()
    supernet.train().student_logits(images, space.smallest())
    assert moved()


def test_an_architecture_of_another_space_is_refused(space: SearchSpace) -> None:
    foreign = SPACES[0].largest()
    with pytest.raises(UserError, match="do not fit space"):
        Supernet(space).student_logits(torch.rand(1, 3, 8, 8), foreign)


@pytest.mark.parametrize("shape", [(2, 3, 1, 1), (4, 3, 3, 3), (6, 5, 5, 5)])
def test_a_crop_is_the_leading_channels_and_the_centre(shape: tuple[int, ...]) -> None:
    tensor = torch.arange(6 * 5 * 5 * 5).reshape(6, 5, 5, 5)
    channels, inputs, side, _ = shape
    margin = (5 - side) // 2
    inside = slice(margin, margin + side)
    assert torch.equal(crop(tensor, shape), tensor[:channels, :inputs, inside, inside])
    own, shared = (part.untyped_storage().data_ptr() for part in (crop(tensor, shape), tensor))
    assert own == shared
