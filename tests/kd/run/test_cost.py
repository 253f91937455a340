"""Image passes counted by hand."""

from dataclasses import replace

import pytest

from kd.images.splits import Data, load_data
from kd.run.cost import (
    Passes,
    akd_passes,
    retraining_passes,
    search_cost,
    supernet_passes,
    train_cost,
    trials_passes,
)
from kd.run.search_config import SearchConfig
from kd.run.train_config import TrainConfig

CONFIG = TrainConfig(
    limit=200, batch=32, views=3, w_epochs=5, alpha_steps=7, alpha_batch=8, surveyed=6
)
SURVEY = 6 * (40 + 4 * 32)  # scores on the search split, each after four batches of calibration


@pytest.fixture(scope="module")
def data() -> Data:
    data = load_data(CONFIG.data_settings((16, 16)))
    assert (len(data.train), len(data.search), len(data.test)) == (160, 40, 200)
    return data


def test_supernet_with_stored_outputs(data: Data) -> None:
    """3 views and the plain image of train and search, plain ones of test; 5 steps an epoch."""
    expected = Passes(forward=4 * (160 + 40) + 200 + SURVEY, both=5 * 5 * 32 + 7 * 8)
    assert supernet_passes(CONFIG, data) == expected


def test_supernet_without_a_teacher_at_hand_or_with_it_online(data: Data) -> None:
    both = 5 * 5 * 32 + 7 * 8
    brought = replace(CONFIG, teacher=("stored:somewhere",))
    assert supernet_passes(brought, data) == Passes(SURVEY, both)
    online = replace(CONFIG, teacher_outputs="online")
    assert supernet_passes(online, data) == Passes(both + SURVEY, both)


def test_a_retraining_and_akd(data: Data) -> None:
    assert retraining_passes(SearchConfig(epochs=9), data) == Passes(both=9 * 200)
    assert retraining_passes(SearchConfig(epochs=9), data, True) == Passes(both=(9 + 4) * 200)
    assert akd_passes(data) == Passes(both=10_000 * 5 * 160)


def test_backward_counts_as_two_forward() -> None:
    assert Passes(both=10).over(Passes(forward=15)) == 2.0
    assert Passes(3, 4) + Passes(10, 20) == Passes(13, 24)


def test_what_is_said(data: Data) -> None:
    times = 3 * 8_000_000 / (2008 + 3 * 856)
    said = train_cost(CONFIG, data)
    assert said.startswith("2,008 images forward, 856 forward and backward, once for all budgets")
    assert said.endswith(f"8,000,000 forward and backward, {times:,.0f} times as much")
    said = search_cost(SearchConfig(epochs=9), CONFIG, data, tried=0)
    assert said.startswith("1,800 forward and backward to retrain;")
    assert said.endswith(f"{3 * 18_000 / (2008 + 3 * 856):.2g} times train.py's")


def test_trials_are_counted_and_said(data: Data) -> None:
    """Each of five passes 160 images three times, and is judged on 40."""
    config = SearchConfig(epochs=9, trial_epochs=3)
    assert trials_passes(config, data, 5) == Passes(forward=5 * 40, both=5 * 3 * 160)
    said = search_cost(config, CONFIG, data, tried=5)
    assert said.startswith("200 images forward, 2,400 forward and backward to try 5 students; 1,80")
