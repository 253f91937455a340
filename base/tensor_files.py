"""Tensors in safetensors files; loading never executes code."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from base.errors import UserError
from base.files import write_atomic

DIGEST = "sha256 of the tensors"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write named tensors and string metadata as one safetensors file, the same bytes each time.

    The format keeps several entries of metadata in no fixed order, so all of them go into one.
    Among them is a hash of the tensors: safetensors itself would not notice that a bit has turned.
    """
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    facts = {"facts": json.dumps({**metadata, DIGEST: _digest(whole)}, sort_keys=True)}
    write_atomic(path, safetensors.torch.save(whole, metadata=facts))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read (tensors, metadata) as `write_tensors` wrote them; raise `UserError` for other files.

    A file of someone else's has no hash to compare with.
    """
    try:
        # safetensors takes no name that is not UTF-8, but a file that is open.
        with path.open("rb") as whole, _opened(whole) as file:
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
            facts = dict(json.loads((file.metadata() or {}).get("facts", "{}")))
    except (OSError, ValueError, TypeError, safetensors.SafetensorError) as error:
        raise UserError(
            f"{path}: cannot be read as safetensors ({error}); make it again"
        ) from error
    if facts.pop(DIGEST, None) not in (None, _digest(tensors)):
        raise UserError(f"{path}: damaged: not what was written; make it again")
    return tensors, facts


def _opened(file: BinaryIO) -> safetensors.safe_open:
    return safetensors.safe_open(f"/dev/fd/{file.fileno()}", framework="pt")


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tensor.dtype}{list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
