"""A retrainer for tests: tiny images, numbers and checkpoints kept at once, no test split."""

from dataclasses import dataclass, field
from pathlib import Path

from base.checkpoint import Checkpoint
from export.timing.unit_of_work import UnitOfWork
from kd.images.splits import Split
from kd.run.search_config import SearchConfig
from kd.run.train_config import TrainConfig

UNIT, INT8 = UnitOfWork(1, (8, 8)), UnitOfWork(1, (8, 8), precision="int8")
CONFIG = SearchConfig(epochs=3, learning_rate=0.05, fine_tuning_epochs=2)
SETTINGS = TrainConfig(batch=32, views=2)


class Unread(Split):
    """Images that nobody may look at."""

    def __getitem__(self, index: int) -> tuple:
        raise AssertionError(f"image {index} of the test split was read")


@dataclass
class Numbers:
    """A run's numbers and checkpoints, kept after every step."""

    folder: Path
    stop_in: str = ""  # the phase that is interrupted after its first epoch
    lines: list[tuple[str, int]] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)

    def checkpoint(self, *names: str, **identity: str) -> Checkpoint:
        self.phases.append(names[0])
        return Checkpoint(self.folder / f"{names[0]}.pt", identity, 0)

    def log(self, phase: str, step: int, **numbers: float) -> None:
        self.lines.append((phase, step))
        if phase == self.stop_in:
            raise KeyboardInterrupt
