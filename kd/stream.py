"""What a run's training draws from: batches without end, on the device."""

from collections.abc import Iterator

import torch

from kd.config import TrainConfig
from kd.data import Split
from kd.targets import Batch, Outputs, endless, on_device


def streamed(
    config: TrainConfig,
    device: torch.device,
    split: Split,
    outputs: Outputs,
    batch: int,
    start: int,
) -> Iterator[Batch]:
    """Batches of `split` from number `start` on, in the order that the run's seed decides."""
    rest = (batch, config.seed, config.workers, start)
    for drawn in endless(split, outputs, config.views, *rest):
        yield on_device(drawn, device)
