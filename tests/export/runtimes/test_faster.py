"""Ratios by hand, of what a clock that is made up has seen."""

import itertools
import math
from collections.abc import Iterator, Mapping

import pytest

from base.errors import UserError
from export.runtimes import faster
from export.runtimes.faster import PATIENCE, Ratios, compare_forms, refuse_slower
from export.timing.stopwatch import Round, Runner

BOTH = Ratios({"int8": (0.5, 2.0, 1.0), "int8-signed": (0.25, 0.25, 0.5)})


def test_the_mean_is_geometric() -> None:
    """Twice as fast and twice as slow are as fast together."""
    assert BOTH.mean("int8") == pytest.approx(1)
    assert BOTH.mean("int8-signed") == pytest.approx((0.25 * 0.25 * 0.5) ** (1 / 3))
    assert Ratios({"bf16": (0.7,)}).mean("bf16") == pytest.approx(0.7)


def test_the_fastest_is_so_on_average() -> None:
    """Not by its best network, nor by where it stands."""
    assert BOTH.fastest == "int8-signed"
    assert Ratios({"int8": (0.6, 0.6), "int8-signed": (0.1, 9.0)}).fastest == "int8"
    assert Ratios({"int8-signed": (0.6, 0.6), "int8": (0.5, 0.7)}).fastest == "int8"


def test_it_says_all_forms_the_fastest_first() -> None:
    assert str(BOTH) == (
        "int8-signed takes 0.31 times fp32's milliseconds, 0.25 to 0.50 over 3 students, int8 1.00"
    )
    assert str(Ratios({"bf16": (0.5, 0.75)})) == (
        "bf16 takes 0.61 times fp32's milliseconds, 0.50 to 0.75 over 2 students"
    )


def test_what_is_not_faster_is_refused_with_the_ratio_and_the_way_on() -> None:
    refuse_slower(BOTH, "--slower")
    refuse_slower(Ratios({"int8": (1.5, 1.5), "int8-signed": (0.9, 0.9)}), "--slower")
    for slower in (Ratios({"int8": (1.0, 1.0)}), Ratios({"int8": (0.9, 1.5), "other": (2, 2)})):
        with pytest.raises(UserError) as raised:
            refuse_slower(slower, "--slower")
        said = f"precision: {slower}; take fp32, or --slower to go on all the same"
        assert str(raised.value) == said


def test_forms_are_compared_network_by_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each visited beside the others, until patience is over; the machine's speed cancels."""
    seconds = {"fp32 0": 0.004, "fp32 1": 0.010, "int8 0": 0.002, "int8 1": 0.008}
    seconds |= {"int8-signed 0": 0.008, "int8-signed 1": 0.005}
    runs = {name: lambda: None for name in seconds}
    drawn = itertools.count(1)

    def rounds(named: Mapping[str, Runner], reference: Runner) -> Iterator[Round]:
        assert dict(named) == runs
        assert reference is runs["fp32 0"]
        for number in drawn:
            speed = 1 if number == 3 else 1 + number / 10
            yield Round({name: speed * seconds[name] for name in named}, 0.001, 0.1)

    monkeypatch.setattr(faster, "rounds", rounds)
    forms = ("fp32", "int8", "int8-signed")
    ratios = compare_forms({form: [runs[f"{form} {i}"] for i in (0, 1)] for form in forms})
    assert ratios.by_form.keys() == {"int8", "int8-signed"}
    assert ratios.by_form["int8"] == pytest.approx((0.5, 0.8))
    assert ratios.by_form["int8-signed"] == pytest.approx((2.0, 0.5))
    # All are as slow in a round, so the spread is 0, and nothing but the number of rounds counts.
    assert next(drawn) == PATIENCE.least_rounds + 1
    assert ratios.mean("int8") == pytest.approx(math.sqrt(0.4))
