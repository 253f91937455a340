"""Time the supernet's steps against the static largest student's, interleaved, in one process.

That student is as large as the shared weights, and all its layers are `mbconv`, the dearest to
train; the one whose layers are `fused`, where they can be, is told beside it.

    python -m benchmarks.step --preset digits --batch 128

Each step is forward, backward and optimiser on the same batch. `w` is that of four students of fair
latency, each on a quarter of the batch, cut out of the shared weights; `w, one fair student` takes
the whole batch through one student drawn at a log-uniform latency; `alpha` mixes all choices and
gives each a gradient. Ratios are medians over the rounds, each against the static step of the same
round. Memory is the peak of live bytes allocated in one step, from the profiler.

Host time is what a student's forward pass takes of Python, on images so small that arithmetic is
nothing: cut out of the shared weights, beside the same student as a module of its own.

On a GPU `busy` is the share of a step in which it computes; the rest, the host is too slow for.
With `--device cuda --sync-debug-mode warn` PyTorch names every line that waits for the GPU. Those
that have to are few: a step reads its losses, and alpha's fetches the gradients of its choices.
Under torchrun every process takes its share of the batch; the static students are of one process.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import tyro
from torch import Tensor
from torch.autograd import DeviceType
from torch.nn.functional import cross_entropy
from torch.profiler import profile
from tqdm import trange

from base.files import write_json
from base.processes import join_processes, this_process
from benchmarks.provenance import provenance
from export.timing.stopwatch import reference_ms, rounds
from supernet.alpha import Alpha, LatencyMultiplier
from supernet.latency_table import LatencyTable, table_shapes
from supernet.presets import preset_space
from supernet.sampling import FairSampler, fair_sampler, log_uniform, log_uniform_each
from supernet.space import Architecture, SearchSpace
from supernet.student import Student, parameters_and_macs
from supernet.supernet import Supernet
from supernet.training.steps import AlphaDraw, AlphaState, alpha_step, w_step
from supernet.training.weights import STUDENTS

STATIC, STATIC_FUSED = "static largest", "static largest, fused"
HOST_ROUNDS = 30


@dataclass(frozen=True)
class Settings:
    """What is timed."""

    preset: str = "digits"
    batch: int = 128
    rounds: int = 15
    seed: int = 0
    device: Literal["cpu", "cuda"] = "cpu"
    sync_debug_mode: Literal["default", "warn"] = "default"  # of a GPU
    out: Path = Path("benchmarks/results/step.json")


class Labelled(NamedTuple):
    """A batch with labels only."""

    images: Tensor
    labels: Tensor


def loss(logits: Tensor, batch: Labelled) -> Tensor:
    """Cross-entropy: the cheapest loss, so the networks' cost shows."""
    return cross_entropy(logits, batch.labels)


def made_up_table(space: SearchSpace) -> LatencyTable:
    """Return a table whose milliseconds are made up: the steps' cost does not depend on them."""
    generator = torch.Generator().manual_seed(0)
    shapes = table_shapes(space)

    def entries(shape: tuple[int, ...]) -> Tensor:
        # Larger choices stand later on every axis, so the sum of positions is a rough cost.
        positions = sum(torch.meshgrid(*[torch.arange(n) for n in shape], indexing="ij"))
        return 1.0 + positions + 0.1 * torch.rand(shape, generator=generator, dtype=torch.float64)

    first, rest = map(entries, shapes.first), map(entries, shapes.rest)
    stem, head = entries(shapes.stem), entries(shapes.head)
    return LatencyTable(space, stem, tuple(first), tuple(rest), head, {})


def steps(settings: Settings, space: SearchSpace) -> dict[str, Callable[[], None]]:
    """Return the calls that are timed, by name."""
    torch.manual_seed(settings.seed)
    device, share = this_process().device, settings.batch // this_process().num_processes
    table, draws = made_up_table(space), np.random.default_rng(settings.seed)
    ends = table.predicted_ms(space.smallest()), table.predicted_ms(space.largest())
    sampler = fair_sampler(table, *ends)
    images = torch.rand(share, *space.image_shape)
    batch = Labelled(
        images.to(device, memory_format=torch.channels_last),
        torch.randint(space.classes, (share,)).to(device),
    )
    shared = Supernet(space).to(device, memory_format=torch.channels_last).train()
    shared_optimizer = torch.optim.SGD(shared.parameters(), 0.01, momentum=0.9)
    frozen = Supernet(space).to(device, memory_format=torch.channels_last).train()
    frozen.requires_grad_(False)
    alpha = Alpha(space, *ends, knots=6)
    alpha_optimizer = torch.optim.Adam(alpha.parameters(), 0.01)
    state = AlphaState(alpha, LatencyMultiplier(alpha.log_knots, 0.01), alpha_optimizer)
    gumbel = torch.Generator().manual_seed(0)
    quarters = [Labelled(*part) for part in zip(*(t.tensor_split(4) for t in batch), strict=True)]

    def fair(sampler: FairSampler) -> list:
        return [sampler.near(log_uniform(sampler.range_ms, draws), draws)]

    def quarters_step() -> None:
        targets_ms = log_uniform_each(sampler.range_ms, STUDENTS, draws)
        students = [sampler.near(target_ms, draws) for target_ms in targets_ms]
        w_step(shared, students, quarters, loss, shared_optimizer)

    def fair_step() -> None:
        w_step(shared, fair(sampler), [batch], loss, shared_optimizer)

    def search_step() -> None:
        target_ms = log_uniform(sampler.range_ms, draws)
        alpha_step(frozen, state, table, AlphaDraw(target_ms, 1.0, gumbel), [batch], loss)

    calls = {
        STATIC: static_step(Student(space, largest_of(space, 0)), batch),
        STATIC_FUSED: static_step(Student(space, largest_of(space, 1)), batch),
        "w": quarters_step,
        "w, one fair student": fair_step,
        "alpha": search_step,
    }
    return {name: finished(call, device) for name, call in calls.items()}


