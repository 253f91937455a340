"""Shorter arithmetic inside the networks: nearly the same gradients, weights and losses in fp32."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy

from base.phase import Phase
from base.precision import Precision, autocast
from kd.batches import Batch, LabelOutputs, LoaderSettings, endless
from kd.evaluate import accuracy, predict
from kd.fit import FitSettings, fit
from kd.images.splits import Data, DataSettings, load_data
from kd.loss import label_loss
from supernet.alpha import Alpha, LatencyMultiplier
from supernet.latency_table import LatencyTable
from supernet.space import SearchSpace
from supernet.supernet import Supernet
from supernet.training.steps import AlphaDraw, AlphaState, alpha_step, w_step
from tests.labelled import Labelled

CPU = torch.device("cpu")


def batch() -> Labelled:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(16, 3, 8, 8, generator=generator)
    return Labelled(images, torch.randint(3, (16,), generator=generator))


def loss_of_fp32(logits: Tensor, batch: Labelled) -> Tensor:
    assert logits.dtype == torch.float32
    return cross_entropy(logits, batch.labels)


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data(DataSettings(resolution=(8, 8), limit=400))


def trained(data: Data, precision: Precision) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 10))

    def loss(logits: Tensor, batch: Batch) -> Tensor:
        assert logits.dtype == torch.float32
        return label_loss(logits, batch)

    settings = FitSettings(6, learning_rate=0.05, precision=precision)
    batches = partial(
        endless,
        data.train,
        LabelOutputs(data.train, 10),
        LoaderSettings(32, 6),
        torch.device("cpu"),
    )
    fit(model, batches, loss, settings, 10, Phase("test"))
    return model


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_arithmetic_is_that_of_the_name(precision: Precision, dtype: torch.dtype) -> None:
    with autocast(CPU, precision):
        assert nn.Conv2d(3, 4, 1)(torch.rand(1, 3, 2, 2)).dtype == dtype
    assert nn.Conv2d(3, 4, 1)(torch.rand(1, 3, 2, 2)).dtype == torch.float32


def test_a_network_learns_in_bf16_and_repeats_bitwise(data: Data) -> None:
    (a, b), full = (trained(data, "bf16") for _ in range(2)), trained(data, "fp32")
    assert all(torch.equal(b.state_dict()[name], part) for name, part in a.state_dict().items())
    assert not torch.equal(a[0].weight, full[0].weight)
    assert all(p.dtype == torch.float32 for p in a.parameters())
    assert accuracy(*predict(a, data.test, 100)) > 0.85


def test_gradients_of_w_are_nearly_those_of_fp32(space: SearchSpace) -> None:
    def gradient(precision: Precision) -> Tensor:
        torch.manual_seed(0)
        supernet = Supernet(space).train()
        still = torch.optim.SGD(supernet.parameters(), lr=0.0)
        students = [space.largest(), space.smallest()]
        w_step(supernet, students, [batch(), batch()], loss_of_fp32, still, precision)
        return torch.cat([p.grad.flatten() for p in supernet.parameters() if p.grad is not None])

    full, short = gradient("fp32"), gradient("bf16")
    assert not torch.equal(full, short)
    assert cosine_similarity(full, short, dim=0) > 0.9


def test_gradients_of_alpha_are_nearly_those_of_fp32(
    space: SearchSpace, table: LatencyTable
) -> None:
    def gradient(precision: Precision) -> Tensor:
        torch.manual_seed(0)
        supernet, alpha = Supernet(space).train().requires_grad_(False), Alpha(space, 1.0, 8.0, 3)
        still = torch.optim.SGD(alpha.parameters(), lr=0.0)
        state = AlphaState(alpha, LatencyMultiplier(alpha.log_knots, 0.1), still)
        draw = AlphaDraw(2.0, 1.0, torch.Generator().manual_seed(0))
        alpha_step(supernet, state, table, draw, [batch()], loss_of_fp32, precision)
        return alpha.logits.grad.flatten()

    full, short = gradient("fp32"), gradient("bf16")
    assert not torch.equal(full, short)
    assert cosine_similarity(full, short, dim=0) > 0.9
