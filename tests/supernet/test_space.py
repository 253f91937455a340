"""Search space and architectures."""

import dataclasses
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from base.errors import UserError
from base.size import Size
from supernet.presets import PRESETS, preset, preset_space
from supernet.space import FUSED, MBCONV, Architecture, Layer, SearchSpace, Stage
from supernet.space_files import space_from_json
from supernet.student import Student, parameters_and_macs


def test_size_counts_every_distinct_student(
    space: SearchSpace, every_architecture: list[Architecture]
) -> None:
    # By hand: 2 stems; 2 widths · (3 + 3²) layers' choices; 2 widths · (5 + 5²); 2 heads.
    by_hand = 2 * (2 * (3 + 9)) * (2 * (5 + 25)) * 2
    assert space.size() == len(every_architecture) == len(set(every_architecture)) == by_hand


def test_architecture_survives_json_and_one_hot(
    space: SearchSpace, every_architecture: list[Architecture]
) -> None:
    for architecture in every_architecture[::7]:
        assert Architecture.from_json(architecture.to_json()) == architecture
        one_hot = space.one_hot(architecture)
        assert all(p.sum() == 1 and p.max() == 1 for p in one_hot.values())
        picked = {name: int(p.argmax()) for name, p in one_hot.items()}
        assert space.architecture(picked) == architecture


def test_a_space_of_classes_is_written_as_it_was_before_there_were_vectors(
    space: SearchSpace,
) -> None:
    """So tables, kits and students of older versions are still its own."""
    vectors = replace(space, unit_length=True)
    assert "unit_length" not in space.plain()
    assert vectors.plain() == space.plain() | {"unit_length": True}
    assert vectors.fingerprint() != space.fingerprint()
    for own in (space, vectors):
        assert space_from_json(json.loads(json.dumps(own.plain()))) == own


def test_ends_are_the_ends(space: SearchSpace) -> None:
    smallest, largest = space.smallest(), space.largest()
    assert smallest.stages[0] == Stage(4, (Layer(MBCONV, 3, 2, False),))
    assert largest.stages[1] == Stage(8, (Layer(FUSED, 3, 2, True),) * 2)
    assert (smallest.stem_width, smallest.head_width) == (4, 0)
    assert (largest.stem_width, largest.head_width) == (6, 8)


def test_random_visits_every_choice(space: SearchSpace, random: np.random.Generator) -> None:
    drawn = [space.random(random) for _ in range(200)]
    assert {a.stages[0].width for a in drawn} == {4, 6}
    assert {len(a.stages[1].layers) for a in drawn} == {1, 2}
    assert {(a.stem_width, a.head_width) for a in drawn} == {(4, 0), (4, 8), (6, 0), (6, 8)}
    assert {layer for a in drawn for layer in a.stages[1].layers} == {
        *(Layer(MBCONV, 3, e, se) for e in (1, 3) for se in (False, True)),
        Layer(FUSED, 3, 2, True),
    }


def test_foreign_architectures_are_refused(space: SearchSpace) -> None:
    known = space.smallest()

    def with_first(layer: Layer) -> Architecture:
        return replace(known, stages=(Stage(4, (layer,)), known.stages[1]))

    with pytest.raises(UserError, match=r"layer1\.mbconv\.kernel = 9 .* expected one of \(3, 5\)"):
        space.positions(with_first(Layer(MBCONV, 9, 2, False)))
    with pytest.raises(
        UserError, match=r"layer1\.operation = conv .* one of \('mbconv', 'fused'\)"
    ):
        space.positions(with_first(Layer("conv", 3, 2, False)))
    with pytest.raises(UserError, match=r"stem\.width = 5 .* expected one of \(4, 6\)"):
        space.positions(replace(known, stem_width=5))
    with pytest.raises(UserError, match="1 stages do not fit"):
        space.positions(replace(known, stages=known.stages[:1]))
    with pytest.raises(UserError, match="not an architecture"):
        Architecture.from_json({"stages": [{"width": 4}]})
    old = {"stages": [{"width": 4, "layers": [{"kernel": 3, "expansion": 2}]}]}
    with pytest.raises(UserError, match="not an architecture"):
        Architecture.from_json(old)


def test_imagenet_preset_has_more_than_ten_to_the_thirteen_students() -> None:
    assert preset_space("imagenet", 1000).size() >= 1e13


@pytest.mark.parametrize("name", PRESETS)
def test_choices_of_presets_ascend(name: str) -> None:
    space = preset_space(name, 10)
    for decision in space.decisions():
        if not decision.name.endswith(".operation"):
            assert list(decision.choices) == sorted(set(decision.choices))
    smallest, largest = parameters_and_macs(space, space.smallest())[1], 0
    for draw in range(20):
        macs = parameters_and_macs(space, space.random(np.random.default_rng(draw)))[1]
        smallest, largest = min(smallest, macs), max(largest, macs)
    assert smallest == parameters_and_macs(space, space.smallest())[1]
    assert largest < parameters_and_macs(space, space.largest())[1]


