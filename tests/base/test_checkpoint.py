"""A phase goes on as if it had never stopped; a checkpoint is whole, its own, and runs no code."""

import hashlib
import io
import itertools
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from base.checkpoint import Checkpoint, Checkpointer, NoCheckpoint
from base.errors import UserError
from base.phase import Phase
from kd.batches import LabelOutputs, LoaderSettings, endless
from kd.fit import FitSettings, fit
from kd.images.splits import DataSettings, load_data
from kd.loss import label_loss
from supernet.choice.programme import programme
from supernet.latency_table import LatencyTable
from supernet.sampling import fair_sampler
from supernet.supernet import Supernet
from supernet.training.alpha import AlphaSettings, train_alpha
from supernet.training.weights import WSettings, train_w
from tests.labelled import Labelled

STEPS = 14
Lines = list[tuple]
Stream = Callable[[int], Iterator]
# A training: (stream's wrapper, checkpoint) -> (final tensors, lines logged).
Training = Callable[[Callable[[Stream], Stream], Checkpointer], tuple[dict[str, Tensor], Lines]]


def made_up(start: int) -> Iterator[Labelled]:
    for seed in itertools.count(start):
        generator = torch.Generator().manual_seed(seed)
        images = torch.rand(8, 3, 8, 8, generator=generator)
        yield Labelled(images, torch.randint(3, (8,), generator=generator))


def loss(logits: Tensor, batch: Labelled) -> Tensor:
    return cross_entropy(logits, batch.labels)


def logger(lines: Lines) -> Callable[..., None]:
    return lambda *place, **numbers: lines.append((*place, numbers))


def fitted(
    wrap: Callable[[Stream], Stream], keeper: Checkpointer
) -> tuple[dict[str, Tensor], Lines]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)
    )
    data, lines = load_data(DataSettings(resolution=(8, 8), limit=150)), []
    stream = partial(
        endless,
        data.train,
        LabelOutputs(data.train, 10),
        LoaderSettings(30, 2),
        torch.device("cpu"),
    )
    settings = FitSettings(epochs=STEPS // 2)
    fit(model, wrap(stream), label_loss, settings, 2, Phase("test", logger(lines), keeper))
    return model.state_dict(), lines


def weights_trained(
    table: LatencyTable, wrap: Callable[[Stream], Stream], keeper: Checkpointer
) -> tuple[dict[str, Tensor], Lines]:
    torch.manual_seed(0)
    supernet, lines = Supernet(table.space), []
    sampler = fair_sampler(table, *programme(table).range_ms())
    settings = WSettings(STEPS, w_learning_rate=0.1, weight_decay=1e-4, precision="fp32", seed=0)
    train_w(supernet, sampler, wrap(made_up), loss, settings, Phase("w", logger(lines), keeper))
    return supernet.state_dict(), lines


def searched(
    table: LatencyTable, wrap: Callable[[Stream], Stream], keeper: Checkpointer
) -> tuple[dict[str, Tensor], Lines]:
    torch.manual_seed(0)
    supernet, lines = Supernet(table.space), []
    settings = AlphaSettings(
        *(STEPS, 0.05, 0.1, 2.0, 0.5, 3),
        precision="fp32",
        seed=0,
    )
    log = logger(lines)
    phase, log_choices = Phase("alpha", partial(log, "alpha"), keeper), partial(log, "choices")
    batches, problem = wrap(made_up), programme(table)
    alpha = train_alpha(supernet, problem, batches, loss, settings, phase, log_choices)
    return alpha.state_dict(), lines


@pytest.fixture(params=["fit", "w", "alpha"])
def training(request: pytest.FixtureRequest, table: LatencyTable) -> Training:
    return {"fit": fitted, "w": partial(weights_trained, table), "alpha": partial(searched, table)}[
        request.param
    ]


def as_it_is(stream: Stream) -> Stream:
    return stream


def stopping_at(step: int) -> Callable[[Stream], Stream]:
    """Batches end in Ctrl-C before step `step`."""

    def wrap(stream: Stream) -> Stream:
        def stopped(start: int) -> Iterator:
            yield from itertools.islice(stream(start), step - start)
            raise KeyboardInterrupt

        return stopped

    return wrap


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("stop", [1, 5, 8, STEPS - 1])
def test_a_training_goes_on_to_the_same_bits(
    training: Training, tmp_path: Path, stop: int, every: int
) -> None:
    """Kept after every step, or every fourth: the steps since are done again."""
    whole, lines = training(as_it_is, NoCheckpoint())
    seconds = itertools.count()

    def checkpoint() -> Checkpoint:
        """The clock is read once when made, once to ask and once to keep."""
        return Checkpoint(tmp_path / "a.pt", {}, 2 * every - 2, lambda: next(seconds))

    with pytest.raises(KeyboardInterrupt):
        training(stopping_at(stop), checkpoint())
    done = checkpoint().done()
    assert done == stop if every == 1 else done < stop
    resumed, further = training(as_it_is, checkpoint())
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], part) for name, part in whole.items())
    steps = [next(place for place in line if isinstance(place, int)) for line in lines]
    assert further == [line for line, step in zip(lines, steps, strict=True) if step >= done]


