"""Candidates are ranked by what they are with shared weights, the best by what they become."""

import pytest
import torch
from torch import nn

from kd.config import SearchConfig, TrainConfig
from kd.data import Data, load_data
from kd.evaluate import calibration_images, rate
from kd.prepare import Teaching
from kd.targets import Labels
from kd.trial import ranked

SETTINGS = TrainConfig(limit=200, batch=32, views=2, guide="labels")


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data(SETTINGS.data_settings(8))


def student(width: int) -> nn.Module:
    torch.manual_seed(width)
    convolution = nn.Conv2d(3, width, 3, padding=1)
    return nn.Sequential(
        convolution, nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, 10)
    )


def scores(data: Data, trials: int, extract: object = student) -> dict[int, tuple]:
    taught = Teaching(Labels(data.train, 10), Labels(data.search, 10), None)
    config = SearchConfig(trials=trials, trial_epochs=3)
    return ranked([1, 2, 4, 8], extract, config, SETTINGS, data, taught)


def test_without_trials_shared_weights_decide(data: Data) -> None:
    found = scores(data, trials=0)
    images, labels = calibration_images(data.train, 32, 0), Labels(data.search, 10)
    loss = SETTINGS.loss("labels")
    for width, score in found.items():
        assert score == (True, *rate(student(width), images, data.search, labels, loss))


def test_the_best_are_tried_and_come_first(data: Data) -> None:
    shared, found = scores(data, trials=0), scores(data, trials=2)
    tried = {width for width, score in found.items() if not score[0]}
    assert tried == set(sorted(shared, key=lambda width: shared[width])[:2])
    assert set(sorted(found, key=lambda width: found[width])[:2]) == tried
    for width, (untried, loss, _) in found.items():
        if untried:
            assert found[width] == shared[width]
        else:
            assert loss < shared[width][1] - 0.3


def test_more_trials_than_candidates(data: Data) -> None:
    assert not any(untried for untried, *_ in scores(data, trials=9).values())


def test_two_rankings_are_the_same_to_the_bit(data: Data) -> None:
    assert scores(data, trials=2) == scores(data, trials=2)


def test_a_candidate_starts_from_what_it_is_given_and_leaves_it(data: Data) -> None:
    kept = student(4)
    before = {name: part.clone() for name, part in kept.state_dict().items()}

    def extract(_: int) -> nn.Module:
        copy = student(4)
        copy.load_state_dict(kept.state_dict())
        return copy

    scores(data, 4, extract)
    assert all(torch.equal(part, before[name]) for name, part in kept.state_dict().items())
