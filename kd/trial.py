"""Candidates ranked by shared weights, and the best again after a moment of training alone."""

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import TypeVar

from torch import nn

from export.checkpoint import NoCheckpoint
from kd.config import SearchConfig, TrainConfig
from kd.data import Data
from kd.evaluate import calibration_images, rate
from kd.fit import FitSettings, fit
from kd.loss import Loss
from kd.prepare import Teaching, steps_per_epoch
from kd.targets import endless

Candidate = TypeVar("Candidate", bound=Hashable)
Score = tuple[bool, float, float]  # whether it had no trial, loss, accuracy: the less the better


def ranked(
    candidates: Sequence[Candidate],
    extract: Callable[[Candidate], nn.Module],
    config: SearchConfig,
    settings: TrainConfig,
    data: Data,
    taught: Teaching,
) -> dict[Candidate, Score]:
    """Score every candidate on the search split, with recalibrated BatchNorm.

    `extract` gives a student with a copy of its shared weights. Shared weights rank only roughly,
    for each is a compromise of many students. So the best `config.trials` are trained on for
    `config.trial_epochs` on the train split and scored again, ahead of all others. What guided
    the search decides: the teacher's loss, or the labels'.
    """
    loss = settings.loss(settings.guide)
    images = calibration_images(data.train, settings.batch, settings.seed)
    rated = partial(rate, images=images, split=data.search, outputs=taught.search, loss=loss)
    scores = {a: (True, *rated(extract(a))) for a in candidates}
    best = sorted(scores, key=lambda a: scores[a])[: config.trials]
    for number, candidate in enumerate(best, start=1):
        student = extract(candidate)
        description = f"trial {number} of {len(best)}"
        train_on(student, config, settings, data, taught, loss, description)
        scores[candidate] = (False, *rated(student))
    return scores


def train_on(
    student: nn.Module,
    config: SearchConfig,
    settings: TrainConfig,
    data: Data,
    taught: Teaching,
    loss: Loss,
    description: str,
) -> None:
    """Train a student on from the weights that it has, on the train split alone."""
    stream = (data.train, taught.train, settings.views, settings.batch, config.seed)
    fit(
        student,
        partial(endless, *stream, settings.workers),
        loss,
        FitSettings(
            config.trial_epochs,
            config.trial_learning_rate,
            config.weight_decay,
            precision=config.precision,
            accumulate=settings.accumulate,
        ),
        steps_per_epoch(data, settings.batch),
        description,
        lambda *_, **__: None,
        NoCheckpoint(),
    )
