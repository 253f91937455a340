"""Who is best within a budget: rivals that are left out, trained, compared image by image."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from export.timing.stopwatch import Patience
from export.timing.unit_of_work import UnitOfWork
from kd.rivals.compare import (
    ROUGHLY,
    WITHIN,
    Comparison,
    compare_rivals,
    file_name,
    fill_budget,
    paired_difference,
    ship_rivals,
    verdict,
)
from kd.rivals.rival import AUTO, RUNGS, Outline, ladders
from kd.run.search_config import SearchConfig
from kd.student.retraining import Retraining, Trained
from tests.tiny import refuse

OUTLINE = Outline(image_shape=(3, 16, 16), classes=2, strides=(1, 2, 2))
LABELS = torch.tensor([0, 1, 1, 1] * 5)


class Constant(nn.Module):
    """Tells the first `right` images of LABELS right, and no other."""

    def __init__(self, right: int) -> None:
        super().__init__()
        self.right = nn.Parameter(torch.tensor(float(right)))

    def answers(self) -> tuple[Tensor, Tensor]:
        known = torch.arange(len(LABELS)) < int(self.right)
        told = torch.where(known, LABELS, 1 - LABELS)
        return nn.functional.one_hot(told, 2).float(), LABELS


class Trainer:
    """In place of a retrainer: a network is worth one image more once it is trained."""

    def __init__(self, config: SearchConfig | None = None) -> None:
        self.config = config or SearchConfig(rivals=("plain:1",))
        self.trained: list[Retraining] = []

    def train(self, own: Retraining) -> Trained:
        self.trained.append(own)
        with torch.no_grad():
            own.network.right += 1
        return Trained(own.network)

    def test_answers(self, trained: Trained) -> tuple[Tensor, Tensor]:
        return trained.network.answers()


def test_rivals_within_the_budget_are_trained_and_the_best_is_first() -> None:
    rivals = {"plain:1": Constant(10), "slow": Constant(19), "resnet:2": Constant(15)}
    ms = {"plain:1": 4.0, "slow": 5.01, "resnet:2": 5.0}
    own, trainer = Retraining("5ms", "student", Constant(13), "labels"), Trainer()

    def measure(patience: Patience, networks: Mapping[str, nn.Module]) -> dict[str, float]:
        assert patience == SearchConfig().patience()
        return {name: ms[name] for name in networks}

    found = compare_rivals(rivals, OUTLINE, own, Trained(own.network), 5.0, measure, trainer)
    assert [c.name for c in found] == ["resnet:2", "plain:1", "slow"]
    assert [c.test_accuracy for c in found] == [16 / 20, 11 / 20, None]
    # Of the first 16 images 4 are of class 0, of the first 11 three.
    balanced = [(4 / 5 + 12 / 15) / 2, (3 / 5 + 8 / 15) / 2, None]
    assert [c.test_balanced_accuracy for c in found] == pytest.approx(balanced)
    assert [c.measured_ms for c in found] == [5.0, 4.0, 5.01]
    assert found[0].ahead == pytest.approx(3 / 20)
    assert found[1].ahead == pytest.approx(-2 / 20)
    assert [t.name for t in trainer.trained] == ["5ms-plain-1", "5ms-resnet-2"]
    assert {t.learns_from for t in trainer.trained} == {"labels"}
    # What one budget has trained, the next one does not start from.
    assert [r.right.item() for r in rivals.values()] == [10, 19, 15]
    assert "network" not in found[0].facts()


def test_without_rivals_nothing_is_asked() -> None:
    own = Retraining("5ms", "student", Constant(13), "labels")
    assert compare_rivals({}, OUTLINE, own, Trained(own.network), 5.0, refuse, Trainer()) == []


def test_auto_adds_one_of_every_family(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them over the budget here: then the fastest is told, and left out."""
    trainer = Trainer(SearchConfig(rivals=("plain:1", AUTO)))
    own = Retraining("5ms", "student", Constant(13), "labels")
    monkeypatch.setattr("kd.rivals.compare.ladders", lambda _: {"resnet": ["resnet:4-8-16"]})

    def measure(_: Patience, networks: Mapping[str, nn.Module]) -> dict[str, float]:
        return dict.fromkeys(networks, 5.1)

    found = compare_rivals(
        {"plain:1": Constant(1)}, OUTLINE, own, Trained(own.network), 5.0, measure, trainer
    )
    assert [(c.name, c.ahead) for c in found] == [("plain:1", None), ("resnet:4-8-16", None)]
    assert trainer.trained == []


