"""What commonly goes wrong in a search, looked for in its own numbers when it is over."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from supernet.alpha import Alpha, entropy, named_probabilities

# Of the first and of the last steps; single ones are noisy.
SHARE = 0.2
UNDECIDED = 0.97  # mean entropy, relative to uniform
COLLAPSED = 0.9  # probability of a stage's least depth
RAN_AWAY = 10.0  # latency's multiplier, in losses
NOT_FALLING = 0.98  # of fast students' first loss
APART = 1.5  # loss on the search split, in losses of fair students on the train split


def alarms(alpha: Alpha, lines: Sequence[Mapping]) -> list[str]:
    """Say in a line each what looks broken; `lines` are those of the run's metrics.jsonl.

    The usual failures of differentiable search: an alpha that never decides, depth that collapses
    (R-DARTS, Zela et al., arXiv:1909.09656), a latency term that dominates, shared weights that do
    not learn, and ones that fit their own split alone.
    """
    w, steps = _last_run(lines, "w"), _last_run(lines, "alpha")
    looked_for = (
        _undecided(alpha),
        _collapsed(alpha),
        _ran_away(steps),
        _not_falling(w),
        _apart(w, steps),
    )
    return [line for line in looked_for if line]


def _undecided(alpha: Alpha) -> str | None:
    fastest_ms, slowest_ms = alpha.range_ms()
    left = entropy(alpha((fastest_ms * slowest_ms) ** 0.5))
    if left <= UNDECIDED:
        return None
    return (
        f"alpha is nearly uniform at the end (entropy {left:.0%} of the most): it has not decided; "
        "more --alpha-steps, or a higher --alpha-learning-rate"
    )


def _collapsed(alpha: Alpha) -> str | None:
    slowest_ms = alpha.range_ms()[1]
    depths = {
        name: choices
        for name, choices in named_probabilities(alpha, slowest_ms).items()
        if name.endswith(".depth")
    }
    least = [choices[min(choices, key=int)] for choices in depths.values()]
    if not least or min(least) <= COLLAPSED:
        return None
    return (
        f"depth is at its least in every stage (probability {min(least):.0%} and more) even for "
        f"{slowest_ms:.4g} ms, which allow the deepest: the search has collapsed; more --w-epochs"
    )


def _ran_away(steps: Sequence[Mapping]) -> str | None:
    if not steps:
        return None
    multiplier = fmean(_end(steps, "lambda"))
    loss = fmean(_end(steps, "search_loss"))
    if multiplier <= RAN_AWAY * loss:
        return None
    return (
        f"the latency multiplier ended at {multiplier:.3g}, {multiplier / loss:.0f} times the loss:"
        " latency alone decides; lower --multiplier-rate"
    )


def _not_falling(w: Sequence[Mapping]) -> str | None:
    if not w:
        return None
    first, last = fmean(_start(w, "fast")), fmean(_end(w, "fast"))
    if last <= NOT_FALLING * first:
        return None
    return (
        f"the loss of fast students does not fall ({first:.3g} at first, {last:.3g} at the end): "
        "shared weights do not learn; another --w-learning-rate, more --w-epochs"
    )


def _apart(w: Sequence[Mapping], steps: Sequence[Mapping]) -> str | None:
    if not w or not steps:
        return None
    train, search = fmean(_end(w, "fair")), fmean(_end(steps, "search_loss"))
    if search <= APART * train:
        return None
    return (
        f"loss {search:.3g} on the search split, {train:.3g} on the train split: shared weights fit"
        " their own images alone; more images, stronger --augment, fewer --w-epochs"
    )


def _last_run(lines: Sequence[Mapping], phase: str) -> list[Mapping]:
    """Lines of a phase since it was last begun; one that was interrupted left lines, too."""
    own = [line for line in lines if line["phase"] == phase]
    starts = [i for i, line in enumerate(own) if line["step"] == 0]
    return own[starts[-1] :] if starts else own


def _start(lines: Sequence[Mapping], name: str) -> list[float]:
    return [line[name] for line in lines[: max(1, int(SHARE * len(lines)))]]


def _end(lines: Sequence[Mapping], name: str) -> list[float]:
    return [line[name] for line in lines[-max(1, int(SHARE * len(lines))) :]]
