"""Brief trainings of one search: students on trial, judged on images they have not learned from."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from torch import nn

from base.errors import Diverged
from base.phase import Phase
from base.processes import from_main_process
from kd.evaluate import calibration_images, scores_recalibrated
from kd.images.splits import LEARNED, learnable
from kd.retrain import retrain
from kd.run.metrics import open_phase
from kd.student.retraining import Retrainer


@dataclass
class Found:
    """Of one search: milliseconds asked of the table, and what was trained; kept for a resume.

    `scores` are loss and quality on the search split by what was trained, in order.
    """

    asked_ms: float | None = None
    scores: dict[str, tuple[float, float]] = field(default_factory=dict)

    def state_dict(self) -> dict[str, object]:
        """Return both."""
        scores = {what: list(own) for what, own in self.scores.items()}
        return {"asked_ms": self.asked_ms, "scores": scores}

    def load_state_dict(self, state: Mapping) -> None:
        """Take them back."""
        self.asked_ms = None if state["asked_ms"] is None else float(state["asked_ms"])
        self.scores = {str(what): (loss, told) for what, (loss, told) in state["scores"].items()}


class BriefTrainings:
    """Trains students of one search briefly; what was done before an interruption is known."""

    def __init__(self, retrainer: Retrainer, name: str) -> None:
        self._retrainer, self._name = retrainer, name
        self._phase = open_phase(retrainer.metrics, f"trials_{name}", **retrainer.identity())
        self._found = Found()
        self._phase.checkpoint.restore({"found": self._found})

    def identity(self) -> dict[str, str]:
        """Return what its checkpoints depend on."""
        return self._retrainer.identity()

    def scores(self) -> Mapping[str, tuple[float, float]]:
        """Return loss and quality of all that was trained, in order."""
        return self._found.scores

    def asked_ms(self, find: Callable[[], float]) -> float:
        """Return the milliseconds that all are to take, found once for a search."""
        if self._found.asked_ms is None:
            self._found.asked_ms = find()
            self._keep()
        return self._found.asked_ms

    def loss(self, what: str, student: nn.Module) -> float:
        """Train `student` from its start, unless `what` it is was trained; return its loss.

        It learns from the train split what the search is guided by, and is judged on the search
        split, its BatchNorm statistics recalibrated. A training that diverges has an infinite loss.
        """
        scores = self._found.scores
        if what not in scores:
            found = self._scored(what, student)
            name = self._retrainer.taught.config.quality().name
            self._phase.log(len(scores), **{"loss": found[0], name: found[1]})
            scores[what] = found
            self._keep()
        return scores[what][0]

    def _keep(self) -> None:
        done = len(self._found.scores)
        self._phase.checkpoint.save_if_due(done, done, {"found": self._found})

    def _scored(self, what: str, student: nn.Module) -> tuple[float, float]:
        own = self._retrainer
        settings, data, outputs = own.taught.config, own.taught.data, own.taught.outputs
        names, loss = learnable(LEARNED, settings.guide), settings.loss(settings.guide)
        loader, recipe = settings.loader(), own.config.trial(settings)
        phase, quality = f"trial_{self._name}", settings.quality()
        checkpoint = own.metrics.checkpoint(phase, what=what, **own.identity())
        seeded, count = replace(loader, seed=own.config.seed), len(data.joined(LEARNED))
        learned = (data.joined(names), outputs.joined(names), loss, recipe, seeded)
        try:
            own_phase = Phase(phase, checkpoint=checkpoint)
            retrain(student.to(own.device), *learned, own_phase, count, quality)
        except Diverged:
            return math.inf, 0.0
        # After so few steps the running statistics of BatchNorm are those of weights long gone.
        images = calibration_images(data.train, settings.batch, own.config.seed)
        held_out = (images, data.search, outputs.search, loss, settings.batch, loader.workers)
        judge = partial(scores_recalibrated, [student], *held_out, quality)
        found, told = from_main_process(judge)[0]
        return (found if math.isfinite(found) else math.inf), told if math.isfinite(told) else 0.0
