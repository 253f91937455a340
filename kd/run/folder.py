"""The folder of a run: its settings, and what it has come to."""

import json
import platform
import re
import sys
from importlib.metadata import distributions
from pathlib import Path

from base.errors import UserError
from base.files import read_json, write_json

RECORDED = {
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "scipy",
    "scikit-learn",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "wandb",
}


PLACES = ("data", "unlabelled", "pairs")  # settings that say where images are, and not which


def open_run(folder: Path, config: dict, resume: bool, data: str) -> None:
    """Make `folder` with `config.json`, or go on with the run there if its settings are the same.

    Images may have moved where their fingerprint `data` is the same. Raises `UserError` naming the
    fields that differ, for other images, for a run that was begun when it is not to be resumed, or
    when the folder cannot be written.
    """
    path = folder / "config.json"
    settings = json_values(config)
    if path.exists():
        begun = read_config(folder)
        stored = found if isinstance(found := begun.get("settings"), dict) else {}
        kept = without_places if begun.get("data") == data else dict
        _refuse_other(folder, _flat(kept(stored)), _flat(kept(settings)))
        refuse_other_images(folder, data)
        if not (resume or is_complete(folder)):
            raise UserError(f"{folder}: begun already; --resume goes on, or give another --run")
        if stored != settings:
            write_json(path, {**begun, "settings": settings})
        return
    installed = {package.name: package.version for package in distributions()}
    versions = {name: installed[name] for name in sorted(RECORDED & installed.keys())}
    versions["python"] = platform.python_version()
    command = [Path(sys.argv[0]).name, *sys.argv[1:]]
    facts = {"settings": settings, "data": data, "command": command, "versions": versions}
    write_json(path, facts)


def refuse_other_images(folder: Path, data: str) -> None:
    """Raise `UserError` where the run was begun with images of another fingerprint than `data`."""
    if read_config(folder).get("data") != data:
        raise UserError(
            f"{folder}: begun with other images than those of --data (or --unlabelled, --pairs) "
            "now; bring them back, or give another --run"
        )


def without_places(settings: dict) -> dict:
    """Return settings without those that say where the images are."""
    return {name: value for name, value in settings.items() if name not in PLACES}


def is_complete(folder: Path) -> bool:
    """Whether train.py went to its end; the report is what it writes last."""
    return (folder / "report.html").exists()


def read_config(folder: Path) -> dict:
    """Read a run's `config.json`: settings, command, versions; `UserError` when there is none."""
    if not (folder / "config.json").exists():
        raise UserError(f"{folder}: no run here; run train.py first, or give its folder as --run")
    return read_json(folder / "config.json")


def read_metrics(folder: Path) -> list[dict]:
    """Read every line of a run's metrics.jsonl; a last one that was cut off is left out.

    Raises `UserError` where one is no JSON object of a phase, a step and numbers.
    """
    path = folder / "metrics.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        rows = [json.loads(line) for line in lines if line.endswith("\n")]
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({error}); remove the damaged lines") from error
    for number, row in enumerate(rows, start=1):
        if not _is_of_metrics(row):
            raise UserError(f"{path}: line {number} is damaged; remove it")
    return rows


def last_lines(folder: Path, phase: str, count: int) -> list[dict]:
    """Return the last `count` lines of a phase; one that was run before left its own."""
    return [row for row in read_metrics(folder) if row["phase"] == phase][-count:]


def remove_checkpoints(folder: Path, student: str) -> None:
    """Remove what the search for a student kept for a resume: pick_20ms.json, student_20ms.pt..."""
    own = re.compile(rf"[a-z]+_{re.escape(student)}(-.*)?\.[a-z]+")
    for left in folder.glob("*"):
        if own.fullmatch(left.name):
            left.unlink()


def _is_of_metrics(row: object) -> bool:
    if not isinstance(row, dict) or not isinstance(row.get("phase"), str):
        return False
    numbers = [value for name, value in row.items() if name != "phase"]
    return isinstance(row.get("step"), int) and all(
        isinstance(value, int | float | None) for value in numbers
    )


def json_values(config: dict) -> dict:
    """Return `config` as JSON gives it back: paths are strings, tuples are lists."""
    return json.loads(json.dumps(config, default=str, allow_nan=False))


def _flat(settings: dict, prefix: str = "") -> dict[str, object]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, object] = {}
    for name, value in settings.items():
        flat |= (
            _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        )
    return flat


def _refuse_other(folder: Path, stored: dict[str, object], given: dict[str, object]) -> None:
    names = sorted(stored.keys() | given.keys())
    missing = object()
    differing = [n for n in names if stored.get(n, missing) != given.get(n, missing)]
    if differing:
        faults = [f"{n} is {stored.get(n)} there and {given.get(n)} here" for n in differing[:3]]
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise UserError(
            f"{folder}: a run with other settings: {'; '.join(faults)}{more}; give another --run"
        )
