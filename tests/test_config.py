"""Settings of the scripts: to config.json and back."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from export.errors import UserError
from kd.config import SEARCH_RECIPES, TRAIN_RECIPES, TrainConfig, option, settings_of
from kd.config import train_config_of as restored


@pytest.mark.parametrize("preset", TRAIN_RECIPES)
def test_settings_survive_json(preset: str) -> None:
    config = replace(
        TRAIN_RECIPES[preset],
        run=Path("elsewhere"),
        teacher_checkpoint=Path("weights.pt"),
        teacher_mean=(0.1, 0.2, 0.3),
    )
    stored = json.loads(json.dumps(settings_of(config), default=str))
    assert restored(stored, Path("elsewhere")) == config


def test_settings_of_another_version_are_refused() -> None:
    stored = settings_of(TrainConfig())
    with pytest.raises(UserError, match=r"another version \(novelty\)"):
        restored({**stored, "novelty": 1}, Path("x"))
    del stored["seed"]
    with pytest.raises(UserError, match=r"another version \(seed\)"):
        restored(stored, Path("x"))


def test_recipes_name_themselves() -> None:
    assert {name: recipe.preset for name, recipe in TRAIN_RECIPES.items()} == {
        name: name for name in TRAIN_RECIPES
    }
    for name, recipe in SEARCH_RECIPES.items():
        assert recipe.run == TRAIN_RECIPES[name].run == Path("runs") / name


def test_option_is_read_ahead() -> None:
    assert option(["--seed", "1", "--preset", "cifar10"], "--preset", "digits") == "cifar10"
    assert option(["--preset=imagenet"], "--preset", "digits") == "imagenet"
    assert option(["--preset"], "--preset", "digits") == "digits"
