"""Settings as plain values: into files and back."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from base.errors import UserError
from base.files import read_json
from kd.images.splits import Data
from kd.run.folder import PLACES, read_config
from kd.run.search_config import OF_TEACHER, SearchConfig
from kd.run.train_config import CLASSIFY, EMBEDDING, TrainConfig

# What may change when a run is resumed; its folder may be moved.
NOT_STORED = ("run", "resume", "preview", "checkpoint_seconds", "latency_slower")
# What belongs to a run's images and teacher, and is not taken to others; what is given instead.
GIVEN = ("run", "data", "unlabelled", "pairs", *OF_TEACHER)
OF_TEACHER_OR_DATA = (
    *("limit", "shard_image", "latency_table", "guide", "teacher_weight", "teacher_outputs"),
    "teacher_checkpoint_key",
)
# What only classes have; a student of vectors has the usual, whatever its home has.
OF_CLASSES = ("kd_distance", "latency_precision")


def settings_of(config: TrainConfig | SearchConfig) -> dict:
    """Return the settings as plain values, without what may change when a run is resumed."""
    values = dataclasses.asdict(config)
    return {name: _plain(value) for name, value in values.items() if name not in NOT_STORED}


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return str(value) if isinstance(value, Path) else value


def train_config_of(settings: Mapping[str, object], run: Path) -> TrainConfig:
    """Rebuild train.py's settings from a run's config.json; foreign ones raise `UserError`."""
    path, expected = run / "config.json", settings_of(TrainConfig())
    if not isinstance(settings, Mapping):
        raise UserError(f"{path}: damaged: no settings; train again")
    if settings.keys() != expected.keys():
        odd = ", ".join(sorted(settings.keys() ^ expected.keys()))
        raise UserError(f"{path}: settings of another version ({odd}); train again")
    try:
        found = TypeAdapter(TrainConfig).validate_json(json.dumps(settings), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{first['loc'][0]} {first['input']!r}: {first['msg']}"
        raise UserError(f"{path}: damaged ({reason}); train again") from error
    return replace(found, run=run)


def home_config(search: SearchConfig) -> TrainConfig:
    """Return train.py's settings of the run in which architectures are searched, or were.

    Its images are where they are now. Raises `UserError` where there is no run, or a foreign one.
    """
    begun = train_config_of(read_config(search.home)["settings"], search.home)
    if search.architecture:
        return begun
    moved = {name: place for name in PLACES if (place := getattr(search, name))}
    if lacking := [name for name in moved if not getattr(begun, name)]:
        raise UserError(f"--{lacking[0]} {moved[lacking[0]]}: {search.run} was begun without")
    return replace(begun, **moved)


def transfer_config(search: SearchConfig, home: TrainConfig) -> TrainConfig:
    """Return train.py's settings for an architecture that is taken to other images.

    They are those of its `home`, but for images and teacher.
    """
    usual, task = TrainConfig(), EMBEDDING if search.pairs else CLASSIFY
    names = (*OF_TEACHER_OR_DATA, *(OF_CLASSES if task == EMBEDDING else ()))
    own = {name: getattr(usual, name) for name in names}
    given = {name: getattr(search, name) for name in GIVEN}
    return replace(home, task=task, **own | given)


def transfer_budget(search: SearchConfig, table: str) -> float:
    """Return the budget of an architecture that is taken elsewhere: given, or that of its student.

    Raises `UserError` where neither is known, and where that is of another latency `table`.
    """
    if search.target_latency:
        return search.target_latency[0]
    path = search.architecture / "metrics.json"
    facts = read_json(path) if path.exists() else {}
    found = facts.get("target_ms")
    if not isinstance(found, int | float) or not found > 0:
        raise UserError(f"{path}: does not say the student's budget; give --target-latency")
    if facts.get("table") != table:
        raise UserError(
            f"{path}: its {found:g} ms are of another latency table; give that one as "
            "--latency-table, or --target-latency"
        )
    return float(found)


def search_identity(config: SearchConfig, table: str, start: str) -> dict[str, str]:
    """Return what the checkpoints of a search depend on, beside the run.

    That is its settings, the latency `table`, and what students `start` from.
    """
    passing = ("target_latency", "controls", "rivals", "list", "architecture", "start", *GIVEN)
    settings = {name: v for name, v in settings_of(config).items() if name not in passing}
    return {"settings": json.dumps(settings), "table": table, "start": start}


def onnx_metadata(target_ms: float, data: Data, train: TrainConfig) -> dict[str, str]:
    """Return what whoever deploys an ONNX file may ask, all text; all but milliseconds is JSON.

    `resize` is the length in pixels to which the shorter side of a photograph was brought before
    the centre was cut out; null where the whole was squeezed. Settings stay in the run's folder:
    they name data and checkpoints by their paths.
    """
    return {
        "classes": json.dumps(data.classes),
        "resize": json.dumps(data.test.frame.resize),
        "target_ms": f"{target_ms:g}",
        "versions": json.dumps(read_config(train.run)["versions"]),
    }
