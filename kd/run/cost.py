"""What a search costs, in images that pass through a network, beside what others would cost."""

from dataclasses import dataclass

from kd.batches import steps_per_epoch
from kd.evaluate import CALIBRATION_BATCHES
from kd.images.splits import LEARNED, RETRAINED, Data
from kd.run.search_config import SearchConfig
from kd.run.train_config import TrainConfig
from kd.teacher.outputs import stored_shapes

# AKD trains about 10,000 candidates for 5 epochs each, for every teacher and every budget
# (Liu et al. 2020, arXiv:1911.09074, section 4.1).
AKD_CANDIDATES, AKD_EPOCHS = 10_000, 5
CONTROLS = 10
# Backward costs about two passes forward.
FORWARDS = 3


@dataclass(frozen=True)
class Passes:
    """Images that pass `forward` alone, and `both` forward and backward."""

    forward: int = 0
    both: int = 0

    def __add__(self, other: "Passes") -> "Passes":
        return Passes(self.forward + other.forward, self.both + other.both)

    def over(self, other: "Passes") -> float:
        """Return how many times as much as `other` it is, in passes forward."""
        return (self.forward + FORWARDS * self.both) / (other.forward + FORWARDS * other.both)

    def __str__(self) -> str:
        """Say both numbers."""
        forward = f"{self.forward:,} images forward" if self.forward else ""
        both = f"{self.both:,} forward and backward" if self.both else ""
        return ", ".join(filter(None, (forward, both)))


def supernet_passes(config: TrainConfig, data: Data) -> Passes:
    """Count what train.py does once for all budgets: teacher's outputs, w, alpha and the survey.

    A step of w parts its batch among students, so an image passes one of them.
    """
    calibration = CALIBRATION_BATCHES * min(config.batch, len(data.train))
    survey = Passes(config.surveyed * (len(data.search) + calibration))
    w = config.w_epochs * steps_per_epoch(len(data.joined(LEARNED)), config.batch) * config.batch
    alpha = config.alpha_steps * config.alpha_batch
    return _outputs(config, data) + Passes(both=w + alpha) + survey


def _outputs(config: TrainConfig, data: Data) -> Passes:
    if config.teacher_request().stored:
        return Passes()
    if config.teacher_outputs == "online":
        alpha = config.alpha_steps * config.alpha_batch
        return Passes(config.w_epochs * len(data.joined(LEARNED)) + alpha)
    shapes = [shape for _, shape in stored_shapes(data, config.views, config.most_classes).values()]
    return Passes(sum((shape.views + 1) * shape.images for shape in shapes))


def retraining_passes(config: SearchConfig, data: Data, fine_tuned: bool = False) -> Passes:
    """Count what a budget adds: the training of one student from scratch, and on for int8."""
    epochs = config.epochs + (config.fine_tuning_epochs if fine_tuned else 0)
    return Passes(both=epochs * len(data.joined(RETRAINED)))


def trials_passes(config: SearchConfig, data: Data, tried: int) -> Passes:
    """Count the brief trainings of students that were tried for a budget."""
    learned = config.trial_epochs * len(data.joined(LEARNED))
    return Passes(tried * len(data.search), tried * learned)


def akd_passes(data: Data) -> Passes:
    """Count the search of AKD for one budget."""
    return Passes(both=AKD_CANDIDATES * AKD_EPOCHS * len(data.train))


def train_cost(config: TrainConfig, data: Data) -> str:
    """Say what the supernet costs, beside AKD's search for one budget."""
    own, akd = supernet_passes(config, data), akd_passes(data)
    return (
        f"{own}, once for all budgets; AKD's search for one, {AKD_CANDIDATES:,} candidates of "
        f"{AKD_EPOCHS} epochs: {akd}, {akd.over(own):,.0f} times as much"
    )


def search_cost(
    config: SearchConfig, settings: TrainConfig, data: Data, tried: int, fine_tuned: bool = False
) -> str:
    """Say what one budget costs, beside training controls to choose among."""
    if config.architecture:
        return f"{retraining_passes(config, data, fine_tuned)} to retrain, nothing to search"
    trials = f"{trials_passes(config, data, tried)} to try {tried} students; " if tried else ""
    one, supernet = retraining_passes(config, data, fine_tuned), supernet_passes(settings, data)
    controls = Passes(both=CONTROLS * one.both)
    return (
        f"{trials}{one} to retrain; training {CONTROLS} controls to choose among: {controls}, "
        f"{controls.over(supernet):.2g} times train.py's"
    )
