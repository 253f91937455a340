"""Every number among the settings has bounds, and what lies outside is named in one line."""

import dataclasses
import math
from dataclasses import replace
from pathlib import Path

import pytest

from base.errors import UserError
from kd.images.splits import load_data
from kd.run.bounds import BOUNDS, check_batches, check_parts, check_settings
from kd.run.recipes import SEARCH_RECIPES, TRAIN_RECIPES
from kd.run.search_config import SearchConfig
from kd.run.train_config import TrainConfig

CONFIGS = (TrainConfig(), SearchConfig())


def numbers(config: TrainConfig | SearchConfig) -> set[str]:
    found = set()
    for field in dataclasses.fields(config):
        plain = isinstance(field.default, int | float) and not isinstance(field.default, bool)
        if plain or field.name in ("limit", "teacher_resolution", "teacher_resize", "workers"):
            found.add(field.name)
    return found


def test_every_number_has_bounds_and_nothing_else() -> None:
    assert set().union(*map(numbers, CONFIGS)) == BOUNDS.keys()


@pytest.mark.parametrize("config", TRAIN_RECIPES.values())
def test_recipes_are_within_them(config: TrainConfig) -> None:
    check_settings(config)


@pytest.mark.parametrize("config", SEARCH_RECIPES.values())
def test_recipes_of_a_search_lack_the_budget_alone(config: SearchConfig) -> None:
    with pytest.raises(UserError, match="--target-latency is missing"):
        check_settings(config)
    check_settings(replace(config, target_latency=(20.0,)))
    check_settings(replace(config, list=True))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        *[(name, 0, "a whole number above 0") for name in ("teacher_epochs", "w_epochs", "views")],
        *[(name, -3, "a whole number above 0") for name in ("limit", "batch", "alpha_steps")],
        *[(name, 0, "a whole number above 0") for name in ("alpha_batch", "most_classes")],
        *[(name, 0, "a whole number above 0") for name in ("latency_batch", "latency_threads")],
        ("knots", 1, "a whole number above 1"),
        *[(name, -1, "0 or more") for name in ("seed", "workers", "weight_decay")],
        *[(name, -0.5, "0 or more") for name in ("latency_spread", "latency_seconds")],
        *[(name, -1.0, "0 or more") for name in ("multiplier_rate", "checkpoint_seconds")],
        *[(name, -8, "0 or more") for name in ("teacher_resolution", "teacher_resize")],
        *[(name, 0.0, "a number above 0") for name in ("w_learning_rate", "kd_temperature")],
        *[(name, -0.1, "a number above 0") for name in ("teacher_learning_rate", "tau_end")],
        *[("alpha_learning_rate", bad, "a number above 0") for bad in (math.nan, math.inf)],
        ("channels", 2, "1 or 3"),
        ("kd_weight", 1.1, "a number from 0 to 1"),
        ("search_fraction", 0.0, "a number between 0 and 1"),
        ("test_fraction", 1.0, "a number between 0 and 1"),
    ],
)
def test_train_settings_out_of_bounds(name: str, value: float, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        check_settings(replace(TrainConfig(), **{name: value}))
    assert str(caught.value) == f"--{name.replace('_', '-')} {value}: expected {expected}"


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", 0), ("candidates", 0), ("finalists", -1), ("learning_rate", math.nan)],
)
def test_search_settings_out_of_bounds(name: str, value: float) -> None:
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')} {value}: expected"):
        check_settings(replace(SearchConfig(), **{name: value}))


def test_batches_larger_than_their_split() -> None:
    config = TrainConfig(limit=200, batch=160, alpha_batch=40)
    data = load_data(config.data_settings((16, 16)))
    assert (len(data.train), len(data.search)) == (160, 40)
    check_batches(config, data, 1)
    with pytest.raises(UserError, match="--batch 161: more than the 160 images of the train split"):
        check_batches(replace(config, batch=161), data, 1)
    with pytest.raises(UserError, match="--alpha-batch 41: more than the 40 images of the search"):
        check_batches(replace(config, alpha_batch=41), data, 1)


def test_batches_that_cannot_be_parted() -> None:
    config = TrainConfig(limit=200, batch=32, alpha_batch=24, accumulate=2)
    data = load_data(config.data_settings((16, 16)))
    check_batches(config, data, 4)
    with pytest.raises(
        UserError, match=r"--batch 36: 4 processes .* part it in 8; it has to be a mult"
    ):
        check_batches(replace(config, batch=36), data, 4)
    with pytest.raises(UserError, match="--alpha-batch 24: 8 processes"):
        check_batches(config, data, 8)


def test_parts_of_fewer_than_four_images_are_refused() -> None:
    """One student of four would learn from none."""
    config = TrainConfig(batch=16, alpha_batch=16, accumulate=2)
    check_parts(config, 2)
    with pytest.raises(UserError, match=r"--batch 16: 4 processes .* in 8 of 2 images; exp"):
        check_parts(config, 4)
    check_parts(replace(config, batch=32, accumulate=4), 2)


def test_the_same_budget_twice_is_one_student() -> None:
    assert SearchConfig(target_latency=(20.0, 5.0, 20.0, 20.0000001)).budgets() == (20.0, 5.0)


@pytest.mark.parametrize("ms", [float("nan"), float("inf"), 0.0, -5.0])
def test_an_architecture_is_taken_to_a_budget_above_0(tmp_path: Path, ms: float) -> None:
    config = SearchConfig(
        architecture=tmp_path / "a" / "students" / "5ms", data="x", run=tmp_path / "b"
    )
    check_settings(config)
    with pytest.raises(UserError, match=r"--target-latency .*: expected milliseconds above 0"):
        check_settings(replace(config, target_latency=(ms,)))


def test_a_start_that_the_search_writes_is_refused(tmp_path: Path) -> None:
    """It would be another one after an interruption, and for the next budget."""
    config = SearchConfig(run=tmp_path, target_latency=(10.0, 20.0))
    students = tmp_path / "students"
    for start in ("20ms", "10ms"):
        with pytest.raises(UserError, match="this search writes into it; copy the folder"):
            check_settings(replace(config, start=str(students / start)))
    check_settings(replace(config, start=str(students / "5ms")))
    check_settings(replace(config, start=str(students / "20ms"), list=True))
    elsewhere = tmp_path / "a" / "students" / "20ms"
    check_settings(replace(config, start=str(elsewhere)))
    there = SearchConfig(architecture=elsewhere, data="x", run=tmp_path)
    with pytest.raises(UserError, match="this search writes into it"):
        check_settings(replace(there, start=str(students / "5ms")))
