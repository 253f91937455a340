"""Answers, scores and recalibrated BatchNorm."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kd.batches import Batch
from kd.evaluate import (
    accuracy,
    balanced_accuracy,
    calibration_images,
    predict,
    recalibrate,
    scores,
    scores_recalibrated,
)
from kd.images.splits import Data, DataSettings, load_data
from kd.loss import kd_loss
from kd.outputs_writer import store_outputs
from kd.stored_outputs import StoredOutputs, stored_shape
from tests.traffic import Traffic


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data(DataSettings(resolution=(8, 8), limit=60))


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 10)
    )


def targets_of(data: Data, folder: Path) -> StoredOutputs:
    """What a model like the student says of the test images."""
    network, shape = model().eval(), stored_shape(data.test, 0, 10, 10)
    return store_outputs(
        *(lambda images: network(images).softmax(dim=1).detach(), data.test, shape, folder, {})
    )


def test_balanced_accuracy_equals_a_loop() -> None:
    draws = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 90 + [1] * 8 + [3] * 2)
    logits = torch.randn(100, 5, generator=draws) + 2 * torch.eye(5)[labels]
    shares = []
    for label in (0, 1, 3):
        right = [int(row.argmax()) == label for row in logits[labels == label]]
        shares.append(sum(right) / len(right))
    assert balanced_accuracy(logits, labels) == pytest.approx(sum(shares) / 3)


def test_accuracy_counts_right_answers() -> None:
    logits = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0], [5.0, 4.0]])
    assert accuracy(logits, torch.tensor([1, 0, 0, 0])) == 0.75


def test_predict_is_in_eval_mode_in_order_and_restores_every_mode(data: Data) -> None:
    network = model().train()
    network[1].eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    logits, labels = predict(network, data.test, 7)
    assert [m.training for m in network] == [True, False, True, True, True]
    assert all(torch.equal(before[n], t) for n, t in network.state_dict().items())
    assert torch.equal(labels, data.test.labels)
    assert not logits.requires_grad
    network.eval()
    expected = torch.stack([network(data.test[i][0][None])[0] for i in range(60)])
    assert torch.allclose(logits, expected, atol=1e-5)


def test_modes_come_back_after_an_error(data: Data) -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Linear(99, 1))
    with pytest.raises(RuntimeError):
        predict(network, data.test, 7)
    assert network[0].training


def test_score_is_the_exact_mean_whatever_the_batch(data: Data, tmp_path: Path) -> None:
    network = model()
    targets = targets_of(data, tmp_path / "test")
    loss = partial(kd_loss, kd_temperature=4.0, kd_weight=0.9)
    logits, labels = predict(network, data.test, 60)
    shares = torch.eye(10)[labels]
    whole = Batch(torch.empty(0), shares, targets.rows(None, torch.arange(60)))
    for batch in (60, 7, 1):  # 60 = 8 * 7 + 4: the last batch is smaller
        ((value, share),) = scores([network], data.test, targets, loss, batch)
        assert value == pytest.approx(loss(logits, whole).item(), rel=1e-5)
        assert share == pytest.approx(accuracy(logits, labels))


def test_score_reads_plain_images(data: Data, tmp_path: Path) -> None:
    targets = targets_of(data, tmp_path / "test")
    loss = partial(kd_loss, kd_temperature=4.0, kd_weight=0.9)
    network = model()
    views = (data.test.view(0), data.test)
    found = [scores([network], view, targets, loss, 60) for view in views]
    assert found[0] == found[1]


def test_scores_are_read_off_their_device_once(data: Data, tmp_path: Path) -> None:
    """However many models there are."""
    targets = targets_of(data, tmp_path / "test")
    loss = partial(kd_loss, kd_temperature=4.0, kd_weight=0.9)

    def reads(models: int, batch: int) -> int:
        with Traffic() as traffic:
            scores([model() for _ in range(models)], data.test, targets, loss, batch)
        return len(traffic.read)

    assert reads(1, 7) == reads(3, 7)  # decoding reads, too


def test_many_are_scored_as_each_alone_and_keep_their_modes(data: Data, tmp_path: Path) -> None:
    """On images that are decoded once."""
    targets = targets_of(data, tmp_path / "test")
    loss = partial(kd_loss, kd_temperature=4.0, kd_weight=0.9)
    many = [model(), model().train(), model()]
    with torch.no_grad():
        many[1][-1].weight.mul_(-1)
    modes = [network.training for network in many]
    found = scores(many, data.test, targets, loss, 7)
    assert found == [scores([one], data.test, targets, loss, 7)[0] for one in many]
    assert found[0] == found[2] != found[1]
    assert [network.training for network in many] == modes


@pytest.mark.parametrize("training", [True, False])
def test_recalibrated_statistics_equal_a_hand_computation(training: bool) -> None:
    network = nn.Sequential(nn.BatchNorm2d(2), nn.Flatten()).train(training)
    network[0].running_mean.fill_(7.0)
    network[0].momentum = 0.03
    generator = torch.Generator().manual_seed(0)
    batches: list[Tensor] = [torch.randn(6, 2, 3, 3, generator=generator) * s for s in (1, 2, 4)]
    weight = network[0].weight.clone()
    recalibrate(network, iter(batches))
    for channel in range(2):
        values = [batch[:, channel].flatten().double() for batch in batches]
        means = [sum(v.tolist()) / 54 for v in values]
        spreads = [((v - m) ** 2).sum().item() / 53 for v, m in zip(values, means, strict=True)]
        assert network[0].running_mean[channel].item() == pytest.approx(sum(means) / 3, abs=1e-6)
        assert network[0].running_var[channel].item() == pytest.approx(sum(spreads) / 3, rel=1e-5)
    assert network.training is training
    assert network[0].momentum == 0.03
    assert torch.equal(network[0].weight, weight)
    assert network[0].weight.grad is None


def test_rate_recalibrates_before_it_scores(data: Data, tmp_path: Path) -> None:
    """The same as doing it by hand, and unlike scoring with the statistics as they were."""
    targets = targets_of(data, tmp_path / "targets")
    loss = partial(kd_loss, kd_temperature=2.0, kd_weight=0.5)
    images = calibration_images(data.train, 16, seed=0, count=2)
    rated = scores_recalibrated([model()], images, data.test, targets, loss)
    by_hand = model()
    untouched = scores([by_hand], data.test, targets, loss, 256)
    recalibrate(by_hand, images)
    assert rated == scores([by_hand], data.test, targets, loss, 256) != untouched


def test_calibration_images_are_whole_batches_of_the_split_itself(data: Data) -> None:
    images = calibration_images(data.train, 16, seed=0, count=2)
    assert [tuple(batch.shape) for batch in images] == [(16, 3, 8, 8)] * 2
    plain = torch.stack([image for image, _, _ in data.train.view(None)])
    for image in torch.cat(images):
        assert (plain == image).flatten(1).all(1).any()
    again = calibration_images(data.train, 16, seed=0, count=2)
    assert all(torch.equal(a, b) for a, b in zip(images, again, strict=True))
    assert len(calibration_images(data.train, 10_000, seed=0)) == 1
