"""Budget-conditioned architecture logits, Gumbel-softmax samples, and the latency multiplier."""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernet.space import Choices, Decision, SearchSpace


def knot_weights(target_ms: float, log_knots: Tensor) -> Tensor:
    """Return the weights [N] of linear interpolation in log T between knots, constant beyond."""
    position = torch.tensor(math.log(target_ms), dtype=log_knots.dtype)
    position = position.clamp(log_knots[0], log_knots[-1])
    spacing = (log_knots[-1] - log_knots[0]) / (len(log_knots) - 1)
    return (1 - (position - log_knots).abs() / spacing).clamp(min=0)


class Alpha(nn.Module):
    """Architecture logits alpha(T): per decision one vector at every knot, linear in log T.

    One training serves every budget between the fastest and the slowest student of the space.
    """

    log_knots: Tensor

    def __init__(
        self, space: SearchSpace, fastest_ms: float, slowest_ms: float, knots: int
    ) -> None:
        super().__init__()
        self.decisions = space.decisions()
        total = sum(len(d.choices) for d in self.decisions)
        self.logits = nn.Parameter(torch.zeros(knots, total))
        ends = (math.log(fastest_ms), math.log(slowest_ms))
        self.register_buffer("log_knots", torch.linspace(*ends, knots, dtype=torch.float64))

    def range_ms(self) -> tuple[float, float]:
        """Return the budgets of the first and the last knot."""
        return math.exp(self.log_knots[0]), math.exp(self.log_knots[-1])

    def forward(self, target_ms: float) -> Choices:
        """Return log-probabilities of every decision's choices at budget `target_ms`."""
        weights = knot_weights(target_ms, self.log_knots).to(self.logits.dtype)
        parts = (weights @ self.logits).split([len(d.choices) for d in self.decisions])
        return {d.name: F.log_softmax(p, 0) for d, p in zip(self.decisions, parts, strict=True)}


def gumbel_sample(log_p: Choices, tau: float, generator: torch.Generator) -> Choices:
    """Draw one-hot choices; the gradient is that of softmax((log p + Gumbel noise) / tau).

    Straight-through Gumbel-softmax (Jang et al., arXiv:1611.01144).
    """
    drawn = {}
    for name, log_probabilities in log_p.items():
        uniform = torch.rand(log_probabilities.shape, generator=generator)
        gumbel = -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))
        soft = F.softmax((log_probabilities + gumbel) / tau, 0)
        hard = F.one_hot(soft.argmax(), len(soft)).to(soft.dtype)
        drawn[name] = hard + soft - soft.detach()
    return drawn


def probabilities(log_p: Choices) -> Choices:
    """Exponentiate: the relaxed choices whose latency is the expectation."""
    return {name: log_probabilities.exp() for name, log_probabilities in log_p.items()}


def entropy(log_p: Choices) -> float:
    """Return the mean entropy of the decisions, relative to uniform: 1 undecided, 0 decided."""
    open_decisions = [lp for lp in log_p.values() if len(lp) > 1]
    ratios = [-(lp.exp() * lp).sum().item() / math.log(len(lp)) for lp in open_decisions]
    return sum(ratios) / len(ratios)


def named_probabilities(alpha: Alpha, target_ms: float) -> dict[str, dict[str, float]]:
    """Return each choice's probability at `target_ms`, by decision; single choices left out."""
    with torch.no_grad():
        p = probabilities(alpha(target_ms))
    return {
        d.name: {_label(d, c): float(q) for c, q in zip(d.choices, p[d.name], strict=True)}
        for d in alpha.decisions
        if len(d.choices) > 1
    }


def preferences(alpha: Alpha, count: int) -> list[dict[str, dict[str, float]]]:
    """Return probabilities by decision and choice at `count` budgets, fastest to slowest."""
    fastest_ms, slowest_ms = alpha.range_ms()
    ratio = slowest_ms / fastest_ms
    budgets_ms = [fastest_ms * ratio ** (i / (count - 1)) for i in range(count)]
    return [named_probabilities(alpha, target_ms) for target_ms in budgets_ms]


def stage_shares(alpha: Alpha, target_ms: float) -> dict[str, float]:
    """Return each choice's probability at `target_ms`, its layers' mean: `stage2.fused.kernel=3`.

    Those of an operation's forms are given that operation.
    """
    shares: dict[str, list[float]] = {}
    for decision, choices in named_probabilities(alpha, target_ms).items():
        kind = ".".join(part for part in decision.split(".") if not part.startswith("layer"))
        for choice, p in choices.items():
            shares.setdefault(f"{kind}={choice}", []).append(p)
    return {name: sum(p) / len(p) for name, p in shares.items()}


def _label(decision: Decision, choice: int) -> str:
    return ("no", "yes")[choice] if decision.name.endswith("squeeze_excite") else str(choice)


class LatencyMultiplier:
    """lambda(T) >= 0 on alpha's knots, by dual ascent on E[ms] / T - 1 (LightNAS, TuNAS)."""

    def __init__(self, log_knots: Tensor, rate: float) -> None:
        self.log_knots, self.rate = log_knots, rate
        self.knots = torch.zeros(len(log_knots), dtype=log_knots.dtype)

    def at(self, target_ms: float) -> float:
        """Return the multiplier at budget `target_ms`."""
        return float(knot_weights(target_ms, self.log_knots) @ self.knots)

    def ascend(self, target_ms: float, excess: float) -> None:
        """Move the knots near `target_ms` by rate · excess, where excess = E[ms] / T - 1."""
        self.knots += self.rate * excess * knot_weights(target_ms, self.log_knots)
        self.knots.clamp_(min=0)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the multipliers at the knots."""
        return {"knots": self.knots}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take them back."""
        self.knots = state["knots"].clone()
