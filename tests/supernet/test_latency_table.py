"""The latency table against brute force and finite differences; what it refuses."""

import json
import math
from collections.abc import Callable
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from base.errors import UserError
from supernet.latency.parts import assemble
from supernet.latency_table import LatencyTable, Place, places
from supernet.presets import preset_space
from supernet.space import FUSED, MBCONV, Architecture, Choices, SearchSpace


def relaxed(space: SearchSpace, seed: int) -> Choices:
    generator = torch.Generator().manual_seed(seed)
    return {
        d.name: torch.rand(len(d.choices), generator=generator).double().softmax(0)
        for d in space.decisions()
    }


def sum_by_hand(table: LatencyTable, a: Architecture) -> float:
    """The tiny space's two stages, written out."""
    one_of = [(MBCONV, 3, 2, False), (MBCONV, 5, 2, False), (FUSED, 3, 1, False)]
    two_of = [(MBCONV, 3, e, gated) for e in (1, 3) for gated in (False, True)]
    two_of.append((FUSED, 3, 2, True))
    c0, c3 = (4, 6).index(a.stem_width), (0, 8).index(a.head_width)
    c1, c2 = (4, 6).index(a.stages[0].width), (6, 8).index(a.stages[1].width)
    one = [one_of.index(astuple(layer)) for layer in a.stages[0].layers]
    two = [two_of.index(astuple(layer)) for layer in a.stages[1].layers]
    ms = float(table.stem[c0]) + float(table.first[0][c0, c1, one[0]])
    ms += float(table.first[1][c1, c2, two[0]]) + float(table.head[c2, c3])
    if len(one) == 2:
        ms += float(table.rest[0][c1, one[1]])
    if len(two) == 2:
        ms += float(table.rest[1][c2, two[1]])
    return ms


def random_values(every_architecture: list[Architecture], space: SearchSpace) -> dict[Place, float]:
    """Milliseconds over four orders of magnitude for everything that some student has."""
    found = dict.fromkeys(place for a in every_architecture for place in places(space, a))
    draws = np.random.default_rng(len(found))
    return {place: float(10 ** draws.uniform(-3, 1)) for place in found}


def test_prediction_is_the_sum_over_the_layers(
    table: LatencyTable, every_architecture: list[Architecture]
) -> None:
    for a in every_architecture:
        assert table.predicted_ms(a) == pytest.approx(sum_by_hand(table, a), rel=1e-14)


def test_expectation_at_one_hot_is_the_prediction(
    table: LatencyTable, every_architecture: list[Architecture]
) -> None:
    for a in every_architecture:
        expected = float(table.expected_ms(table.space.one_hot(a)))
        assert math.isclose(expected, table.predicted_ms(a), rel_tol=1e-15, abs_tol=1e-15)


def test_expectation_is_the_mean_over_all_students(
    table: LatencyTable, every_architecture: list[Architecture]
) -> None:
    """Brute force: each weighted by the product of the probabilities of what it decides."""
    choices = relaxed(table.space, 5)
    at = {d.name: {c: i for i, c in enumerate(d.choices)} for d in table.space.decisions()}
    total, weight = 0.0, 0.0
    for a in every_architecture:
        decided = table.space.decided(a)
        p = math.prod(float(choices[name][at[name][c]]) for name, c in decided.items())
        total, weight = total + p * table.predicted_ms(a), weight + p
    assert weight == pytest.approx(1, rel=1e-12)
    assert float(table.expected_ms(choices)) == pytest.approx(total, rel=1e-12)


def test_gradient_against_finite_differences(table: LatencyTable) -> None:
    choices = relaxed(table.space, 6)
    names = list(choices)

    def expected(*vectors: torch.Tensor) -> torch.Tensor:
        return table.expected_ms(dict(zip(names, vectors, strict=True)))

    assert torch.autograd.gradcheck(expected, [p.requires_grad_() for p in choices.values()])


def test_places_of_the_ends_and_their_entries(space: SearchSpace, table: LatencyTable) -> None:
    by_hand = {
        ("stem", 1): table.stem[1].item(),
        ("first", 0, 1, 1, 2): table.first[0][1, 1, 2].item(),
        ("rest", 0, 1, 2): table.rest[0][1, 2].item(),
        ("first", 1, 1, 1, 4): table.first[1][1, 1, 4].item(),
        ("rest", 1, 1, 4): table.rest[1][1, 4].item(),
        ("head", 1, 1): table.head[1, 1].item(),
    }
    assert places(space, space.largest()) == list(by_hand)
    assert {place: table.entry(place) for place in by_hand} == by_hand
    firsts = [("first", s, 0, 0, 0) for s in range(2)]
    assert places(space, space.smallest()) == [("stem", 0), *firsts, ("head", 0, 0)]
    with pytest.raises(ValueError, match="expected a stem"):
        table.entry(("tail", 0))