def test_the_difference_is_paired_by_image() -> None:
    """By hand: the rival tells 2 images right that the student does not, and 1 the other way."""
    labels = torch.zeros(5, dtype=torch.long)
    right = {"rival": [1, 1, 1, 0, 0], "student": [1, 0, 0, 1, 0]}
    logits = {n: torch.tensor([[float(r), 0.5] for r in own]) for n, own in right.items()}
    ahead, error = paired_difference((logits["rival"], labels), (logits["student"], labels))
    apart = np.array([0, 1, 1, -1, 0])
    assert ahead == pytest.approx(apart.mean())
    assert error == pytest.approx(apart.std(ddof=1) / math.sqrt(5))


@pytest.mark.parametrize("target_ms", [3.0, 37.0, 100.0, 1e6])
def test_the_slowest_rung_within_the_budget_is_found(target_ms: float) -> None:
    """Against all rungs, on a device that takes as many milliseconds as the first convolution."""
    calls = []

    def measure(patience: Patience, networks: Mapping[str, nn.Module]) -> dict[str, float]:
        assert patience == ROUGHLY
        calls.append(list(networks))
        return {name: first_width(network) for name, network in networks.items()}

    found = fill_budget(OUTLINE, target_ms, measure, 0)
    fitting = [rung for rung in RUNGS if rung <= WITHIN * target_ms] or [RUNGS[0]]
    assert f"resnet:{fitting[-1]}-{2 * fitting[-1]}-{4 * fitting[-1]}" in found
    assert f"plain:{fitting[-1]}-{4 * fitting[-1]}-{8 * fitting[-1]}" in found
    assert len(found) == len(ladders(OUTLINE))
    assert len(calls) <= 4 * len(found)


def first_width(network: nn.Module) -> float:
    return float(next(m for m in network.modules() if isinstance(m, nn.Conv2d)).out_channels)


def test_the_verdict_is_plain() -> None:
    slow, worse = Comparison("slow", 9.0, 1), Comparison("worse", 4.0, 1, 0.7, -0.1, 0.02)
    equal, better = (
        Comparison(n, 4.0, 1, 0.8, d, 0.01) for n, d in (("same", 0.0), ("best", 0.02))
    )
    assert verdict([slow], 5.0) == "no rival is within 5 ms: the student has none"
    assert verdict([worse, slow], 5.0).startswith("the student is best: 10.00 ± 2.00 points")
    close = Comparison("close", 4.0, 1, 0.8, -0.01, 0.02)
    assert "1.00 ± 2.00 points of the test split, which may be chance, ahead of" in verdict(
        [close], 5.0
    )
    assert verdict([equal, worse], 5.0) == "the student and same are equal within 5 ms"
    said = verdict([better, equal, worse], 5.0)
    assert said.startswith(
        "RIVAL IS BETTER: best by 2.00 ± 1.00 points of the test split within 5 ms"
    )


def test_trained_rivals_are_shipped(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    found = [
        Comparison("plain:1-2", 4.0, 1, 0.7, 0.1, 0.02, Trained(network)),
        Comparison("slow", 9.0, 1),
    ]
    ship_rivals(found, tmp_path, UnitOfWork(1, (16, 16)), {"classes": "[]"})
    assert [path.name for path in tmp_path.iterdir()] == ["plain-1-2.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "plain-1-2.onnx")
    images = torch.rand(3, 3, 16, 16)
    (logits,) = session.run(None, {"images": images.numpy()})
    np.testing.assert_allclose(logits, network(images).detach().numpy(), atol=1e-5)
    assert session.get_modelmeta().custom_metadata_map["rival"] == "plain:1-2"
    assert "fp32" in session.get_modelmeta().custom_metadata_map["unit_of_work"]


def test_names_become_names_of_files() -> None:
    assert file_name("timm:mobilenetv3_small_100") == "timm-mobilenetv3_small_100"
    assert file_name("plain:8-16-32") == "plain-8-16-32"
    assert "/" not in file_name("timm:../../x")
