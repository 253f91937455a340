"""The command line's settings; the preset has a recipe for those that are left out."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import tyro

from base.streams import shell_word
from kd.run.folder import read_config
from kd.run.search_config import SearchConfig
from kd.run.train_config import TrainConfig

TRAIN_RECIPES: Mapping[str, TrainConfig] = {
    "digits": TrainConfig(),
    "cifar10": TrainConfig(
        preset="cifar10",
        data="cifar10",
        run=Path("runs/cifar10"),
        augment="crop_flip",
        search_fraction=0.1,
        views=8,
        batch=256,
        teacher_epochs=30,
        w_epochs=60,
        alpha_steps=2000,
        alpha_batch=128,
        latency_batch=16,
        latency_seconds=120,
    ),
    "imagenet": TrainConfig(
        preset="imagenet",
        data="",
        run=Path("runs/imagenet"),
        augment="resized_crop_flip",
        search_fraction=0.02,
        views=4,
        most_classes=20,
        batch=256,
        w_epochs=100,
        w_learning_rate=0.4,
        weight_decay=3e-5,
        alpha_steps=5000,
        alpha_batch=128,
        latency_batch=1,
        latency_seconds=240,
    ),
}


SEARCH_RECIPES: Mapping[str, SearchConfig] = {
    "digits": SearchConfig(),
    "cifar10": SearchConfig(run=Path("runs/cifar10"), epochs=120, trials=16, trial_epochs=15),
    "imagenet": SearchConfig(
        run=Path("runs/imagenet"), epochs=150, weight_decay=3e-5, trials=16, trial_epochs=10
    ),
}


def parse_train(argv: Sequence[str]) -> TrainConfig:
    """Return the settings of train.py that the words of its command line give."""
    recipe = TRAIN_RECIPES.get(option(argv, "--preset", "digits"), TRAIN_RECIPES["digits"])
    return tyro.cli(TrainConfig, args=argv, default=recipe)


def parse_search(argv: Sequence[str]) -> SearchConfig:
    """Return the settings of search.py; the recipe is that of the preset of its run."""
    run = Path(option(argv, "--run", "runs/digits"))
    if architecture := option(argv, "--architecture", ""):
        run = SearchConfig(architecture=Path(architecture)).home
    preset = read_config(run)["settings"]["preset"] if (run / "config.json").exists() else ""
    recipe = SEARCH_RECIPES.get(preset, SEARCH_RECIPES["digits"])
    return tyro.cli(SearchConfig, args=argv, default=recipe)


def next_command(config: TrainConfig) -> str:
    """Say what comes after train.py, quoted for a shell."""
    return f"next: python search.py --target-latency MS --run {shell_word(str(config.run))}"


def option(argv: Sequence[str], name: str, default: str) -> str:
    """Read one option's value ahead of the whole command line: it decides the others' defaults."""
    for i, word in enumerate(argv):
        if word == name and i + 1 < len(argv):
            return argv[i + 1]
        if word.startswith(f"{name}="):
            return word.removeprefix(f"{name}=")
    return default
