"""Search space and architectures."""

import dataclasses
import json

import numpy as np
import pytest

from base.errors import UserError
from supernet.presets import PRESETS, preset_space
from supernet.space import Architecture, Layer, SearchSpace, Stage


def test_size_counts_every_distinct_student(
    space: SearchSpace, every_architecture: list[Architecture]
) -> None:
    # By hand: stage 1: 2 widths · (4 + 4²) layers' choices; stage 2 likewise.
    assert space.size() == len(every_architecture) == (2 * (4 + 16)) * (2 * (4 + 16))


def test_architecture_survives_json_and_one_hot(
    space: SearchSpace, every_architecture: list[Architecture]
) -> None:
    for architecture in every_architecture[::7]:
        assert Architecture.from_json(architecture.to_json()) == architecture
        one_hot = space.one_hot(architecture)
        assert all(p.sum() == 1 and p.max() == 1 for p in one_hot.values())
        picked = {name: int(p.argmax()) for name, p in one_hot.items()}
        assert space.architecture(picked) == architecture


def test_ends_are_the_ends(space: SearchSpace) -> None:
    assert space.smallest().stages[0] == Stage(4, (Layer(3, 2, False),))
    assert space.largest().stages[1] == Stage(8, (Layer(3, 3, True),) * 2)


def test_random_visits_every_choice(space: SearchSpace, random: np.random.Generator) -> None:
    drawn = [space.random(random) for _ in range(200)]
    assert {a.stages[0].width for a in drawn} == {4, 6}
    assert {len(a.stages[1].layers) for a in drawn} == {1, 2}
    assert {layer for a in drawn for layer in a.stages[1].layers} == {
        Layer(3, e, se) for e in (1, 3) for se in (False, True)
    }


def test_foreign_architectures_are_refused(space: SearchSpace) -> None:
    with pytest.raises(UserError, match=r"stage1\.layer1\.kernel = 9 .* expected one of \(3, 5\)"):
        space.positions(Architecture((Stage(4, (Layer(9, 2, False),)), space.smallest().stages[1])))
    with pytest.raises(UserError, match="1 stages do not fit"):
        space.positions(Architecture(space.smallest().stages[:1]))
    with pytest.raises(UserError, match="not an architecture"):
        Architecture.from_json({"stages": [{"width": 4}]})


def test_imagenet_preset_has_about_ten_to_the_thirteen_students() -> None:
    assert 1e13 <= preset_space("imagenet", 1000).size() < 1e14


@pytest.mark.parametrize("name", PRESETS)
def test_choices_of_presets_ascend(name: str) -> None:
    for decision in preset_space(name, 10).decisions():
        assert list(decision.choices) == sorted(set(decision.choices))


def test_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="digits, cifar10, imagenet"):
        preset_space("mnist", 10)


def test_fingerprint_tells_spaces_apart() -> None:
    spaces = [preset_space("digits", 10), preset_space("digits", 11), preset_space("cifar10", 10)]
    assert len({s.fingerprint() for s in spaces}) == 3


@pytest.mark.parametrize("name", PRESETS)
def test_a_space_survives_json(name: str) -> None:
    space = preset_space(name, 10)
    text = json.dumps(dataclasses.asdict(space))
    again = SearchSpace.from_json(json.loads(text))
    assert again == space
    assert again.fingerprint() == space.fingerprint()
    assert again.decisions() == space.decisions()
    assert hash(again) == hash(space)


def test_what_is_no_space_is_refused(space: SearchSpace) -> None:
    whole = json.loads(json.dumps(dataclasses.asdict(space)))
    amiss = [
        {name: value for name, value in whole.items() if name != "classes"},
        {name: value for name, value in whole.items() if name != "stages"},
        {**whole, "colour": "red"},
        {**whole, "stages": None},
        {**whole, "stages": ["one", "two"]},
        {**whole, "stages": [{**whole["stages"][0], "colour": "red"}]},
        {**whole, "stages": [{"stride": 1}]},
        None,
        "digits",
        [1, 2],
    ]
    assert SearchSpace.from_json(whole) == space
    for value in amiss:
        with pytest.raises(UserError, match="not a search space"):
            SearchSpace.from_json(value)