def test_a_finished_training_is_found_and_not_done_again(
    training: Training, tmp_path: Path
) -> None:
    whole, _ = training(as_it_is, Checkpoint(tmp_path / "a.pt", {}, seconds=1e9))
    again, lines = training(stopping_at(STEPS), Checkpoint(tmp_path / "a.pt", {}, 60))
    assert all(torch.equal(again[name], part) for name, part in whole.items())
    assert lines == []


def kept(path: Path, **identity: str) -> nn.Linear:
    torch.manual_seed(0)
    part = nn.Linear(2, 3)
    Checkpoint(path, identity, 60).save_if_due(5, 5, {"part": part})
    return part


def test_it_is_kept_when_the_time_has_come_and_at_the_end(tmp_path: Path) -> None:
    now, part, path = [0.0], nn.Linear(2, 3), tmp_path / "a.pt"
    checkpoint = Checkpoint(path, {}, 60, lambda: now[0])
    done = []
    for step, seconds in enumerate((10, 59, 60, 61, 119, 120, 130), start=1):
        now[0] = seconds
        checkpoint.save_if_due(step, 7, {"part": part})
        done.append(checkpoint.done())
    assert done == [0, 0, 3, 3, 3, 6, 7]
    checkpoint.remove()
    assert checkpoint.done() == 0


def test_another_identity_begins_anew(tmp_path: Path) -> None:
    part = kept(tmp_path / "a.pt", table="t1")
    other = nn.Linear(2, 3)
    before = other.weight.clone()
    assert Checkpoint(tmp_path / "a.pt", {"table": "t2"}, 60).restore({"part": other}) == 0
    assert torch.equal(other.weight, before)
    assert Checkpoint(tmp_path / "a.pt", {"table": "t1"}, 60).restore({"part": other}) == 5
    assert torch.equal(other.weight, part.weight)


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def write_hashed(path: Path, content: bytes) -> None:
    """Somebody's own content, with the hash that belongs to it."""
    path.write_bytes(hashlib.sha256(content).digest() + content)


HOW = ("truncated", "empty", "a bit", "code", "other things", "other parts")


@pytest.mark.parametrize("how", HOW)
def test_what_is_damaged_is_refused_in_one_line_and_never_run(tmp_path: Path, how: str) -> None:
    path, trap = tmp_path / "a.pt", tmp_path / "trap"
    kept(path)
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-40])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "a bit":
        whole = bytearray(path.read_bytes())
        whole[len(whole) // 2] ^= 4
        path.write_bytes(whole)
    elif how == "code":
        write_hashed(path, pickle.dumps({"identity": {}, "done": 1, "parts": Trap(trap)}))
    elif how == "other things":
        content = io.BytesIO()
        torch.save({"identity": {}, "done": "5", "parts": {}}, content)
        write_hashed(path, content.getvalue())
    part = nn.Linear(2, 4) if how == "other parts" else nn.Linear(2, 3)
    with pytest.raises(UserError, match=r"a\.pt: damaged; remove it, and its phase begins anew"):
        Checkpoint(path, {}, 60).restore({"part": part})
    assert not trap.exists()
