"""The run's teacher in files: weights that were trained here, and what is known of it."""

from pathlib import Path

import torch

from base.errors import UserError
from base.files import read_json, write_json
from base.tensor_files import read_tensors, write_tensors
from kd.networks import build_network, load_weights, published_input
from kd.teacher.load import TeacherSource
from kd.teacher.model import Teacher


def save_teacher(teacher: Teacher, source: TeacherSource, folder: Path) -> None:
    """Write the weights of a teacher that was trained here: they are nowhere else."""
    metadata = {"name": source.name}
    write_tensors(folder / "teacher.safetensors", teacher.network.state_dict(), metadata)


def load_saved_teacher(source: TeacherSource, folder: Path, classes: int) -> Teacher:
    """Load the teacher that was trained in this run; `UserError` when its file does not fit."""
    path = folder / "teacher.safetensors"
    weights, _ = read_tensors(path)
    network = build_network(source.name, classes)
    load_weights(network, weights, classes, path)
    # As it was trained: convolutions in another order of memory round otherwise.
    network.to(memory_format=torch.channels_last)
    return Teacher(network, published_input(source.name), name=source.name)


def write_facts(folder: Path, facts: dict) -> None:
    """Write `teacher.json`: what the teacher is, how good, and for which classes."""
    write_json(folder / "teacher.json", facts)


def read_facts(folder: Path) -> dict:
    """Read `teacher.json`; `UserError` when train.py has not come so far, or it is damaged."""
    path = folder / "teacher.json"
    if not path.exists():
        raise UserError(f"{folder}: no teacher here; run train.py to its end first")
    facts = read_json(path)
    kinds = {"classes": list, "fingerprint": str, "answers": list}
    kinds |= {"vector": int} if "vector" in facts else {"search_accuracy": int | float}
    for name, kind in kinds.items():
        if not isinstance(facts.get(name), kind):
            raise UserError(f"{path}: damaged: {name} is missing or odd; train the teacher again")
    if not all(isinstance(row, list) and all(map(_is_number, row)) for row in facts["answers"]):
        raise UserError(f"{path}: damaged: answers are odd; train the teacher again")
    return facts


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)
