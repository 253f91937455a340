"""What the teacher will cost: said before anything is spent."""

import torch
from torch import Tensor

from export.stopwatch import quick_ms
from kd.config import TrainConfig
from kd.data import Data
from kd.networks import build_network
from kd.prepare import Given, stored_shapes
from kd.store import size_text

# A step of training costs about three passes forward.
TRAINING_PASSES = 3


def teacher_work(config: TrainConfig, given: Given | None) -> str:
    """Say what is done with the teacher."""
    return str(given.check) if given else f"trained here for {config.teacher_epochs} epochs"


def teacher_seconds(config: TrainConfig, data: Data, given: Given | None, pixels: Tensor) -> float:
    """Rough seconds of training the teacher and of its outputs for every view."""
    if config.stored_outputs:
        return 0.0
    if given:
        model, epochs = given.model, 0
    else:
        name = config.teacher_sources()[0].name
        model = build_network(name, len(data.classes)).to(pixels.device).eval()
        epochs = config.teacher_epochs
    with torch.no_grad():
        seconds = quick_ms(lambda: model(pixels), runs=2) / 1000 / len(pixels)
    views = config.w_epochs if config.teacher_outputs == "online" else config.views
    return seconds * len(data.train) * (TRAINING_PASSES * epochs + views)


def outputs_size(config: TrainConfig, data: Data) -> str:
    """Say what is stored of the teacher, and how much that is."""
    if config.teacher_outputs == "online":
        return "not stored: the teacher runs in every step"
    if config.stored_outputs:
        return f"those in {config.stored_outputs}"
    shapes = [shape for _, shape in stored_shapes(config, data).values()]
    size = size_text(sum(shape.size for shape in shapes))
    return f"{size} in {config.run / 'targets'}; of the train split {shapes[0]}"
