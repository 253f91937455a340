"""Export a module as one ONNX file."""

import copy
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import torch
from google.protobuf.message import DecodeError
from onnx_ir.passes import Sequential
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, NameFixPass
from torch import Tensor, nn

from base.errors import UserError
from base.files import write_atomic

_AXES = ("batch", "channels", "height", "width")


def to_onnx(
    module: nn.Module,
    example: Tensor,
    dynamic: Sequence[int] = (0,),
    optimize: bool = True,
    input_name: str = "images",
    output_name: str = "logits",
) -> onnx.ModelProto:
    """Export a copy of `module` in eval mode, weights inside.

    `example` (on the module's device) gives the input's shape; its axes in `dynamic` accept any
    size. `optimize` folds constants and BatchNorm into the file; without it ONNX Runtime leaves
    the BatchNorm unfused and runs several times slower, so never time such a file.
    """
    axes = {axis: _AXES[axis] if axis < len(_AXES) else f"axis_{axis}" for axis in dynamic}
    return exported(module, (example,), (axes,), [input_name], [output_name], optimize)


def exported(
    module: nn.Module,
    inputs: tuple[Tensor | list[Tensor], ...],
    dynamic_shapes: tuple[object, ...],
    input_names: list[str],
    output_names: list[str],
    optimize: bool = True,
) -> onnx.ModelProto:
    """Export a copy of `module` in eval mode; `dynamic_shapes` are those of torch.export."""
    # Weights in channels-last order would leave index arithmetic in the file, 5 % of its time.
    module = copy.deepcopy(module).eval().to(memory_format=torch.contiguous_format)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            inputs,
            dynamo=True,
            dynamic_shapes=dynamic_shapes,
            input_names=input_names,
            output_names=output_names,
            optimize=optimize,
            verbose=False,
        )
    # The exporter leaves stack traces with local paths on every node, and a buffer may share its
    # name with a node's output ("mean"), which ONNX Runtime refuses.
    Sequential(ClearMetadataAndDocStringPass(), NameFixPass())(program.model)
    return program.model_proto


def write_onnx(
    module: nn.Module,
    example: Tensor,
    path: Path,
    metadata: Mapping[str, str],
    output_name: str = "logits",
) -> None:
    """Export `module` with a free batch size, check it, and write it as one file."""
    model = to_onnx(module, example, output_name=output_name)
    write_model(model.SerializeToString(), path, metadata)


def write_model(content: bytes, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a model as one file with `metadata` beside what it holds, checked; the graph stays."""
    model = onnx.load_from_string(content)
    known = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, known | dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    write_atomic(path, model.SerializeToString())


def add_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    """Write the file again with `metadata` beside what it holds; the graph stays."""
    write_model(path.read_bytes(), path, metadata)


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of an ONNX file; raise `UserError` when it is missing or not one."""
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except (OSError, ValueError, DecodeError, onnx.checker.ValidationError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read as ONNX ({reason}); make it again") from error
    return {entry.key: entry.value for entry in model.metadata_props}
