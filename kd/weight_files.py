"""Weights in files as people have them, read without running what is in them."""

import argparse
import pathlib
from collections.abc import Iterator, Mapping, Set
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from base.errors import UserError
from base.processes import print_once
from base.tensor_files import read_tensors

# What trainers leave beside the weights, and what does nothing when it is made.
SAFE = [
    argparse.Namespace,
    (pathlib.PosixPath, "pathlib.PosixPath"),
    (pathlib.PosixPath, "pathlib._local.PosixPath"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64)),
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),
    (np._core.multiarray.scalar, "numpy._core.multiarray.scalar"),
]
USUAL_KEYS = ("state_dict", "model", "model_state_dict")
# Modules that others are wrapped in: anywhere in a name, or in front of all names.
COMPILED = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
WRAPPERS = {"module", "model"}

Weights = dict[str, Tensor]


def read_checkpoint(path: Path, key: str | None = None) -> Weights:
    """Read a state dict from safetensors or torch.save: plain, or under `key` or a usual one.

    Says which was taken. Raises `UserError` for a file that is damaged or holds code, and where it
    cannot be told which state dict is meant.
    """
    content = read_tensors(path)[0] if path.suffix == ".safetensors" else _unpickled(path)
    if _is_state_dict(content):
        if key:
            raise UserError(f"{path}: holds one state dict; leave --teacher-checkpoint-key")
        return content
    return _chosen(dict(_state_dicts(content)), path, key)


def unwrapped(weights: Weights, wanted: Set[str], origin: Path | str) -> Weights:
    """Return `weights` by the names `wanted`, without what the network was wrapped in.

    What lies beside the network is left, which is said. Names that fit in no way keep what is not
    a wrapper; where the network is there twice, `UserError`.
    """
    plain = {".".join(p for p in key.split(".") if p not in COMPILED): key for key in weights}
    found = {name: weights[key] for name, key in plain.items()}
    last = max(wanted, key=len)
    places = [name[: -len(last)] for name in found if f".{name}".endswith(f".{last}")]
    fitting = [place for place in places if all(f"{place}{name}" in found for name in wanted)]
    usual = [place for place in fitting if _is_wrapper(place)]
    if not fitting:
        return _without_wrappers(found)
    if len(usual or fitting) > 1:
        raise UserError(
            f"{origin}: holds this network {len(fitting)} times ({', '.join(fitting)}); save the"
            " state dict of one"
        )
    (place,) = usual or fitting
    if not place:
        return found
    if beside := [name for name in found if not name.startswith(place)]:
        print_once(f"{origin}: {place}… is taken; {len(beside)} more are left, such as {beside[0]}")
    return {n.removeprefix(place): value for n, value in found.items() if n.startswith(place)}


def _is_wrapper(place: str) -> bool:
    return set(place.split(".")) <= {*WRAPPERS, ""}


def _without_wrappers(weights: Weights) -> Weights:
    for word in WRAPPERS:
        if all(name.startswith(f"{word}.") for name in weights):
            return _without_wrappers({n.partition(".")[2]: value for n, value in weights.items()})
    return weights


def _unpickled(path: Path) -> object:
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected .safetensors or a saved state dict")
    try:
        with safe_globals(SAFE):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage leads the unpickler anywhere
        unsafe = []
        with suppress(Exception):
            unsafe = sorted(get_unsafe_globals_in_checkpoint(path))
        named = f": {', '.join(unsafe[:3])}" if unsafe else ""
        raise UserError(
            f"{path}: no plain state dict (truncated, or it holds code, which is never run{named});"
            " save the state dict as .safetensors"
        ) from error


def _is_state_dict(content: object) -> bool:
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(key, str) for key in content)
        and all(isinstance(value, Tensor) for value in content.values())
    )


def _state_dicts(content: object, around: str = "") -> Iterator[tuple[str, Weights]]:
    """All state dicts in a checkpoint by their keys, those inside another one by `outer.inner`."""
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        return
    for key, value in content.items():
        if _is_state_dict(value):
            yield f"{around}{key}", dict(value)
        elif not around:
            yield from _state_dicts(value, f"{key}.")


def _chosen(found: Mapping[str, Weights], path: Path, key: str | None) -> Weights:
    usual = [name for name in USUAL_KEYS if name in found]
    taken = key or next(iter(usual or (found if len(found) == 1 else ())), None)
    if not found:
        raise UserError(f"{path}: no state dict; expected tensors by name, save model.state_dict()")
    if taken not in found:
        which = f"no state dict called {key}" if key else "several state dicts"
        raise UserError(
            f"{path}: {which}; name one of {', '.join(found)} with --teacher-checkpoint-key"
        )
    others = [name for name in found if name != taken]
    more = f"; --teacher-checkpoint-key takes {' or '.join(others)}" if others else ""
    print_once(f"{path}: weights of {taken}{more}")
    return found[taken]