def test_what_is_decided_is_what_the_architecture_has(space: SearchSpace) -> None:
    decided = space.decided(space.smallest())
    assert decided == {
        "stem.width": 4,
        "stage1.width": 4,
        "stage1.depth": 1,
        "stage1.layer1.operation": "mbconv",
        "stage1.layer1.mbconv.kernel": 3,
        "stage1.layer1.mbconv.expansion": 2,
        "stage1.layer1.mbconv.squeeze_excite": False,
        "stage2.width": 6,
        "stage2.depth": 1,
        "stage2.layer1.operation": "mbconv",
        "stage2.layer1.mbconv.kernel": 3,
        "stage2.layer1.mbconv.expansion": 1,
        "stage2.layer1.mbconv.squeeze_excite": False,
        "head.width": 0,
    }


def test_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="digits, cifar10, imagenet"):
        preset_space("mnist", 10)


@pytest.mark.parametrize(
    ("name", "asked", "size"),
    [
        ("digits", None, (16, 16)),
        ("digits", "20x8", (20, 8)),
        ("cifar10", "96", (96, 96)),
        ("imagenet", "96x160", (96, 160)),
    ],
)
def test_a_preset_takes_any_size_that_its_strides_divide(
    name: str, asked: str | None, size: Size
) -> None:
    assert preset(name).size(asked) == size
    space = preset(name).space(10, size, 1)
    assert space.image_shape == (1, *size)
    student = Student(space, space.smallest()).eval()
    features = student.stem(torch.zeros(1, 1, *size))
    for blocks in student.stages:
        features = blocks(features)
    strides = PRESETS[name].stride()
    assert tuple(features.shape[2:]) == (size[0] / strides, size[1] / strides)


@pytest.mark.parametrize(
    ("name", "asked", "said"),
    [
        ("digits", "18", "takes sides from 8 on in steps of 4; give 16 or 20"),
        ("digits", "4", "give 8"),
        ("imagenet", "100x160", "takes sides from 32 on in steps of 32; give 96x160 or 128x160"),
        ("imagenet", "20", "give 32"),
        ("cifar10", "a", r"expected pixels, such as 96 or 96x160 \(height x width\)"),
    ],
)
def test_what_a_preset_cannot_take_is_refused_with_what_it_can(
    name: str, asked: str, said: str
) -> None:
    with pytest.raises(UserError, match=rf"resolution {asked}: .*{said}$") as caught:
        preset(name).size(asked)
    assert "\n" not in str(caught.value)


def test_fingerprint_tells_spaces_apart() -> None:
    spaces = [preset_space("digits", 10), preset_space("digits", 11), preset_space("cifar10", 10)]
    assert len({s.fingerprint() for s in spaces}) == 3


@pytest.mark.parametrize("name", PRESETS)
def test_a_space_survives_json(name: str) -> None:
    space = preset_space(name, 10)
    text = json.dumps(dataclasses.asdict(space))
    again = space_from_json(json.loads(text))
    assert again == space
    assert again.fingerprint() == space.fingerprint()
    assert again.decisions() == space.decisions()
    assert hash(again) == hash(space)


def with_operation(space: dict, **changed: object) -> dict:
    """The plain form of the first stage with a first operation of other fields."""
    stage = space["stages"][0]
    first, *others = stage["operations"]
    return {**stage, "operations": [{**first, **changed}, *others]}


def test_what_is_no_space_is_refused(space: SearchSpace) -> None:
    whole = json.loads(json.dumps(dataclasses.asdict(space)))
    amiss_in_an_operation = [
        {"name": "conv"},
        {"kernels": [3.0]},
        {"expansions": [0]},
        {"squeeze_excite": [1]},
    ]
    amiss = [
        {name: value for name, value in whole.items() if name != "classes"},
        {name: value for name, value in whole.items() if name != "stages"},
        {**whole, "colour": "red"},
        {**whole, "stages": None},
        {**whole, "stages": ["one", "two"]},
        {**whole, "stages": [{**whole["stages"][0], "colour": "red"}]},
        {**whole, "stages": [{"stride": 1}]},
        {**whole, "stem_widths": []},
        {**whole, "stem_widths": [0, 4]},
        {**whole, "head_widths": [-1]},
        {**whole, "classes": True},
        {**whole, "stages": [{**whole["stages"][0], "operations": [{"name": "mbconv"}]}]},
        {**whole, "stages": [{**whole["stages"][0], "operations": []}]},
        *({**whole, "stages": [with_operation(whole, **bad)]} for bad in amiss_in_an_operation),
        None,
        "digits",
        [1, 2],
    ]
    assert space_from_json(whole) == space
    for value in amiss:
        with pytest.raises(UserError, match="not a search space"):
            space_from_json(value)
