"""An ONNX model in 8-bit integers, its ranges found on calibration images."""

import copy
import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from torch import Tensor

from base.errors import UserError


class _Reader(CalibrationDataReader):
    """Hands batches to the quantiser, one at a time."""

    def __init__(self, input_name: str, images: Iterable[Tensor]) -> None:
        self.inputs = ({input_name: batch.cpu().numpy()} for batch in images)

    def get_next(self) -> dict | None:
        """Return the next batch by the input's name, or None after the last."""
        return next(self.inputs, None)


def quantised(
    model: onnx.ModelProto, images: Iterable[Tensor], signed: bool = False
) -> onnx.ModelProto:
    """Return `model` with every operation that the quantiser knows in 8-bit integers.

    Weights are int8 with a scale for each output channel; activations are uint8, or int8 where
    `signed`, with one range a tensor: the least and largest value that it takes on `images`,
    batches [B, C, H, W] as the model takes them, of which one is held at a time. Raises
    `UserError` when there are no images or the quantiser refuses the model.
    """
    images = (batch for batch in images if len(batch))
    first = next(images, None)
    if first is None:
        raise UserError(
            "int8: no calibration images, expected a batch or more; give some of the train split"
        )
    reader = _Reader(model.graph.input[0].name, chain([first], images))
    try:
        with _silent(), TemporaryDirectory() as folder:
            file = Path(folder) / "model.onnx"
            quantize_static(
                copy.deepcopy(model),  # the quantiser would change it
                file,
                reader,
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QInt8 if signed else QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
            )
            result = onnx.load(file)
    except UserError:
        raise
    except Exception as error:  # ONNX Runtime's own exceptions share no narrower base class
        reason = " ".join(str(error).split())
        raise UserError(
            f"int8: ONNX Runtime cannot quantise this model ({reason}); keep it in fp32"
        ) from error
    onnx.helper.set_model_props(result, {e.key: e.value for e in model.metadata_props})
    onnx.checker.check_model(result, full_check=True)
    return result


@contextmanager
def _silent() -> Iterator[None]:
    """Keep what the quantiser prints, warns of and logs on the root logger from the user."""
    handlers = logging.root.handlers
    logging.root.handlers = [logging.NullHandler()]
    try:
        with redirect_stdout(None), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.root.handlers = handlers
