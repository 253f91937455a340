"""The latency table against brute force and finite differences; what it refuses."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from export.errors import UserError
from supernet.latency import LatencyTable
from supernet.presets import preset_space
from supernet.space import Architecture, Choices, SearchSpace


def relaxed(space: SearchSpace, seed: int) -> Choices:
    generator = torch.Generator().manual_seed(seed)
    return {
        d.name: torch.rand(len(d.choices), generator=generator).double().softmax(0)
        for d in space.decisions()
    }


def sum_by_hand(table: LatencyTable, a: Architecture) -> float:
    """The tiny space's two stages, written out."""
    widths, k, e2 = ((4, 6), (6, 8)), (3, 5), (1, 3)
    c1, c2 = (w.index(stage.width) for w, stage in zip(widths, a.stages, strict=True))
    one, two = a.stages[0].layers, a.stages[1].layers
    ms = table.stem_ms + float(table.head[c2])
    ms += float(table.first[0][0, c1, k.index(one[0].kernel), 0, int(one[0].squeeze_excite)])
    ms += float(table.first[1][c1, c2, 0, e2.index(two[0].expansion), int(two[0].squeeze_excite)])
    if len(one) == 2:
        ms += float(table.rest[0][c1, k.index(one[1].kernel), 0, int(one[1].squeeze_excite)])
    if len(two) == 2:
        ms += float(table.rest[1][c2, 0, e2.index(two[1].expansion), int(two[1].squeeze_excite)])
    return ms


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


def test_expectation_is_the_mean_over_all_assignments(table: LatencyTable) -> None:
    """Brute force over every decision's choice, weighted by the product of probabilities."""
    choices, decisions = relaxed(table.space, 5), table.space.decisions()
    total = 0.0
    for picked in np.ndindex(*(len(d.choices) for d in decisions)):
        p = math.prod(float(choices[d.name][i]) for d, i in zip(decisions, picked, strict=True))
        named = {d.name: i for d, i in zip(decisions, picked, strict=True)}
        total += p * table.predicted_ms(table.space.architecture(named))
    assert float(table.expected_ms(choices)) == pytest.approx(total, rel=1e-12)


def test_gradient_against_finite_differences(table: LatencyTable) -> None:
    choices = relaxed(table.space, 6)
    names = list(choices)

    def expected(*vectors: torch.Tensor) -> torch.Tensor:
        return table.expected_ms(dict(zip(names, vectors, strict=True)))

    assert torch.autograd.gradcheck(expected, [p.requires_grad_() for p in choices.values()])


def test_saved_table_is_the_same(table: LatencyTable, tmp_path: Path) -> None:
    table.save(tmp_path / "latency.json")
    again = LatencyTable.load(tmp_path / "latency.json", table.space)
    assert again.fingerprint() == table.fingerprint()
    assert again.predicted_ms(table.space.middle()) == table.predicted_ms(table.space.middle())
    assert again.unit_of_work() == "one made-up unit"


def test_table_of_another_space_is_refused(table: LatencyTable, tmp_path: Path) -> None:
    table.save(tmp_path / "latency.json")
    with pytest.raises(UserError, match="table of space"):
        LatencyTable.load(tmp_path / "latency.json", preset_space("digits", 3))


@pytest.mark.parametrize("damage", ["truncate", "negative", "shape", "nan", "missing"])
def test_damaged_tables_are_refused(table: LatencyTable, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "latency.json"
    table.save(path)
    value = json.loads(path.read_text())
    if damage == "negative":
        value["rest"][0][0][0][0][0] = -1.0
    elif damage == "shape":
        value["head"].append(1.0)
    elif damage == "nan":
        value["stem_ms"] = float("nan")
    elif damage == "missing":
        del value["provenance"]["unit_of_work"]
    text = json.dumps(value)
    path.write_text(text[: len(text) // 2] if damage == "truncate" else text)
    with pytest.raises(UserError, match=r"latency\.json"):
        LatencyTable.load(path, table.space)
