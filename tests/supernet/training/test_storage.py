"""The supernet file: the same again, or refused."""

from pathlib import Path

import pytest
import torch

from base.errors import UserError
from base.tensor_files import read_tensors, write_tensors
from supernet.alpha import Alpha
from supernet.choice.surrogate import Surrogate
from supernet.presets import preset_space
from supernet.space import SearchSpace
from supernet.supernet import Supernet
from supernet.training.storage import (
    is_of_table,
    load_alpha,
    load_supernet,
    load_surrogate,
    save_alpha,
    save_supernet,
)


@pytest.fixture
def saved(space: SearchSpace, tmp_path: Path) -> tuple[Path, Supernet, Alpha]:
    torch.manual_seed(0)
    supernet, alpha = Supernet(space), Alpha(space, 1.5, 9.0, 4)
    torch.nn.init.normal_(alpha.logits)
    path = tmp_path / "supernet.safetensors"
    save_supernet(path, supernet, alpha, surrogate_of(space), "a table")
    return path, supernet, alpha


def surrogate_of(space: SearchSpace) -> Surrogate:
    choices = sum(len(d.choices) for d in space.decisions())
    return Surrogate(space, 1.5, torch.linspace(-1, 1, choices, dtype=torch.float64), 0.875, 30)


def equal(one: torch.nn.Module, two: torch.nn.Module) -> bool:
    mine, yours = one.state_dict(), two.state_dict()
    return mine.keys() == yours.keys() and all(torch.equal(mine[n], yours[n]) for n in mine)


def test_loaded_weights_and_alpha_are_the_saved_ones(
    space: SearchSpace, saved: tuple[Path, Supernet, Alpha]
) -> None:
    path, supernet, alpha = saved
    assert equal(load_supernet(path, space), supernet)
    again = load_alpha(path, space, "a table")
    assert equal(again, alpha)
    assert again.range_ms() == pytest.approx((1.5, 9.0))
    assert torch.equal(again(3.0)["stage1.width"], alpha(3.0)["stage1.width"])


def test_a_loaded_surrogate_expects_the_same(
    space: SearchSpace, saved: tuple[Path, Supernet, Alpha]
) -> None:
    again, saved_one = load_surrogate(saved[0], space), surrogate_of(space)
    for architecture in (space.smallest(), space.middle(), space.largest()):
        assert again.loss(architecture) == saved_one.loss(architecture)
    assert str(again) == str(saved_one) == "explains 88% of how 30 random students differ"


def test_alpha_alone_is_the_same_again(
    space: SearchSpace, saved: tuple[Path, Supernet, Alpha], tmp_path: Path
) -> None:
    """The weights stay in their own file."""
    path, alpha = tmp_path / "alphas" / "phone.safetensors", saved[2]
    save_alpha(path, alpha, space, "the phone's table")
    assert equal(load_alpha(path, space, "the phone's table"), alpha)
    assert all(name.startswith("alpha.") for name in read_tensors(path)[0])
    with pytest.raises(UserError, match="damaged"):
        load_supernet(path, space)


def test_whose_table_an_alpha_is_of(saved: tuple[Path, Supernet, Alpha]) -> None:
    path = saved[0]
    assert is_of_table(path, "a table")
    assert not is_of_table(path, "another")
    assert not is_of_table(path.with_name("none.safetensors"), "a table")


def test_missing_truncated_and_foreign_files_are_refused(
    space: SearchSpace, saved: tuple[Path, Supernet, Alpha]
) -> None:
    path = saved[0]
    with pytest.raises(UserError, match=r"run train\.py"):
        load_supernet(path.with_name("none.safetensors"), space)
    with pytest.raises(UserError, match="table a table, expected another"):
        load_alpha(path, space, "another")
    other = preset_space("digits", 10)
    with pytest.raises(UserError, match=rf"space {space.fingerprint()}, expected"):
        load_supernet(path, other)
    with pytest.raises(UserError, match="space"):
        load_alpha(path, other, "a table")
    with pytest.raises(UserError, match="space"):
        load_surrogate(path, other)
    path.write_bytes(path.read_bytes()[:-100])
    for load in (lambda: load_supernet(path, space), lambda: load_alpha(path, space, "a table")):
        with pytest.raises(UserError, match="cannot be read as safetensors"):
            load()


@pytest.mark.parametrize(
    "tensor", ["alpha.logits", "alpha.log_knots", "surrogate.losses", "surrogate.numbers"]
)
@pytest.mark.parametrize("damage", ["lost", "another shape"])
def test_damaged_tensors_are_refused(
    space: SearchSpace, saved: tuple[Path, Supernet, Alpha], tensor: str, damage: str
) -> None:
    path = saved[0]
    tensors, metadata = read_tensors(path)
    if damage == "lost":
        del tensors[tensor]
    else:
        tensors[tensor] = tensors[tensor][..., :-1]
    write_tensors(path, tensors, metadata)

    def load() -> object:
        return load_alpha(path, space, "a table"), load_surrogate(path, space)

    with pytest.raises(UserError, match=r"supernet\.safetensors: damaged") as raised:
        load()
    assert "\n" not in str(raised.value)
