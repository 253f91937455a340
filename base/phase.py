"""A phase of a run, as the training loops see it: a name, a log and a checkpoint."""

from collections.abc import Callable
from dataclasses import dataclass, field

from base.checkpoint import Checkpointer, NoCheckpoint


def no_log(step: int, **numbers: float) -> None:
    """Log nothing."""


@dataclass(frozen=True)
class Phase:
    """One training of a run: its name, where its numbers go, and where it left off."""

    name: str
    log: Callable[..., None] = no_log  # log(step, **numbers)
    checkpoint: Checkpointer = field(default_factory=NoCheckpoint)