def finished(call: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Return a call that ends when the device has done its work too."""

    def run() -> None:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


def largest_of(space: SearchSpace, operation: int) -> Architecture:
    """Return the largest student of one operation, by its position, where a stage has it."""
    last = {d.name: len(d.choices) - 1 for d in space.decisions()}
    return space.architecture(
        {n: min(operation, at) if n.endswith(".operation") else at for n, at in last.items()}
    )


def static_step(student: Student, batch: Labelled) -> Callable[[], None]:
    """Return a call that trains a student of its own for a step."""
    student.to(batch.images.device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(student.parameters(), 0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(student(batch.images), batch).backward()
        optimizer.step()

    return step


def peak_bytes(step: Callable[[], None], device: str) -> int:
    """Peak of live bytes that one step allocates, from the profiler's record or the GPU's."""
    step()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    with profile(profile_memory=True, record_shapes=False) as record:
        step()
    live, peak = 0, 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


def busy_share(step: Callable[[], None], device: str) -> float | None:
    """Share of one step in which the GPU computes; None on a CPU."""
    if device == "cpu":
        return None
    step()
    with profile() as record:
        began = time.perf_counter()
        step()
        seconds = time.perf_counter() - began
    events = (e for e in record.events() if e.device_type == DeviceType.CUDA)
    return sum(e.time_range.elapsed_us() for e in events) / 1e6 / seconds


def host_ms(space: SearchSpace, seed: int) -> dict[str, float]:
    """Milliseconds of host time a student, medians over random ones, interleaved."""
    shared, draws = Supernet(space).train(), np.random.default_rng(seed)
    students = [space.largest(), space.smallest(), *(space.random(draws) for _ in range(6))]
    side = space.stem_stride * math.prod(stage.stride for stage in space.stages)
    images = torch.rand(2, 3, side, side)  # the last feature map is one pixel
    calls = {}
    for i, architecture in enumerate(students):
        calls[f"sliced/{i}"] = partial(shared.student_logits, images, architecture)
        calls[f"module/{i}"] = partial(shared.extract(architecture).train(), images)
    endless = rounds(calls, calls["module/0"], seed=seed)
    done = [next(endless) for _ in trange(HOST_ROUNDS, desc="host time", unit="round")]
    ms = {name: 1e3 * float(np.median([r.seconds[name] for r in done])) for name in calls}
    pairs = [(ms[f"sliced/{i}"], ms[f"module/{i}"]) for i in range(len(students))]
    sliced, module = np.median(pairs, axis=0)
    slicing = float(np.median([a - b for a, b in pairs]))
    return {"sliced": float(sliced), "module": float(module), "slicing": slicing}


def main(settings: Settings) -> None:
    """Time, print a table and write it with its provenance."""
    processes, space = join_processes(), preset_space(settings.preset, 10)
    if processes.device.type != settings.device:
        there = "hide the GPU with CUDA_VISIBLE_DEVICES=" if settings.device == "cpu" else "no GPU"
        raise SystemExit(f"step: --device {settings.device}: {there}")
    calls = steps(settings, space)
    if settings.device == "cuda":
        torch.cuda.set_sync_debug_mode(settings.sync_debug_mode)
    endless = rounds(calls, calls[STATIC], runs=1, seed=settings.seed)
    done = [next(endless) for _ in trange(settings.rounds, desc="steps", unit="round")]
    memory = {name: peak_bytes(call, settings.device) for name, call in calls.items()}
    busy = {name: busy_share(call, settings.device) for name, call in calls.items()}
    rows = {
        name: {
            "ratio": float(np.median([r.seconds[name] / r.seconds[STATIC] for r in done])),
            "memory_mib": memory[name] / 2**20,
            "memory_ratio": memory[name] / memory[STATIC],
            "busy": busy[name],
        }
        for name in calls
    }
    if not processes.is_main_process:
        return
    for name, row in rows.items():
        print(
            f"{name:22} {row['ratio']:.2f}x  "
            f"{row['memory_mib']:7.1f} MiB  {row['memory_ratio']:.2f}x"
        )
    host = host_ms(space, settings.seed)
    print("host ms a student: " + ", ".join(f"{name} {ms:.2f}" for name, ms in host.items()))
    facts = {
        "static_largest_ms": reference_ms(done),
        "host_ms": host,
        "largest_macs": parameters_and_macs(space, largest_of(space, 0))[1],
        "steps": rows,
    }
    name = settings.preset
    if settings.device == "cuda":
        name = f"{name}, {torch.cuda.get_device_name()}"
    if processes.num_processes > 1:
        name = f"{name}, {processes.num_processes} processes"
    stored = json.loads(settings.out.read_text()) if settings.out.exists() else {}
    write_json(settings.out, stored | {name: provenance("step", settings) | facts})


if __name__ == "__main__":
    main(tyro.cli(Settings))
