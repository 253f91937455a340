"""The trainings of search.py: the student, its controls and its rivals, all of one recipe."""

import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from base.processes import from_main_process
from export.int8.fake_quantised import fake_quantised
from export.onnx_file import to_onnx
from export.parity import Rounding
from export.timing.unit_of_work import SIGNED, UnitOfWork
from kd.batches import LabelOutputs
from kd.evaluate import accuracy, balanced_accuracy, calibration_images, predict
from kd.fit import FitSettings
from kd.images.splits import RETRAINED, learnable
from kd.retrain import retrain
from kd.run.cost import search_cost
from kd.run.metrics import AnyMetrics, open_phase
from kd.run.search_config import SearchConfig
from kd.run.settings import search_identity, settings_of
from kd.run.taught import Taught
from kd.student.final_evaluation import (
    FinalEvaluation,
    FinalVerification,
    final_evaluation,
    final_verification,
)
from kd.student.int8 import CALIBRATION_BATCH, CALIBRATION_BATCHES, answers, in_int8
from kd.student.verification import verify


@dataclass(frozen=True)
class Retraining:
    """A network that is trained from its start, and whether from "kd" or from "labels" alone.

    `what` it is tells its checkpoint from that of another network of the same `name`.
    """

    name: str
    what: object
    network: nn.Module
    learns_from: str


@dataclass(frozen=True)
class Trained:
    """A trained network, and the ONNX model that ships in its place where that is in int8.

    `rounding` is what int8 costs on the search split, which it has learned from; `fine_tuned` says
    whether the model is of weights that were trained on for int8.
    """

    network: nn.Module
    int8: bytes | None = None
    rounding: Rounding | None = None
    fine_tuned: bool = False

    def model(self, unit: UnitOfWork) -> bytes:
        """Return what ships as an ONNX model."""
        exact = partial(to_onnx, self.network, torch.zeros(2, *unit.shape))
        return self.int8 or exact().SerializeToString()


@dataclass(frozen=True)
class Retrainer:
    """Trains networks by one recipe, on the same images in the same order.

    All that learn from the teacher see the same views.
    """

    config: SearchConfig
    taught: Taught
    table: str  # fingerprint of the latency table
    start: str  # what tells the weights that students start from
    unit: UnitOfWork  # that the networks ship for
    metrics: AnyMetrics
    device: torch.device

    def identity(self) -> dict[str, str]:
        """Return what the checkpoints of the search depend on."""
        return search_identity(self.config, self.table, self.start)

    def train(self, own: Retraining) -> Trained:
        """Train a network in place on all but the test split, which waits; round it as it ships.

        Where int8 costs too much, a copy is trained on for a few epochs, rounded as in int8.
        """
        recipe = self.config.retraining(self.taught.config)
        network = self._fitted(own, recipe)
        if not self.unit.is_int8:
            return Trained(network)
        found = self._in_int8(network, network)
        if found.rounding.within(self.config.accuracy_loss):
            return found
        tuned = copy.deepcopy(network)
        with fake_quantised(tuned, signed=self.unit.precision == SIGNED):
            self._fitted(
                replace(own, name=f"{own.name}-int8", network=tuned),
                self.config.fine_tuning(self.taught.config),
            )
        tuned = replace(self._in_int8(tuned.eval(), network), fine_tuned=True)
        return min(found, tuned, key=lambda one: one.rounding.lost)

    def _fitted(self, own: Retraining, recipe: FitSettings) -> nn.Module:
        """Train in place; from labels for as many steps, on the images that have them.

        Labels need no stored views, so whoever learns from them sees new ones in every epoch.
        """
        network, way = own.network.to(self.device), repr((own.what, own.learns_from))
        names, config = learnable(RETRAINED, own.learns_from), self.taught.config
        split, outputs = self.taught.data.joined(names), self.taught.outputs.joined(names)
        images = len(self.taught.data.joined(RETRAINED))
        loader = replace(config.loader(), seed=self.config.seed)
        if own.learns_from == "labels":
            outputs = LabelOutputs(split, self.taught.data.answer_size)
            loader = replace(loader, views=recipe.epochs * images)  # more than it can see
        retrain(
            network,
            split,
            outputs,
            config.loss(own.learns_from),
            recipe,
            loader,
            open_phase(self.metrics, f"student_{own.name}", way=way, **self.identity()),
            images=images,
            quality=config.quality(),
        )
        return network.cpu().eval()

    def _in_int8(self, network: nn.Module, exact: nn.Module) -> Trained:
        """Round `network`, which stands for `exact`."""
        batch, train = self.taught.config.batch, self.taught.data.train
        seen = (CALIBRATION_BATCH, self.config.seed, CALIBRATION_BATCHES)
        images = calibration_images(train, *seen)
        judge = partial(in_int8, network, exact, images, self.taught.data.search, self.unit, batch)
        return Trained(exact, *from_main_process(judge))

    def facts(self, student: Trained, exact: Path, ships: Path, tried: int) -> dict[str, object]:
        """Judge a student and its files by the test split, to report; say how it was made.

        `tried` says how many students were trained briefly for its budget.
        """
        config, settings, data = self.config, self.taught.config, self.taught.data
        evaluation = self._final(student.network, exact, ships)
        return {
            **evaluation.facts(),
            "precision_kept": evaluation.precision_kept(config.accuracy_loss),
            "quality": settings.quality().name,
            "fine_tuned": student.fine_tuned,
            "seed": config.seed,
            "guide": settings.guide,
            "retrain_with": config.retrain_with,
            "settings": settings_of(config),
            "cost": search_cost(config, settings, data, tried, student.fine_tuned),
        }

    def _final(
        self, network: nn.Module, exact: Path, ships: Path
    ) -> FinalEvaluation | FinalVerification:
        data, teacher = self.taught.data, self.taught.outputs.test
        own = (self.unit, self.taught.config.batch)
        if data.pairs is not None:
            return final_verification(teacher, data.test, data.pairs, network, ships, *own)
        return final_evaluation(teacher, data.test, network, exact, ships, *own)

    def test_answers(self, trained: Trained) -> tuple[Tensor, Tensor]:
        """Return logits [N, K] and labels [N] of the test split, to report, as it ships."""
        test, batch = self.taught.data.test, self.taught.config.batch
        logits, labels = predict(trained.network, test.view(None), batch)
        if self.unit.precision != "fp32":
            model = trained.model(self.unit)
            logits = from_main_process(partial(answers, model, test, self.unit, batch))
        return logits, labels

    def test_scores(self, trained: Trained) -> dict[str, object]:
        """Return accuracies on the test split as metrics.json names them, to report."""
        told, pairs = self.test_answers(trained), self.taught.data.pairs
        if pairs is not None:
            found = verify(told[0], pairs)
            return {"test_accuracy": found.accuracy, "test_verification": found.facts()}
        return {
            "test_accuracy": accuracy(*told),
            "test_balanced_accuracy": balanced_accuracy(*told),
        }
