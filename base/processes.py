"""Several processes as one: under torchrun all draw the same, and learn from means over all."""

import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, reduce
from einops import pack, unpack
from torch import Tensor

from base.errors import UserError

Key, Result = TypeVar("Key"), TypeVar("Result")
# One process measures, or stores the teacher's outputs, while the others wait for it.
PROCESS_TIMEOUT = timedelta(days=7)


def join_processes() -> PartialState:
    """Join the processes that torchrun started, if it did: which one is this, on which device."""
    return PartialState(cpu=not torch.cuda.is_available(), timeout=PROCESS_TIMEOUT)


def is_main_process() -> bool:
    """Tell whether this process is the one that writes files and prints."""
    return PartialState().is_main_process


def print_once(text: str) -> None:
    """Print in the main process; accelerate's own print prints once on every machine."""
    if is_main_process():
        print(text, flush=True)


def timed_now(what: str) -> None:
    """Say, beside what is printed, what is timed now; some of it takes seconds."""
    if is_main_process():
        print(f"preview: timing {what}", file=sys.stderr, flush=True)


def from_main_process(call: Callable[[], Result]) -> Result:
    """Call in the main process, and return what it returns in all processes."""
    return broadcast_object_list([call() if is_main_process() else None])[0]


def rank_shard(items: Sequence[Key]) -> Sequence[Key]:
    """Return those of `items` that this process works on; every item is one process's."""
    state = PartialState()
    return items[state.process_index :: state.num_processes]


def rank_slice(batch: int) -> slice:
    """Return which part of a batch of `batch` images this process takes; all are of one size."""
    state = PartialState()
    size, rest = divmod(batch, state.num_processes)
    assert rest == 0, f"batch {batch} for {state.num_processes} processes"
    return slice(state.process_index * size, (state.process_index + 1) * size)


def gather_dict(own: Mapping[Key, Result]) -> dict[Key, Result]:
    """Return the entries of all processes' dictionaries, in each of them."""
    return dict(gather_object(list(own.items())))


def gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradients of those that have one: the same ones in every process."""
    return [p.grad for p in parameters if p.grad is not None]


def all_reduce_mean(tensors: Sequence[Tensor]) -> None:
    """Set every tensor to its mean over all processes, in one message a device and dtype."""
    if PartialState().num_processes == 1:
        return
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        groups[tensor.device, tensor.dtype].append(tensor.detach())
    for (device, _), group in groups.items():
        flat, shapes = pack(group, "*")
        mean = reduce(_for_backend(flat), "mean").to(device)
        for tensor, own_mean in zip(group, unpack(mean, shapes, "*"), strict=True):
            tensor.copy_(own_mean)


def _for_backend(tensor: Tensor) -> Tensor:
    """Move a tensor to the process's device where the backend is NCCL, which takes no others."""
    state = PartialState()
    return tensor.to(state.device) if state.backend == "nccl" else tensor


def require_same_on_all_processes(number: int, what: str) -> int:
    """Return `number`; raise `UserError` when another process has another one."""
    state = PartialState()
    mean = reduce(torch.tensor(float(number), device=state.device), "mean").item()
    if mean != number:
        raise UserError(
            f"{what} {number} in process {state.process_index}, another one elsewhere; give a "
            "--run that all processes see at once"
        )
    return number
