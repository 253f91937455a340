"""An ONNX file of any framework as a teacher's network."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from google.protobuf.message import DecodeError, Message
from onnx.external_data_helper import ExternalDataInfo, uses_external_data
from torch import Tensor, nn

from base.errors import UserError
from export.runtimes.onnx_session import onnx_session, preferred_provider
from kd.networks import InputFormat
from kd.teacher.program_file import ANY_SIZE, run_in_batches

NUMBERS = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}
PIXELS = {"tensor(uint8)": np.uint8}
Shape = Sequence[int | str | None]  # sizes that are free are no numbers
CHANNELS_FIRST, CHANNELS_LAST = (0, 1, 2, 3), (0, 3, 1, 2)


class OnnxNetwork(nn.Module):
    """An ONNX file, images [B, 3, H, W] -> [B, K], run by ONNX Runtime.

    It may take [B, H, W, 3], pixels of 0 to 255 in uint8, or grey images, of which it is given the
    first of three channels. Of several outputs it answers with the one called `output`, or the one
    that can be rows of so many `classes`, or of any number where that is None.
    `input_format` is what the file says of its input. Raises `UserError` for a file that cannot be
    opened, for an input that is no batch of images, and where no output or several could be meant.
    """

    def __init__(self, path: Path, classes: int | None, output: str | None = None) -> None:
        super().__init__()
        if not path.is_file():
            raise UserError(f"{path}: no such file; expected an ONNX model")
        self.session = onnx_session(path, os.cpu_count() or 1, preferred_provider())
        inputs = self.session.get_inputs()
        layout = _layout(inputs[0].shape)
        if len(inputs) != 1 or layout is None:
            raise UserError(
                f"{path}: takes {_described(inputs)}; expected one input [batch, 3, height, width]"
                " of square RGB images, or of 1 channel, or with the channels last"
            )
        types = NUMBERS | PIXELS
        if inputs[0].type not in types:
            raise UserError(f"{path}: takes {inputs[0].type}, expected {' or '.join(types)}")
        self.input_name, self.dtype = inputs[0].name, types[inputs[0].type]
        self.channels_last = layout == CHANNELS_LAST
        batch, channels, *sides = (inputs[0].shape[place] for place in layout)
        self.sizes = range(batch, batch + 1) if isinstance(batch, int) else ANY_SIZE
        self.channels = 1 if channels == 1 else 3
        self.output = _chosen(self.session, path, classes, output)
        self.input_format = InputFormat(
            std=(1 / 255,) * 3 if self.takes_pixels else (1.0,) * 3,
            resolution=next((side for side in sides if isinstance(side, int)), None),
            channels="grey" if self.channels == 1 else "rgb",
        )

    @property
    def takes_pixels(self) -> bool:
        """Whether it takes whole numbers from 0 to 255."""
        return self.dtype in PIXELS.values()

    def forward(self, images: Tensor) -> Tensor:
        """Run the file, in parts where it has a fixed batch size."""
        images = images[:, : self.channels]
        return run_in_batches(self._run, images.cpu(), self.sizes).to(images.device)

    def _run(self, images: Tensor) -> Tensor:
        shown = (images.permute(0, 2, 3, 1) if self.channels_last else images).numpy()
        if self.takes_pixels:
            shown = np.rint(shown).clip(0, 255)
        feed = {self.input_name: np.ascontiguousarray(shown, dtype=self.dtype)}
        return torch.from_numpy(self.session.run([self.output], feed)[0]).float()


def onnx_fingerprint(path: Path) -> str:
    """Hash of an ONNX file's content, and of the files beside it that hold its weights.

    Raises `UserError` where these cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for one in (path, *(path.parent / place for place in _places_beside(path))):
            with one.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: weights beside it cannot be read ({reason}); make it again"
        ) from error
    return digest.hexdigest()[:32]


def _places_beside(path: Path) -> list[str]:
    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError:  # ONNX Runtime's own format, which holds all of it
        return []
    found = (tensor for tensor in _tensors(model) if uses_external_data(tensor))
    return sorted({ExternalDataInfo(tensor).location for tensor in found})


def _tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """All tensors in a model: of its graphs, the graphs in these, and its functions."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for inner in [value] if isinstance(value, Message) else value:
            if isinstance(inner, onnx.TensorProto):
                yield inner
            else:
                yield from _tensors(inner)


def _layout(shape: Shape) -> tuple[int, ...] | None:
    """Return the places of batch, channels, height and width; None for what is no image."""
    if len(shape) != 4:
        return None
    layouts = (CHANNELS_FIRST, CHANNELS_LAST)
    stated = [layout for layout in layouts if shape[layout[1]] in (1, 3)]
    for layout in stated or layouts:
        _, channels, *sides = (shape[place] for place in layout)
        known = {side for side in sides if isinstance(side, int)}
        if len(known) <= 1 and (not isinstance(channels, int) or channels in (1, 3)):
            return layout
    return None


def _chosen(
    session: onnxruntime.InferenceSession, path: Path, classes: int | None, wanted: str | None
) -> str:
    """Return the name of the output that answers."""
    outputs = session.get_outputs()
    names = [one.name for one in outputs]
    if wanted is not None and wanted not in names:
        raise UserError(f"{path}: has no output {wanted}; it has {', '.join(names)}")
    if wanted is not None or len(names) == 1:
        return wanted or names[0]
    rows = [one for one in outputs if one.type in NUMBERS and _can_be_rows(one.shape, classes)]
    sure = [one for one in rows if classes and len(one.shape) > 1 and one.shape[1] == classes]
    fitting = [one.name for one in sure or rows]
    if len(fitting) != 1:
        which = f"{', '.join(fitting)} could be" if fitting else "none can be"
        raise UserError(
            f"{path}: answers {_described(outputs)}; {which} "
            f"{f'rows of {classes} classes' if classes else 'vectors'}; name the output that is "
            "meant with --teacher-output"
        )
    return fitting[0]


def _can_be_rows(shape: Shape, classes: int | None) -> bool:
    """Whether it can be [batch, classes], or that with sides of 1 behind; None is any number."""
    if not shape:  # not known at all
        return True
    fixed = [size if isinstance(size, int) else None for size in shape[1:]]
    if len(fixed) not in (1, 3) or not set(fixed[1:]) <= {None, 1}:
        return False
    return classes is None or fixed[0] in (None, classes)


def _described(values: Sequence[onnxruntime.NodeArg]) -> str:
    return "; ".join(f"{one.name} {one.shape}" for one in values)
