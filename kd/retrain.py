"""A student trained from scratch, on all images but those of the test split."""

from collections.abc import Callable
from functools import partial

from torch import nn

from export.checkpoint import Keeper
from kd.config import SearchConfig, TrainConfig
from kd.data import Data, join
from kd.fit import FitSettings, fit
from kd.prepare import Teaching
from kd.targets import endless


def retrain(
    student: nn.Module,
    config: SearchConfig,
    settings: TrainConfig,
    data: Data,
    taught: Teaching,
    learns_from: str,
    description: str,
    log: Callable[..., None],
    checkpoint: Keeper,
) -> None:
    """Train `student` in place on the train and the search split, from "kd" or "labels" alone.

    Every student of a seed sees the same images in the same order. Raises `UserError` when the
    loss stops being finite.
    """
    split, outputs = join(data.train, data.search), taught.joined()
    batch = min(settings.batch, len(split))
    stream = (split, outputs, settings.views, batch, config.seed, settings.workers)
    fit(
        student,
        partial(endless, *stream),
        settings.loss(learns_from),
        FitSettings(
            config.epochs,
            config.learning_rate,
            config.weight_decay,
            precision=config.precision,
            accumulate=settings.accumulate,
            compile=config.compile,
        ),
        len(split) // batch,
        description,
        log,
        checkpoint,
    )
