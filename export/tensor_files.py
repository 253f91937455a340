"""Tensors in safetensors files; loading never executes code."""

import json
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from export.errors import UserError
from export.files import write_whole


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write named tensors and string metadata as one safetensors file, the same bytes each time.

    The format keeps several entries of metadata in no fixed order, so all of them go into one.
    """
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    facts = {"facts": json.dumps(dict(metadata), sort_keys=True)}
    write_whole(path, safetensors.torch.save(whole, metadata=facts))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read (tensors, metadata) as `write_tensors` wrote them; raise `UserError` for other files."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
            return tensors, json.loads((file.metadata() or {}).get("facts", "{}"))
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise UserError(
            f"{path}: cannot be read as safetensors ({error}); make it again"
        ) from error
