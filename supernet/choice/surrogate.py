"""An additive surrogate of the students' losses with shared weights.

Shared weights exaggerate what choices do together, beside the sum of what each does alone; students
trained alone show little of it (docs/log/ranking-and-regret.md). A linear model of a few hundred
students leaves it out, and costs nothing for one student more. BINAS (Nayman et al. 2021,
arXiv:2110.12399) ranks so.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from torch import Tensor

from supernet.space import Architecture, SearchSpace

RIDGES = np.logspace(-4, 3, 15)


@dataclass(frozen=True)
class Surrogate:
    """Loss of a student as a sum over its choices."""

    space: SearchSpace
    base: float
    losses: Tensor  # [P], of every choice of every decision (float64)
    explained: float  # share of the variance, each student left out of its own fit
    students: int  # that it was fitted to

    def __str__(self) -> str:
        """Say how well it does."""
        return f"explains {self.explained:.0%} of how {self.students} random students differ"

    def loss(self, architecture: Architecture) -> float:
        """Return the loss that `architecture` is expected to have with the shared weights."""
        return self.base + float(encode_architecture(self.space, architecture) @ self.losses)


def fit_surrogate(space: SearchSpace, losses: Mapping[Architecture, float]) -> Surrogate:
    """Fit by ridge regression to two or more students; how strong a ridge, leave-one-out says."""
    designs = torch.stack([encode_architecture(space, a) for a in losses]).numpy()
    targets = np.array(list(losses.values()))
    model = RidgeCV(RIDGES).fit(designs, targets)
    explained = 1 + model.best_score_ / max(targets.var(), np.finfo(float).tiny)
    return Surrogate(
        space, float(model.intercept_), torch.from_numpy(model.coef_), explained, len(losses)
    )


def encode_architecture(space: SearchSpace, architecture: Architecture) -> Tensor:
    """Return a vector [P]: 1 at every choice of `architecture`, 0 where it decides nothing.

    So an expansion counts by its operation, whose decision it is.
    """
    decided = space.decided(architecture)
    parts = [p * (name in decided) for name, p in space.one_hot(architecture).items()]
    return torch.cat(parts).double()
