"""A student trained from scratch on what its teacher says."""

from dataclasses import replace
from functools import partial

from torch import nn

from base.phase import Phase
from base.processes import this_process
from kd.batches import LoaderSettings, Outputs, endless
from kd.evaluate import ACCURACY, Quality, device_of
from kd.fit import FitSettings, fit
from kd.images.splits import Split
from kd.loss import Loss


def retrain(
    student: nn.Module,
    split: Split,
    outputs: Outputs,
    loss: Loss,
    settings: FitSettings,
    loader: LoaderSettings,
    phase: Phase,
    images: int | None = None,
    quality: Quality = ACCURACY,
) -> None:
    """Train `student` in place on `split` and the teacher's outputs for it.

    Every student of a seed sees the same images in the same order; a batch is never larger than the
    split, and parted alike among processes. An epoch has as many steps as `images` give, or the
    split's own. Raises `Diverged` when the loss stops being finite.
    """
    parts = this_process().num_processes * settings.accumulate
    loader = replace(loader, batch=min(loader.batch, len(split) // parts * parts))
    batches = partial(endless, split, outputs, loader, device_of(student))
    steps = (images or len(split)) // loader.batch
    fit(student, batches, loss, settings, steps, phase, quality)
