"""A program saved by `torch.export`, opened only when nothing in the file could run code.

`torch.export.load` unpickles freely and evaluates text, so the archive is read first, and whatever
is not plain tensors and operators of ATen is refused.
"""

import io
import json
import logging
import re
import zipfile
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from sympy import Expr
from torch import Tensor, nn
from torch.utils._sympy.value_ranges import ValueRanges

from base.errors import UserError
from base.files import ARCHIVE_ERRORS, PARSE_ERRORS

PLAIN = re.compile(
    r"archive_format|archive_version|byteorder|models/model\.json|\.format_version|\.data/version"
    r"|\.data/serialization_id|data/sample_inputs/model\.pt"
    r"|data/(weights|constants)/model_(weights|constants)_config\.json"
    r"|data/weights/weight_\d+|data/constants/tensor_\d+"
)
PICKLED = "data/sample_inputs/model.pt"
# Integers, symbols of sizes, and arithmetic: all that sizes need. The text is evaluated.
EXPRESSION = re.compile(
    r"(?:Symbol\('[a-z]+\d+'(?:, \w+=(?:True|False))*\)|Integer|Rational|Add|Mul|Pow|Max|Min|Mod"
    r"|FloorDiv|PythonMod|CeilDiv|\d+|[-(), ])*"
)
# Names of inputs, parameters and values become code of the loaded module.
NAME = re.compile(r"[\w.]*")
# Texts that do not, or are checked for themselves.
NO_NAMES = {
    "expr_str",
    "target",
    "in_spec",
    "out_spec",
    "custom",
    "stack_trace",
    "nn_module_stack",
    "source_fn_stack",
    "torch_fn",
    "from_node",
}
OPERATOR = re.compile(
    r"torch\.ops\.aten\.(?!from_file)\w+\.[a-zA-Z]\w*"
    r"|_operator\.(getitem|add|sub|mul|floordiv|mod|neg|pow|truediv|eq|ne|lt|le|gt|ge)"
    r"|math\.(ceil|floor|trunc)|torch\.sym_(float|int|max|min|not|sum)"
)
ANY_SIZE = range(1, 2**20)  # of a batch


class Program(nn.Module):
    """A loaded program as a network, images [B, 3, H, W] -> [B, K]; it runs on the CPU.

    `resolution` is the size that it was exported for, None when it takes any. Raises `UserError`
    for a file that cannot be loaded, or could run code.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        check_archive(path)
        try:
            # It would log a traceback beside what it raises.
            with _quiet("torch.export"), path.open("rb") as file:
                program = torch.export.load(file)
            # Guards are code made from text of the file.
            module = program.module(check_guards=False)
            (name,) = program.graph_signature.user_inputs
            (node,) = (node for node in program.graph.nodes if node.name == name)
            batch, _, side, _ = node.meta["val"].shape
            self.sizes = _sizes(batch, program.range_constraints)
            self.resolution = side if isinstance(side, int) else None
        except Exception as error:  # a family of errors of its own
            raise UserError(
                f"{path}: PyTorch {torch.__version__} cannot load this program "
                f"({' '.join(str(error).split())[:200]}); export it again"
            ) from error
        # A list hides it from train() and to(), which exported modules refuse.
        self._loaded = [module]

    def forward(self, images: Tensor) -> Tensor:
        """Run the program, in parts of as many images as it was exported for."""
        return run_in_batches(self._loaded[0], images.cpu(), self.sizes).to(images.device)


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Drop what the logger called `name` says, whatever its level."""
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _sizes(batch: int | torch.SymInt, bounds: Mapping[Expr, ValueRanges]) -> range:
    """Return the sizes of batches that a program takes; a free one is linear in one symbol."""
    if isinstance(batch, int):
        return range(batch, batch + 1)
    (symbol,) = batch.node.expr.free_symbols
    low, high = max(1, bounds[symbol].lower), min(ANY_SIZE[-1], bounds[symbol].upper)
    first, second, last = (int(batch.node.expr.subs(symbol, n)) for n in (low, low + 1, high))
    return range(first, last + 1, second - first)


def run_in_batches(network: Callable[[Tensor], Tensor], images: Tensor, sizes: range) -> Tensor:
    """Run a network that takes batches of these sizes alone: outputs [N, K].

    What is missing to the next size is filled up, and its outputs are dropped.
    """
    outputs = []
    for part in images.split(sizes[-1]):
        missing = sizes[bisect_left(sizes, len(part))] - len(part)
        whole = torch.cat([part, part[:1].expand(missing, -1, -1, -1)])
        found = network(whole)
        outputs.append(found[: len(part)] if missing else found)
    return torch.cat(outputs)


def check_archive(path: Path) -> None:
    """Raise `UserError` for anything in the file that loading could execute."""
    try:
        with zipfile.ZipFile(path) as archive:
            fault = next(_faults(archive), None)
    except (*PARSE_ERRORS, *ARCHIVE_ERRORS) as error:
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
        except Exception:  # PyTorch would then load it freely, whatever the error was
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
    for key, text in _texts(model["graph_module"]):
        if key not in NO_NAMES and not NAME.fullmatch(text):
            yield f"the name {text[:60]!r}"


def _texts(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string of a JSON value, with the key it stands under; a key stands under none."""
    if isinstance(value, dict):
        for inner_key, inner in value.items():
            yield "", inner_key
            yield from _texts(inner, inner_key)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, key)
    elif isinstance(value, str):
        yield key, value
