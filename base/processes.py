"""Several processes as one: under torchrun all draw the same, and learn from means over all."""

import os
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, reduce
from einops import pack, unpack
from torch import Tensor
from torch.distributed import DistError, TCPStore

from base.errors import UserError

Key, Result = TypeVar("Key"), TypeVar("Result")
# One process measures, or stores the teacher's outputs, while the others wait for it.
PROCESS_TIMEOUT = timedelta(days=7)
# Seconds in which all processes have to come, and after which those that are missing are named.
JOIN_WITHIN, NAMED_AFTER, LOOK_EVERY = 300, 3, 0.1
# What makes a process one of several, and what else accelerate would believe.
JOB = ("WORLD_SIZE", "RANK", "MASTER_ADDR")
HEARSAY = ("LOCAL_RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
MOST_PROCESSES = 100_000
ANSWER_WITHIN = timedelta(seconds=20)  # of the place where they meet, once it can be reached
MEND = f"start all of them with torchrun, or unset {', '.join(JOB)}"


@dataclass(frozen=True)
class Job:
    """Several processes that were started as one, of which this is number `rank`."""

    rank: int
    size: int
    host: str  # where they find each other
    port: int

    def __str__(self) -> str:
        return f"process {self.rank} of {self.size}, at {self.host}:{self.port}"


def join_processes() -> PartialState:
    """Join the processes that torchrun started, if it did: which one is this, on which device.

    Raises `UserError` when they do not all come in time, and where the environment tells only a
    part of a job.
    """
    job = _job()
    if job is None:
        for name in (*JOB, *HEARSAY):
            os.environ.pop(name, None)
        return _joined()
    try:
        store = _gathered(job)
        state = _joined()
    except DistError as error:
        raise UserError(f"{job}: {str(error).splitlines()[0]}; {MEND}") from error
    del store  # until now the others needed it, if this is the first
    return state


def this_process() -> PartialState:
    """Return which process this is of those that have joined, and on which device."""
    return PartialState()


def _joined() -> PartialState:
    return PartialState(cpu=not torch.cuda.is_available(), timeout=PROCESS_TIMEOUT)


def _job() -> Job | None:
    """Return the job of the environment; None where this process is alone."""
    size = _number("WORLD_SIZE", "1", range(1, MOST_PROCESSES + 1))
    if size == 1:
        return None
    if missing := [name for name in JOB if not os.environ.get(name)]:
        raise UserError(f"WORLD_SIZE is {size} without {' and '.join(missing)}; {MEND}")
    os.environ.setdefault("LOCAL_RANK", "0")
    os.environ.setdefault("MASTER_PORT", "29500")
    rank = _number("RANK", "", range(size))
    return Job(rank, size, os.environ["MASTER_ADDR"], _number("MASTER_PORT", "", range(1, 2**16)))


def _number(name: str, default: str, allowed: range) -> int:
    text = os.environ.get(name) or default
    if not (text.isdecimal() and int(text) in allowed):
        raise UserError(f"{name} is {text}, expected {allowed[0]} to {allowed[-1]}; {MEND}")
    return int(text)


def _gathered(job: Job) -> TCPStore:
    """Return the store of a job whose processes have all come.

    PyTorch's own way to join waits in C++, where Ctrl-C does nothing.
    """
    began = time.monotonic()
    hosts = job.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    if not hosts:
        _wait(job, began, lambda: [] if _answers(job) else ["process 0 to answer"])
    options = {"wait_for_workers": False, "multi_tenant": True, "timeout": ANSWER_WITHIN}
    store = TCPStore(job.host, job.port, is_master=hosts, **options)
    key = f"here/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/{{}}".format
    store.set(key(job.rank), "")
    _wait(
        job, began, lambda: [f"process {n}" for n in range(job.size) if not store.check([key(n)])]
    )
    return store


def _answers(job: Job) -> bool:
    with suppress(OSError), socket.create_connection((job.host, job.port), timeout=1):
        return True
    return False


def _wait(job: Job, began: float, missing: Callable[[], Sequence[str]]) -> None:
    """Wait until nobody is missing; say for whom, and give up with `UserError` in time."""
    named = False
    while names := missing():
        waited, waits = time.monotonic() - began, f"{job}: waits for {', '.join(names)}"
        if waited > JOIN_WITHIN:
            raise UserError(f"{waits}, for {JOIN_WITHIN} s now; {MEND}")
        if waited > NAMED_AFTER and not named:
            print(f"{waits}, at most {JOIN_WITHIN} s", file=sys.stderr, flush=True)
            named = True
        time.sleep(LOOK_EVERY)


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


def by_main_process(function: Callable[..., Result]) -> Callable[..., Result]:
    """Return `function` as one that all processes call, and the main process alone runs."""
    return lambda *arguments: from_main_process(partial(function, *arguments))


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
