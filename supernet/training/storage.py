"""Shared weights, alpha and surrogate in files, refused when they are of another space or table."""

import math
from pathlib import Path

import torch
from torch import Tensor

from base.errors import UserError
from base.tensor_files import read_tensors, write_tensors
from supernet.alpha import Alpha
from supernet.choice.surrogate import Surrogate
from supernet.space import SearchSpace
from supernet.supernet import Supernet


def save_supernet(
    path: Path, supernet: Supernet, alpha: Alpha, surrogate: Surrogate, table: str
) -> None:
    """Write weights, alpha, surrogate and the fingerprints of the space and latency `table`."""
    tensors = {f"w.{name}": part for name, part in supernet.state_dict().items()}
    numbers = torch.tensor(
        [surrogate.base, surrogate.explained, surrogate.students], dtype=torch.float64
    )
    tensors |= {"surrogate.losses": surrogate.losses, "surrogate.numbers": numbers}
    write_tensors(path, tensors | _named(alpha), _facts(supernet.space, table))


def save_alpha(path: Path, alpha: Alpha, space: SearchSpace, table: str) -> None:
    """Write alpha alone: the same shared weights may have one for each device."""
    write_tensors(path, _named(alpha), _facts(space, table))


def _named(alpha: Alpha) -> dict[str, Tensor]:
    return {f"alpha.{name}": part for name, part in alpha.state_dict().items()}


def _facts(space: SearchSpace, table: str) -> dict[str, str]:
    return {"space": space.fingerprint(), "table": table}


def load_supernet(path: Path, space: SearchSpace) -> Supernet:
    """Read the shared weights; missing, damaged or foreign files raise `UserError`."""
    if not path.exists():
        raise UserError(f"{path}: no supernet here; run train.py to its end first")
    tensors = _read(path, {"space": space.fingerprint()})
    supernet = Supernet(space)
    try:
        supernet.load_state_dict(_under(tensors, "w."))
    except RuntimeError as error:
        raise _damaged(path, error) from error
    return supernet


def load_surrogate(path: Path, space: SearchSpace) -> Surrogate:
    """Read the surrogate; damaged or foreign files raise `UserError`."""
    tensors = _read(path, {"space": space.fingerprint()})
    try:
        losses, numbers = tensors["surrogate.losses"], tensors["surrogate.numbers"]
        if losses.shape != (sum(len(d.choices) for d in space.decisions()),):
            raise RuntimeError(f"a surrogate of {len(losses)} choices")
        base, explained, students = numbers.tolist()
    except (KeyError, ValueError, RuntimeError) as error:
        raise _damaged(path, error) from error
    return Surrogate(space, base, losses, explained, int(students))


def load_alpha(path: Path, space: SearchSpace, table: str) -> Alpha:
    """Read alpha, of the latency `table`; damaged or foreign files raise `UserError`."""
    tensors = _read(path, _facts(space, table))
    try:
        alpha = Alpha(space, 1.0, math.e, len(tensors["alpha.logits"]))
        alpha.load_state_dict(_under(tensors, "alpha."))
    except (KeyError, RuntimeError) as error:
        raise _damaged(path, error) from error
    return alpha


def is_of_table(path: Path, table: str) -> bool:
    """Whether there is an alpha at `path` that was trained for this latency `table`."""
    return path.exists() and read_tensors(path)[1].get("table") == table


def _read(path: Path, expected: dict[str, str]) -> dict[str, Tensor]:
    tensors, metadata = read_tensors(path)
    for field, value in expected.items():
        if metadata.get(field) != value:
            raise UserError(
                f"{path}: {field} {metadata.get(field)}, expected {value}; "
                "it belongs to another run: train the supernet again"
            )
    return tensors


def _damaged(path: Path, error: Exception) -> UserError:
    reason = str(error).splitlines()[0]
    return UserError(f"{path}: damaged ({reason}); train the supernet again")


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
