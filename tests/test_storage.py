"""The supernet file: the same again, or refused."""

from pathlib import Path

import pytest
import torch

from export.errors import UserError
from supernet.alpha import Alpha
from supernet.presets import preset_space
from supernet.space import SearchSpace
from supernet.storage import load_supernet, save_supernet
from supernet.supernet import Supernet


@pytest.fixture
def saved(space: SearchSpace, tmp_path: Path) -> tuple[Path, Supernet, Alpha]:
    torch.manual_seed(0)
    supernet, alpha = Supernet(space), Alpha(space, 1.5, 9.0, 4)
    torch.nn.init.normal_(alpha.logits)
    path = tmp_path / "supernet.safetensors"
    save_supernet(path, supernet, alpha, "a table")
    return path, supernet, alpha


def test_loaded_supernet_is_the_saved_one(
    space: SearchSpace, saved: tuple[Path, Supernet, Alpha]
) -> None:
    path, supernet, alpha = saved
    again, alpha_again = load_supernet(path, space, "a table")
    for one, two in ((supernet, again), (alpha, alpha_again)):
        pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    assert alpha_again.range_ms() == pytest.approx((1.5, 9.0))


def test_missing_truncated_and_foreign_files_are_refused(
    space: SearchSpace, saved: tuple[Path, Supernet, Alpha]
) -> None:
    path = saved[0]
    with pytest.raises(UserError, match=r"run train\.py"):
        load_supernet(path.with_name("none.safetensors"), space, "a table")
    with pytest.raises(UserError, match="table a table, expected another"):
        load_supernet(path, space, "another")
    with pytest.raises(UserError, match="space"):
        load_supernet(path, preset_space("digits", 10), "a table")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        load_supernet(path, space, "a table")
