"""Training a network: it learns, it repeats, and it stops when the loss breaks."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from base.errors import UserError
from base.phase import Phase
from kd.batches import Batch, LabelOutputs, LoaderSettings, endless
from kd.evaluate import accuracy, predict
from kd.fit import FitSettings, fit, with_sync_batch_norm
from kd.images.splits import Data, DataSettings, load_data
from kd.loss import label_loss
from tests.traffic import Traffic


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data(DataSettings(resolution=(8, 8), limit=400))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1024, 10),
    )


def batches_of(data: Data) -> Callable[[int], Iterator[Batch]]:
    labels, cpu = LabelOutputs(data.train, 10), torch.device("cpu")
    return partial(endless, data.train, labels, LoaderSettings(32, 6), cpu)


def trained(data: Data, settings: FitSettings) -> tuple[nn.Module, list[dict]]:
    model, lines = network().eval(), []

    def log(step: int, **numbers: float) -> None:
        lines.append({"step": step, **numbers})

    fit(model, batches_of(data), label_loss, settings, 10, Phase("test", log))
    return model, lines


def test_fit_learns_digits_and_logs_every_epoch(data: Data) -> None:
    model, lines = trained(data, FitSettings(epochs=6, learning_rate=0.05))
    assert accuracy(*predict(model, data.test, 100)) > 0.85
    assert [line["step"] for line in lines] == [9, 19, 29, 39, 49, 59]
    assert lines[-1]["loss"] < lines[0]["loss"] / 2
    assert lines[-1]["accuracy"] > lines[0]["accuracy"]
    assert lines[-1]["learning_rate"] < 1e-5 < lines[1]["learning_rate"]
    assert model.training


def test_accuracy_counts_only_images_with_a_label(data: Data) -> None:
    """A network that always says class 0 is right about those of class 0, and no others."""
    seen: list[Tensor] = []

    def half(start: int) -> Iterator[Batch]:
        for batch in batches_of(data)(start):
            labelled = torch.arange(len(batch.labels)) % 2 == 0
            seen.append(batch.labels[labelled].argmax(dim=1))
            yield batch._replace(labels=batch.labels * labelled[:, None])

    def log(step: int, **numbers: float) -> None:
        lines.append(numbers["accuracy"])

    model, lines = nn.Sequential(nn.Flatten(), nn.Linear(192, 10)), []
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.eye(10)[0])
    fit(model, half, label_loss, FitSettings(1, 1e-12), 10, Phase("test", log))
    (found,) = lines
    assert found == pytest.approx((torch.cat(seen) == 0).double().mean().item())


def test_two_seeded_runs_are_bitwise_equal(data: Data) -> None:
    (a, first), (b, second) = (trained(data, FitSettings(epochs=2)) for _ in range(2))
    assert first == second
    assert all(torch.equal(a.state_dict()[n], t) for n, t in b.state_dict().items())
    c, _ = trained(data, FitSettings(epochs=2, learning_rate=0.05))
    assert not torch.equal(a[0].weight, c[0].weight)


def test_batch_norm_over_all_processes_is_that_of_one_which_is_alone(data: Data) -> None:
    """What is trained is the network itself, which stays as it was built."""
    own, _ = trained(data, FitSettings(epochs=1))
    found, _ = trained(data, FitSettings(epochs=1, sync_batch_norm=True))
    assert all(torch.equal(found.state_dict()[n], t) for n, t in own.state_dict().items())
    assert type(found[1]) is nn.BatchNorm2d
    running = with_sync_batch_norm(found)
    assert type(running[1]) is nn.SyncBatchNorm
    for name, tensor in found.state_dict(keep_vars=True).items():
        assert running.state_dict(keep_vars=True)[name] is tensor


def test_a_step_reads_off_its_device_once(data: Data) -> None:
    """Loss and quality together."""
    batch = next(batches_of(data)(0))

    def reads(steps: int) -> int:
        with Traffic() as traffic:
            fit(network(), lambda _: repeat(batch), label_loss, FitSettings(1), steps, Phase("t"))
        return len(traffic.read)

    assert reads(5) - reads(2) == 3


@pytest.mark.parametrize("steps", range(1, 8))
def test_a_run_may_be_of_any_length(data: Data, steps: int) -> None:
    lines = []

    def log(step: int, **_: float) -> None:
        lines.append(step)

    settings = FitSettings(epochs=1)
    fit(network(), batches_of(data), label_loss, settings, steps, Phase("test", log))
    assert lines == [steps - 1]


def test_weight_decay_leaves_biases_and_batchnorm_alone(data: Data) -> None:
    def still(logits: Tensor, batch: Batch) -> Tensor:
        return 0.0 * cross_entropy(logits, batch.labels)

    model = network()
    nn.init.ones_(model[0].bias)
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    settings = FitSettings(epochs=1, weight_decay=0.1)
    fit(model, batches_of(data), still, settings, 10, Phase("test"))
    changed = {n for n, t in model.named_parameters() if not torch.equal(before[n], t)}
    assert changed == {"0.weight", "4.weight"}
    assert model[0].weight.norm() < before["0.weight"].norm()


def test_a_loss_that_is_not_finite_is_a_user_error(data: Data) -> None:
    steps = iter([1.0] * 12 + [float("nan")])

    def breaking(logits: Tensor, batch: Batch) -> Tensor:
        return cross_entropy(logits, batch.labels) * next(steps)

    model = network()
    with pytest.raises(
        UserError, match=r"teacher: loss nan in epoch 2, step 13,.*learning rate 0\.1$"
    ):
        fit(model, batches_of(data), breaking, FitSettings(3), 10, Phase("teacher"))
    assert all(parameter.isfinite().all() for parameter in model.parameters())
