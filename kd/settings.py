"""Settings as plain values: from the command line, into a run's config.json, and back."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from export.errors import UserError
from kd.config import SearchConfig, TrainConfig

# The folder may be moved.
PASSING = ("run", "resume", "preview", "checkpoint_seconds")


def option(argv: Sequence[str], name: str, default: str) -> str:
    """Read one option's value ahead of the whole command line: it decides the others' defaults."""
    for i, word in enumerate(argv):
        if word == name and i + 1 < len(argv):
            return argv[i + 1]
        if word.startswith(f"{name}="):
            return word.removeprefix(f"{name}=")
    return default


def settings_of(config: TrainConfig | SearchConfig) -> dict:
    """Return the settings as plain values, without what may change when a run is resumed."""
    values = dataclasses.asdict(config)
    return {name: _plain(value) for name, value in values.items() if name not in PASSING}


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return str(value) if isinstance(value, Path) else value


def train_config_of(settings: Mapping[str, object], run: Path) -> TrainConfig:
    """Rebuild train.py's settings from a run's config.json; foreign ones raise `UserError`."""
    expected = settings_of(TrainConfig())
    if settings.keys() != expected.keys():
        odd = ", ".join(sorted(settings.keys() ^ expected.keys()))
        raise UserError(f"{run}/config.json: settings of another version ({odd}); train again")
    restored = {name: _tupled(value) for name, value in settings.items()}
    for name in ("teacher_classes", "latency_table"):
        restored[name] = Path(settings[name]) if settings[name] else None
    restored["teacher_checkpoint"] = tuple(map(Path, settings["teacher_checkpoint"]))
    return replace(TrainConfig(), run=run, **restored)


def _tupled(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value
