"""Several processes as one: under torchrun all draw the same, and learn from means over all."""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, reduce
from einops import pack, unpack
from torch import Tensor

from export.errors import UserError

Key, Result = TypeVar("Key"), TypeVar("Result")
# One process measures, or stores the teacher's outputs, while the others wait for it.
LONGEST_WAIT = timedelta(days=7)


def join_processes() -> PartialState:
    """Join the processes that torchrun started, if it did: who am I, of how many, which device."""
    return PartialState(cpu=not torch.cuda.is_available(), timeout=LONGEST_WAIT)


def from_first(call: Callable[[], Result]) -> Result:
    """Return what `call` returns in the first process, in all of them."""
    return broadcast_object_list([call() if is_first() else None])[0]


def own_part(items: Sequence[Key]) -> Sequence[Key]:
    """Return those of `items` that are this process's to work on; every item is someone's."""
    state = PartialState()
    return items[state.process_index :: state.num_processes]


def merged(own: Mapping[Key, Result]) -> dict[Key, Result]:
    """Return what all processes have found for their parts, in each of them."""
    return dict(gather_object(list(own.items())))


def average(tensors: Sequence[Tensor]) -> None:
    """Set every tensor (all of one dtype) to its mean over all processes, in one message."""
    if PartialState().num_processes == 1:
        return
    flat, shapes = pack([tensor.detach() for tensor in tensors], "*")
    for tensor, mean in zip(tensors, unpack(reduce(flat, "mean"), shapes, "*"), strict=True):
        tensor.detach().copy_(mean)


def gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradients of those that have one: the same ones in every process."""
    return [p.grad for p in parameters if p.grad is not None]


def is_first() -> bool:
    """Whether this process is the one that writes files and speaks."""
    return PartialState().is_main_process


def say(text: str) -> None:
    """Print in the first process; accelerate's own print speaks once on every machine."""
    if is_first():
        print(text, flush=True)


def same_everywhere(number: int, what: str) -> int:
    """Return `number` when it is that of every process; raise `UserError` otherwise."""
    state = PartialState()
    mean = reduce(torch.tensor(float(number), device=state.device), "mean").item()
    if mean != number:
        raise UserError(
            f"{what} {number} in process {state.process_index}, another one elsewhere; give a "
            "--run that all processes see at once"
        )
    return number


def share_of(batch: int) -> slice:
    """Return which part of a batch of `batch` is this process's own; all are of one size."""
    state = PartialState()
    size, rest = divmod(batch, state.num_processes)
    assert rest == 0, f"batch {batch} for {state.num_processes} processes"
    return slice(state.process_index * size, (state.process_index + 1) * size)
