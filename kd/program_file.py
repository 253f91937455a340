"""A program saved by `torch.export`, opened only when nothing in the file could run code.

`torch.export.load` unpickles freely and evaluates text, so the archive is read first, and whatever
is not plain tensors and operators of ATen is refused.
"""

import io
import json
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from export.errors import UserError

PLAIN = re.compile(
    r"archive_format|archive_version|byteorder|models/model\.json|\.format_version"
    r"|\.data/serialization_id|data/sample_inputs/model\.pt"
    r"|data/(weights|constants)/model_(weights|constants)_config\.json"
    r"|data/weights/weight_\d+|data/constants/tensor_\d+"
)
PICKLED = "data/sample_inputs/model.pt"
# Integers, symbols of sizes, and arithmetic: all that sizes need.
EXPRESSION = re.compile(r"(?:[su]\d+|\d+|[-+*/(), ]|Max|Min|Mod|FloorDiv|PythonMod|CeilDiv)*")
OPERATOR = re.compile(
    r"torch\.ops\.aten\.\w+\.\w+"
    r"|_operator\.(getitem|add|sub|mul|floordiv|mod|neg|pow|truediv|eq|ne|lt|le|gt|ge)"
    r"|math\.(ceil|floor|trunc)|torch\.sym_(float|int|max|min|not|sum)"
)


class Program(nn.Module):
    """A loaded program as a network, images [B, 3, H, W] -> [B, K]; it runs on its own device."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        check_archive(path)
        try:
            program = torch.export.load(path)
            # Guards are code made from text of the file.
            module = program.module(check_guards=False)
        except Exception as error:  # a family of errors of its own
            raise UserError(
                f"{path}: PyTorch {torch.__version__} cannot load this program "
                f"({' '.join(str(error).split())[:200]}); export it again"
            ) from error
        # A list hides it from train() and to(), which exported modules refuse.
        self._loaded = [module]

    def forward(self, images: Tensor) -> Tensor:
        """Run the program on the CPU, where it was loaded."""
        return self._loaded[0](images.cpu()).to(images.device)


def check_archive(path: Path) -> None:
    """Raise `UserError` for anything in the file that loading could execute."""
    try:
        with zipfile.ZipFile(path) as archive:
            fault = next(_faults(archive), None)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, RecursionError) as error:
        raise UserError(
            f"{path}: no program of torch.export ({error}); save one with torch.export.save"
        ) from error
    if fault:
        raise UserError(
            f"{path}: {fault} could run code when it is loaded, and is refused; save the program "
            "again with torch.export.save, or give the teacher as onnx:FILE"
        )


def _faults(archive: zipfile.ZipFile) -> Iterator[str]:
    """What in the archive is not plain data."""
    names = {name.partition("/")[2]: name for name in archive.namelist()}
    if "models/model.json" not in names or len(names) < len(archive.namelist()):
        raise ValueError("no models/model.json, or a name twice")
    yield from (name for name in names if not PLAIN.fullmatch(name))
    if PICKLED in names:
        try:
            torch.load(io.BytesIO(archive.read(names[PICKLED])), weights_only=True)
        except pickle.UnpicklingError:
            yield PICKLED
    for name in names:
        if name.endswith("_config.json"):
            config = json.loads(archive.read(names[name]))["config"]
            yield from (f"{name}: {key}" for key, entry in config.items() if entry["use_pickle"])
    model = json.loads(archive.read(names["models/model.json"]))
    for key, text in _texts(model):
        if key == "expr_str" and not EXPRESSION.fullmatch(text):
            yield f"the expression {text[:60]!r}"
        if key == "target" and not OPERATOR.fullmatch(text):
            yield f"the operator {text[:60]!r}"


def _texts(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string of a JSON value, with the key it stands under."""
    if isinstance(value, dict):
        for inner_key, inner in value.items():
            yield from _texts(inner, inner_key)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, key)
    elif isinstance(value, str):
        yield key, value
