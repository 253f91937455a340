"""Brief trainings of one search: students on trial, judged on images they have not learned from."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from torch import nn

from base.phase import Phase
from base.processes import from_main_process
from kd.evaluate import score
from kd.images.splits import LEARNED, learnable
from kd.retrain import retrain
from kd.run.metrics import open_phase
from kd.student.retraining import Retrainer


@dataclass
class Found:
    """Loss and accuracy on the search split by what was trained, in order; kept for a resume."""

    scores: dict[str, tuple[float, float]] = field(default_factory=dict)

    def state_dict(self) -> dict[str, object]:
        """Return the scores."""
        return {"scores": {what: list(own) for what, own in self.scores.items()}}

    def load_state_dict(self, state: Mapping) -> None:
        """Take them back."""
        self.scores = {str(what): (loss, right) for what, (loss, right) in state["scores"].items()}


class Tryouts:
    """Trains students of one search briefly; what was done before an interruption is known."""

    def __init__(self, retrainer: Retrainer, name: str) -> None:
        self._retrainer, self._name = retrainer, name
        identity = retrainer.identity()
        self._phase = open_phase(retrainer.metrics, f"trials_{name}", **identity)
        self._found = Found()
        self._phase.checkpoint.restore({"found": self._found})

    def scores(self) -> Mapping[str, tuple[float, float]]:
        """Return loss and accuracy of all that was tried, in order."""
        return self._found.scores

    def loss(self, what: str, student: nn.Module) -> float:
        """Train `student` from its start, unless `what` it is was tried; return its loss.

        It learns from the train split what the search is guided by, and is judged on the search
        split.
        """
        scores = self._found.scores
        if what not in scores:
            found = self._scored(what, student)
            done = len(scores)
            self._phase.log(done, loss=found[0], accuracy=found[1])
            scores[what] = found
            self._phase.checkpoint.save_if_due(done + 1, done + 1, {"found": self._found})
        return scores[what][0]

    def _scored(self, what: str, student: nn.Module) -> tuple[float, float]:
        own = self._retrainer
        settings, data, outputs = own.settings, own.data, own.outputs
        names, loss = learnable(LEARNED, settings.guide), settings.loss(settings.guide)
        loader, recipe = settings.loader(), own.config.trial(settings.accumulate)
        phase = f"trial_{self._name}"
        checkpoint = own.metrics.checkpoint(phase, what=what, **own.identity())
        learned = (data.joined(names), outputs.joined(names))
        retrain(
            student.to(own.device),
            *learned,
            loss,
            recipe,
            replace(loader, seed=own.config.seed),
            Phase(phase, checkpoint=checkpoint),
            images=len(data.joined(LEARNED)),
        )
        held_out = (data.search, outputs.search, loss, settings.batch, loader.workers)
        return from_main_process(partial(score, student, *held_out))
