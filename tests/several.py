"""What test_processes runs, in one process and in several: every kind of training, a few steps.

torchrun --nproc-per-node 2 -m tests.several FOLDER ACCUMULATE
"""

import copy
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from accelerate import PartialState
from torch import nn

from base.phase import Phase
from base.processes import gather_dict, join_processes, rank_shard
from base.tensor_files import write_tensors
from export.int8.fake_quantised import fake_quantised
from kd.batches import Batch, LabelOutputs, LoaderSettings, endless
from kd.fit import FitSettings, fit
from kd.images.splits import DataSettings, Split, load_data
from kd.loss import label_loss
from kd.outputs_writer import store_outputs
from kd.stored_outputs import StoredOutputs, stored_shape
from supernet.choice.programme import programme
from supernet.latency.measurement import find_or_measure_table
from supernet.sampling import fair_sampler
from supernet.supernet import Supernet
from supernet.training.alpha import AlphaSettings, train_alpha
from supernet.training.weights import WSettings, train_w
from tests.tiny import PATIENCE, UNIT, tiny_space, tiny_table

BATCH, STEPS = 16, 4
VIEWS = (0, 1, None)


def main(folder: Path, accumulate: int) -> None:
    """Train a network, shared weights and alpha; write what each process ends with."""
    processes = join_processes()
    torch.set_num_threads(1)
    data = load_data(DataSettings(resolution=(8, 8), limit=200))
    stream = partial(
        endless,
        data.train,
        LabelOutputs(data.train, 10),
        LoaderSettings(BATCH, 2),
        torch.device("cpu"),
    )
    lines: dict[str, torch.Tensor] = {}

    def log(phase: str, step: int, **numbers: float) -> None:
        lines.update(
            {f"{phase}.{step}.{name}": torch.tensor(float(v)) for name, v in numbers.items()}
        )

    def in_float64(start: int) -> Iterator[Batch]:
        for batch in stream(start=start):
            yield batch._replace(images=batch.images.double())

    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)
    network = nn.Sequential(*layers)
    settings = FitSettings(2, 0.05, accumulate=accumulate)
    fit(network, stream, label_loss, settings, STEPS, Phase("fit", partial(log, "fit")))
    tuned = copy.deepcopy(network)
    with fake_quantised(tuned):
        fit(tuned, stream, label_loss, settings, STEPS, Phase("int8", partial(log, "int8")))
        ranges = {name: part for name, part in tuned.named_buffers() if name.endswith("_range")}

    space = tiny_space(classes=10)
    table = tiny_table(space)
    problem = programme(table)
    supernet = Supernet(space)
    sampler = fair_sampler(table, *problem.range_ms())
    own = WSettings(STEPS, 0.05, 1e-4, "fp32", 0, accumulate)
    train_w(supernet, sampler, stream, label_loss, own, Phase("w", partial(log, "w")))
    own = AlphaSettings(STEPS, 0.05, 0.05, 2.0, 0.5, 3, "fp32", 0, accumulate)
    phase, log_choices = Phase("alpha", partial(log, "alpha")), partial(log, "choices")
    # Adam makes much of rounding where a gradient is almost 0: in float64 there is next to none.
    supernet.double()
    alpha = train_alpha(supernet, problem, in_float64, label_loss, own, phase, log_choices)

    found = {f"network.{name}": part for name, part in network.state_dict().items()}
    found |= {
        f"tuned.{name}": part for name, part in [*tuned.state_dict().items(), *ranges.items()]
    }
    found |= {f"w.{name}": part for name, part in supernet.named_parameters()}
    found |= {f"alpha.{name}": part for name, part in alpha.state_dict().items()}
    stored = store(data.train, folder, processes)
    found |= {f"stored.{view}": stored.rows(view, torch.arange(len(data.train))) for view in VIEWS}
    for count in (1, 7):  # fewer than there are processes, and no multiple of them
        squares = gather_dict({n: n * n for n in rank_shard(range(count))})
        found[f"squares.{count}"] = torch.tensor([squares[n] for n in range(count)])
    name = f"{processes.num_processes}-{processes.process_index}.safetensors"
    write_tensors(folder / name, {n: p.detach() for n, p in (found | lines).items()}, {})
    if processes.num_processes > 1:
        with processes.main_process_first():
            measured = find_or_measure_table(folder / "run", space, UNIT, PATIENCE, 0)
        (folder / f"table-{processes.process_index}").write_text(measured.fingerprint())
    processes.wait_for_everyone()


def store(split: Split, folder: Path, processes: PartialState) -> StoredOutputs:
    """Store what a teacher answers; write how many images this process has asked it of."""
    torch.manual_seed(1)
    teacher, asked = nn.Sequential(nn.Flatten(), nn.Linear(192, 10)).requires_grad_(False), []

    def probabilities(images: torch.Tensor) -> torch.Tensor:
        asked.append(len(images))
        return teacher(images).softmax(dim=1)

    shape, size = stored_shape(split, len(VIEWS) - 1, 10, 4), processes.num_processes
    place = folder / f"outputs-{size}"
    stored = store_outputs(probabilities, split, shape, place, {}, BATCH)
    (folder / f"asked-{size}-{processes.process_index}").write_text(str(sum(asked)))
    return stored


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
