"""Compiled networks learn what they would learn anyway."""

import shutil
from dataclasses import replace
from itertools import repeat

import pytest
import torch
from torch import nn

from base.errors import UserError
from base.phase import Phase
from kd.batches import Batch
from kd.fit import FitSettings, fit
from kd.loss import label_loss
from kd.run.bounds import check_settings
from kd.run.config import SearchConfig, TrainConfig
from supernet.alpha import Alpha
from supernet.choice.programme import programme
from supernet.space import SearchSpace
from supernet.supernet import Supernet
from supernet.training.alpha import AlphaSettings, train_alpha
from tests.tiny import tiny_table

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler here")


def batch() -> Batch:
    images = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.eye(3)[torch.arange(8) % 3]
    return Batch(images, labels, labels)


@needs_compiler
def test_a_student_learns_the_same() -> None:
    learned = []
    for wanted in (False, True):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3)
        )
        before = network[0].weight.clone()
        settings = FitSettings(1, compile=wanted)
        fit(network, lambda _: repeat(batch()), label_loss, settings, 3, Phase("student"))
        assert not torch.equal(network[0].weight, before)
        learned.append(network.state_dict())
    assert learned[0].keys() == learned[1].keys()
    for name, value in learned[0].items():
        torch.testing.assert_close(learned[1][name], value, rtol=1e-4, atol=1e-5)


@needs_compiler
def test_alpha_learns_the_same(space: SearchSpace) -> None:
    table = tiny_table(replace(space, stages=space.stages[:1]))
    settings = AlphaSettings(
        alpha_steps=3,
        alpha_learning_rate=0.05,
        multiplier_rate=0.05,
        tau_start=5.0,
        tau_end=0.5,
        knots=3,
        precision="fp32",
        seed=0,
    )

    def trained(wanted: bool) -> Alpha:
        torch.manual_seed(0)
        supernet, own = Supernet(table.space), replace(settings, compile=wanted)
        problem, same = programme(table), batch()
        return train_alpha(
            supernet, problem, lambda _: repeat(same), label_loss, own, Phase("alpha")
        )

    plain, compiled = trained(False), trained(True)
    assert plain.logits.abs().max() > 0.1
    # Adam makes much of rounding where a gradient is almost 0.
    torch.testing.assert_close(compiled.logits, plain.logits, rtol=0.0, atol=0.005)


@pytest.mark.parametrize("config", [TrainConfig(compile=True), SearchConfig(compile=True)])
def test_a_missing_compiler_is_named(
    config: TrainConfig | SearchConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"--compile: no C\+\+ compiler no-such-compiler is here"):
        check_settings(config)