def test_another_layer_never_takes_less(
    space: SearchSpace, every_architecture: list[Architecture]
) -> None:
    table = assemble(space, random_values(every_architecture, space), {})
    deep = [a for a in every_architecture if any(len(stage.layers) == 2 for stage in a.stages)]
    assert len(deep) == 5760 - 2 * (2 * 3) * (2 * 5) * 2
    for a in deep:
        for s, stage in enumerate(a.stages):
            cut = replace(stage, layers=stage.layers[:1])
            shallow = replace(a, stages=(*a.stages[:s], cut, *a.stages[s + 1 :]))
            grown = table.predicted_ms(a) - table.predicted_ms(shallow)
            assert (grown > 0) == (len(stage.layers) == 2)
            assert grown >= 0


def test_a_slower_entry_never_makes_a_student_faster(
    space: SearchSpace, every_architecture: list[Architecture]
) -> None:
    """It slows those that have the part by so much, no others, and the mean over any choices."""
    values = random_values(every_architecture, space)
    table, choices = assemble(space, values, {}), relaxed(space, 7)
    some = every_architecture[::23]
    before_ms, expected_ms = [table.predicted_ms(a) for a in some], table.expected_ms(choices)
    having = [places(space, a) for a in some]
    assert {place for found in having for place in found} == values.keys()
    for place, ms in values.items():
        slower = assemble(space, {**values, place: 1.5 * ms}, {})
        assert slower.expected_ms(choices) > expected_ms
        for a, before, found in zip(some, before_ms, having, strict=True):
            by_hand = before + 0.5 * ms * found.count(place)
            assert slower.predicted_ms(a) == pytest.approx(by_hand, rel=1e-12)
            assert slower.predicted_ms(a) >= before


def test_saved_table_is_the_same(table: LatencyTable, tmp_path: Path) -> None:
    table.save(tmp_path / "latency.json")
    again = LatencyTable.load(tmp_path / "latency.json", table.space)
    assert again.fingerprint() == table.fingerprint()
    assert again.predicted_ms(table.space.middle()) == table.predicted_ms(table.space.middle())
    assert again.unit_of_work() == "one made-up unit"


def test_fingerprint_depends_on_space_and_milliseconds_alone(
    table: LatencyTable, space: SearchSpace
) -> None:
    head, stem = table.head.clone(), table.stem.clone()
    head[1, 0] *= 1.0001
    stem[0] *= 1.0001
    others = [
        replace(table, head=head),
        replace(table, stem=stem),
        replace(table, space=replace(space, classes=4)),
    ]
    assert len({t.fingerprint() for t in (table, *others)}) == 4
    assert replace(table, provenance={}).fingerprint() == table.fingerprint()


def with_widths(space: SearchSpace) -> SearchSpace:
    return replace(space, stages=(replace(space.stages[0], widths=(4, 7)), space.stages[1]))


@pytest.mark.parametrize(
    ("other", "field"),
    [
        (lambda space: replace(space, classes=4), "classes 3, expected 4"),
        (lambda space: replace(space, resolution=(16, 16)), r"resolution\.0 8, expected 16"),
        (with_widths, r"stages\.0\.widths\.1 6, expected 7"),
        (lambda space: replace(space, stages=space.stages[:1]), r"stages \[.*, expected \["),
        (lambda _: preset_space("digits", 3), "name 'tiny', expected 'digits'"),
    ],
    ids=["classes", "resolution", "width", "stages", "preset"],
)
def test_table_of_another_space_is_refused(
    table: LatencyTable, tmp_path: Path, other: Callable[[SearchSpace], SearchSpace], field: str
) -> None:
    table.save(tmp_path / "latency.json")
    with pytest.raises(UserError, match=rf"latency\.json: table of another space: space\.{field}"):
        LatencyTable.load(tmp_path / "latency.json", other(table.space))


@pytest.mark.parametrize(
    "damage", ["truncate", "negative", "zero", "shape", "nan", "text", "missing", "no space"]
)
def test_damaged_tables_are_refused(table: LatencyTable, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "latency.json"
    table.save(path)
    value = json.loads(path.read_text())
    match damage:
        case "negative":
            value["rest"][0][0][0] = -1.0
        case "zero":
            value["head"][1][0] = 0.0
        case "shape":
            value["head"].append(1.0)
        case "nan":
            value["stem"][0] = float("nan")
        case "text":
            value["first"][0] = "fast"
        case "missing":
            del value["provenance"]["unit_of_work"]
        case "no space":
            del value["space"]
    text = json.dumps(value)
    path.write_text(text[: len(text) // 2] if damage == "truncate" else text)
    with pytest.raises(UserError, match=r"latency\.json"):
        LatencyTable.load(path, table.space)
