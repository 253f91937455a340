"""Compiled networks learn what they would learn anyway."""

import shutil
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
from kd.run.search_config import SearchConfig

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


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"--compile: no C\+\+ compiler no-such-compiler is here"):
        check_settings(SearchConfig(compile=True))
