"""What the choices of a space are worth to a student trained from scratch: a Bayesian linear model.

Shared weights tell some choices better and others worse than they are, and that the same way in
every supernet (docs/log/ranking-and-regret.md). So their surrogate is what is believed at first,
as one feature among others; a few students that were trained say where it is wrong. A choice counts
by its place and, beside that, by its kind wherever it stands: one student with dense convolutions
says something of all others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from supernet.choice.surrogate import Surrogate, encode_architecture
from supernet.space import Architecture, SearchSpace

# In standard deviations of the losses: the noise of one training; what the surrogate tells of them;
# how far choices may be from that, by their kind and by their place. With few students to learn
# from, what holds in all places has to be learned first (docs/log/ranking-and-regret.md).
NOISE, TOLD, TOLD_SPREAD = 0.5, 0.5, 0.5
BY_PLACE, BY_KIND = 0.5, 2.0
FEWEST = 4  # students, whose losses say how much losses differ


@dataclass(frozen=True, eq=False)
class Belief:
    """A normal distribution of weights [F + 1]; the loss of every choice [P] is linear in them.

    The last weight is a constant, for those that were tried are not what all are on average. Losses
    are `base` + `scale` times what the model says.
    """

    space: SearchSpace
    choices: np.ndarray  # [P, F]: what a weight adds to the loss of a choice
    average: np.ndarray  # [P]: of the one-hot choices of students
    mean: np.ndarray  # [F + 1]
    covariance: np.ndarray  # [F + 1, F + 1]
    base: float = 0.0
    scale: float = 1.0

    def drawn(self, spread: float, draws: np.random.Generator) -> np.ndarray:
        """Draw the losses of all choices [P], `spread` times as far from the mean as they may be.

        They are in standard deviations of students' losses, and only differences count.
        """
        # Eigenvectors would do as well, but those of equal values hang on the last bit.
        noise = np.linalg.cholesky(self.covariance) @ draws.standard_normal(len(self.mean))
        return self.choices @ (self.mean + spread * noise)[:-1]

    def loss(self, architecture: Architecture) -> tuple[float, float]:
        """Return the loss to expect of an architecture's training, and its standard deviation."""
        features = self.features([architecture])[0]
        spread = np.sqrt(features @ self.covariance @ features + NOISE**2)
        return self.base + self.scale * float(features @ self.mean), self.scale * float(spread)

    def features(self, architectures: Sequence[Architecture]) -> np.ndarray:
        """Return what the weights count for in the losses of architectures [N, F + 1]."""
        designs = np.stack([encode_architecture(self.space, a).numpy() for a in architectures])
        constant = np.ones(len(architectures))
        return np.column_stack([(designs - self.average) @ self.choices, constant])

    def after(self, losses: Mapping[Architecture, float]) -> "Belief":
        """Return what is believed after students were trained to these losses (Bayes' rule).

        To be asked of what is believed at first, with all losses at once. Until there are a few,
        nothing is known of how much they differ, and nothing is learned.
        """
        found = without_outliers(np.array(list(losses.values())))
        if len(losses) < FEWEST or not np.isfinite(found).all():
            return self
        base, scale = float(found.mean()), max(float(found.std()), np.finfo(float).tiny)
        features = self.features(list(losses))
        precision = np.linalg.inv(self.covariance)
        covariance = np.linalg.inv(precision + features.T @ features / NOISE**2)
        known = precision @ self.mean + features.T @ ((found - base) / scale) / NOISE**2
        return replace(self, mean=covariance @ known, covariance=covariance, base=base, scale=scale)


def believed_at_first(surrogate: Surrogate, students: Sequence[Architecture]) -> Belief:
    """Return what is believed before any student is trained.

    The scales are those of `students`, drawn at random: `BY_PLACE` and `BY_KIND` are by how much
    choices make their losses differ, and the surrogate's losses have a deviation of 1.
    """
    space, told = surrogate.space, surrogate.losses.numpy()
    designs = np.stack([encode_architecture(space, a).numpy() for a in students])
    groups = (np.eye(len(told)), kinds_of_choices(space), told[:, None])
    varies = [max((designs @ group).var(axis=0).sum(), np.finfo(float).eps) for group in groups]
    spreads = (BY_PLACE, BY_KIND, 1.0)
    choices = np.hstack(
        [s * group / np.sqrt(v) for s, group, v in zip(spreads, groups, varies, strict=True)]
    )
    mean, variance = np.zeros(choices.shape[1] + 1), np.ones(choices.shape[1] + 1)
    mean[-2], variance[-2] = TOLD, TOLD_SPREAD**2
    return Belief(space, choices, designs.mean(axis=0), mean, np.diag(variance))


def without_outliers(losses: np.ndarray) -> np.ndarray:
    """Return losses [N] of which none is further above the median than 4 of its deviations.

    A training that nearly diverged, or did, would hide all other differences.
    """
    with np.errstate(invalid="ignore"):
        median = np.median(losses)
        return np.minimum(losses, median + 4 * np.median(np.abs(losses - median)))


def kinds_of_choices(space: SearchSpace) -> np.ndarray:
    """Return which choices are of one kind [P, K], 1 or 0: the same choice in whatever layer."""
    kinds = [
        (".".join(d.name.split(".")[2:]) or d.name, choice)
        for d in space.decisions()
        for choice in d.choices
    ]
    return np.array([[kind == other for other in dict.fromkeys(kinds)] for kind in kinds], float)
