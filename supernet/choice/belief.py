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

# In standard deviations of the losses: noise of one training, and what the surrogate tells of them.
NOISE, TOLD, TOLD_SPREAD = 0.5, 0.5, 0.5
FEWEST = 4  # students, whose losses say how much losses differ


@dataclass(frozen=True, eq=False)
class Belief:
    """A normal distribution of weights [F], of which the loss of every choice [P] is a linear map.

    Losses are `base` + `scale` times what the model says, which is 0 on average over students.
    """

    space: SearchSpace
    choices: np.ndarray  # [P, F]: what a weight adds to the loss of a choice
    average: np.ndarray  # [P]: of the one-hot choices of students
    mean: np.ndarray  # [F]
    covariance: np.ndarray  # [F, F]
    base: float = 0.0
    scale: float = 1.0

    def drawn(self, spread: float, draws: np.random.Generator) -> np.ndarray:
        """Draw the losses of all choices [P], `spread` times as far from the mean as they may be.

        They are in standard deviations of students' losses, and only differences count.
        """
        values, vectors = np.linalg.eigh(self.covariance)
        noise = vectors @ (np.sqrt(values.clip(0)) * draws.standard_normal(len(values)))
        return self.choices @ (self.mean + spread * noise)

    def loss(self, architecture: Architecture) -> tuple[float, float]:
        """Return the loss to expect of an architecture's training, and its standard deviation."""
        features = self.features([architecture])[0]
        spread = np.sqrt(features @ self.covariance @ features + NOISE**2)
        return self.base + self.scale * float(features @ self.mean), self.scale * float(spread)

    def features(self, architectures: Sequence[Architecture]) -> np.ndarray:
        """Return what the weights count for in the losses of architectures [N, F]."""
        designs = [encode_architecture(self.space, a).numpy() for a in architectures]
        return (np.stack(designs) - self.average) @ self.choices

    def after(self, losses: Mapping[Architecture, float]) -> "Belief":
        """Return what is believed after students were trained to these losses (Bayes' rule).

        Until there are a few, nothing is known of how much losses differ, and nothing is learned.
        """
        if len(losses) < FEWEST:
            return self
        found = np.array(list(losses.values()))
        base, scale = float(found.mean()), max(float(found.std()), np.finfo(float).tiny)
        # The mean of those tried is not that of all: a constant is unknown as well.
        features = np.column_stack([self.features(list(losses)), np.ones(len(found))])
        size = len(self.mean)
        precision = np.eye(size + 1)
        precision[:size, :size] = np.linalg.inv(self.covariance)
        known = precision @ np.append(self.mean, 0) + features.T @ (found - base) / scale / NOISE**2
        covariance = np.linalg.inv(precision + features.T @ features / NOISE**2)
        mean = covariance @ known
        return replace(
            self,
            mean=mean[:size],
            covariance=covariance[:size, :size],
            base=base + scale * float(mean[size]),
            scale=scale,
        )


def believed_at_first(surrogate: Surrogate, students: Sequence[Architecture]) -> Belief:
    """Return what is believed before any student is trained.

    Among `students`, drawn at random, the choices by place, those by kind and the surrogate each
    make losses differ by about one standard deviation.
    """
    space, told = surrogate.space, surrogate.losses.numpy()
    designs = np.stack([encode_architecture(space, a).numpy() for a in students])
    groups = (np.eye(len(told)), kinds_of_choices(space), told[:, None])
    varies = [max((designs @ group).var(axis=0).sum(), np.finfo(float).eps) for group in groups]
    scaled = [group / np.sqrt(v) for group, v in zip(groups, varies, strict=True)]
    choices = np.hstack(scaled)
    mean, variance = np.zeros(choices.shape[1]), np.ones(choices.shape[1])
    mean[-1], variance[-1] = TOLD, TOLD_SPREAD**2
    return Belief(space, choices, designs.mean(axis=0), mean, np.diag(variance))


def kinds_of_choices(space: SearchSpace) -> np.ndarray:
    """Return which choices are of one kind [P, K], 1 or 0: the same choice in whatever layer."""
    kinds = [
        (".".join(d.name.split(".")[2:]) or d.name, choice)
        for d in space.decisions()
        for choice in d.choices
    ]
    return np.array([[kind == other for other in dict.fromkeys(kinds)] for kind in kinds], float)
