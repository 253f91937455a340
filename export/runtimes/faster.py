"""Is a precision faster than fp32 here, and in which of its forms?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from base.errors import UserError
from export.timing.stopwatch import Patience, Runner, rounds, timings

FP32 = "fp32"
# A look is enough: forms differ by half and more.
PATIENCE = Patience(0.02, 8, least_rounds=6)


@dataclass(frozen=True)
class Ratios:
    """Milliseconds of the same networks in each form of a precision, over those in fp32."""

    by_form: Mapping[str, tuple[float, ...]]

    @property
    def fastest(self) -> str:
        """The form that is fastest on average, of those networks alike."""
        return min(self.by_form, key=self.mean)

    def mean(self, form: str) -> float:
        """Return the geometric mean."""
        return math.exp(sum(map(math.log, self.by_form[form])) / len(self.by_form[form]))

    def __str__(self) -> str:
        own = self.by_form[self.fastest]
        others = (
            f", {form} {self.mean(form):.2f}" for form in self.by_form if form != self.fastest
        )
        return (
            f"{self.fastest} takes {self.mean(self.fastest):.2f} times fp32's milliseconds, "
            f"{min(own):.2f} to {max(own):.2f} over {len(own)} students{''.join(others)}"
        )


def compare_forms(runners: Mapping[str, Sequence[Runner]]) -> Ratios:
    """Time the same networks in fp32 and in every form, interleaved."""
    named = {f"{form} {i}": run for form, own in runners.items() for i, run in enumerate(own)}
    done = []
    for latest in rounds(named, runners[FP32][0]):
        done.append(latest)
        if PATIENCE.is_over(done):
            break
    ms = {name: timing.ms for name, timing in timings(done).items()}
    return Ratios(
        {
            form: tuple(ms[f"{form} {i}"] / ms[f"{FP32} {i}"] for i in range(len(own)))
            for form, own in runners.items()
            if form != FP32
        }
    )


def refuse_slower(ratios: Ratios, option: str) -> None:
    """Raise `UserError` when no form is faster than fp32; `option` goes on all the same."""
    if ratios.mean(ratios.fastest) >= 1:
        raise UserError(f"precision: {ratios}; take fp32, or {option} to go on all the same")
