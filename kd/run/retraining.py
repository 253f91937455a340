"""The trainings of search.py: the student, its controls and its rivals, all of one recipe."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from kd.evaluate import accuracy, balanced_accuracy, predict
from kd.images.splits import RETRAINED, Data, learnable
from kd.retrain import retrain
from kd.run.metrics import AnyMetrics, open_phase
from kd.run.search_config import SearchConfig
from kd.run.settings import search_identity
from kd.run.train_config import TrainConfig
from kd.teacher.outputs import TeacherOutputs


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
class Retrainer:
    """Trains networks on what a run's teacher says; all see the same images in the same order."""

    config: SearchConfig
    settings: TrainConfig  # of train.py
    data: Data
    outputs: TeacherOutputs
    table: str  # fingerprint of the latency table
    metrics: AnyMetrics
    device: torch.device

    def train(self, own: Retraining) -> nn.Module:
        """Train a network in place on all but the test split, which waits.

        From labels it learns for as many steps on the images that have them.
        """
        network, way = own.network.to(self.device), repr((own.what, own.learns_from))
        identity = search_identity(self.config, self.table)
        names = learnable(RETRAINED, own.learns_from)
        retrain(
            network,
            self.data.joined(names),
            self.outputs.joined(names),
            self.settings.loss(own.learns_from),
            self.config.retraining(self.settings.accumulate),
            replace(self.settings.loader(), seed=self.config.seed),
            open_phase(self.metrics, f"student_{own.name}", way=way, **identity),
            images=len(self.data.joined(RETRAINED)),
        )
        return network.cpu().eval()

    def test_answers(self, network: nn.Module) -> tuple[Tensor, Tensor]:
        """Return logits [N, K] and labels [N] of the test split, to report."""
        return predict(network, self.data.test.view(None), self.settings.batch)

    def test_scores(self, network: nn.Module) -> dict[str, float]:
        """Return a network's accuracies on the test split as metrics.json names them, to report."""
        answers = self.test_answers(network)
        return {
            "test_accuracy": accuracy(*answers),
            "test_balanced_accuracy": balanced_accuracy(*answers),
        }
