"""A space of the user's own: read as it is written; a mistake is one line with its place."""

from pathlib import Path

import pytest

from base.errors import UserError
from supernet.presets import PRESETS, preset_text
from supernet.space_files import given_preset, keep_space_file, read_space_file, run_preset

START = preset_text(PRESETS["digits"])
DOCS = Path(__file__).parent.parent.parent / "docs" / "spaces.md"


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_that_is_written_is_read_as_it_was(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.toml"
    path.write_text(preset_text(PRESETS[name]))
    assert read_space_file(path) == PRESETS[name] == given_preset(name, None)
    assert given_preset("digits", path) == PRESETS[name]


def test_the_example_of_the_docs_is_a_space(tmp_path: Path) -> None:
    (example,) = [part for part in DOCS.read_text().split("```")[1::2] if part.startswith("toml")]
    found = read_space_file(written(tmp_path, example.removeprefix("toml")))
    assert (found.name, found.resolution, found.stride()) == ("mine", (64, 64), 4)
    assert found.space(10).size() == 2 * (2 * sum(10**depth for depth in (1, 2, 3))) * 2


def test_a_resolution_may_be_height_and_width(tmp_path: Path) -> None:
    path = written(tmp_path, START.replace("resolution = 16", 'resolution = "16x24"'))
    assert read_space_file(path).resolution == (16, 24)


@pytest.mark.parametrize(
    ("was", "becomes", "said"),
    [
        ("stem_widths", "stem_width", "stem_width: unknown field; did you mean stem_widths?"),
        ("resolution = 16\n", "", "it lacks resolution"),
        ("resolution = 16", 'resolution = "16y8"', "resolution 16y8: expected pixels"),
        ("resolution = 16", "resolution = 18", "resolution 18: .* give 16 or 20"),
        ("resolution = 16", "resolution = 16.5", "resolution 16.5: expected pixels"),
        ("kernels = [3, 5]", "kernels = [5, 3]", r"kernels: \[5, 3\] do not ascend, each once"),
        ("kernels = [3, 5]", "kernels = [3, 3]", "do not ascend"),
        ("kernels = [3, 5]", "kernels = [3, 4]", "kernels.2: 4 is even"),
        ("depths = [1, 2]", "depths = [0, 2]", "stages.1.depths.1: expected greater than"),
        ("depths = [1, 2]", "depths = []", "stages.1.depths: empty, expected one or more"),
        ("depths = [1, 2]\n", "", "stages.1 lacks depths"),
        ("stride = 2", "strid = 2", "stages.2.strid: unknown field; did you mean stride"),
        ("stride = 2", "stride = true", "stages.2.stride: expected a valid integer"),
        ("widths = [16, 32]\n", 'widths = ["16"]\n', "widths.1: expected a valid integer"),
        ('name = "fused"', 'name = "fuse"', "operations.2.name: expected 'mbconv' or 'fused'"),
        ('name = "fused"', 'name = "mbconv"', "mbconv, mbconv: one operation twice"),
        ("squeeze_excite = [false]", "squeeze_excite = [0]", "expected a valid boolean"),
        ("head_widths = [0, 128]", "head_widths = [-1, 128]", "head_widths.1: expected greater"),
        ("stem_widths = [16]", "stem_widths = [16", "no TOML"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(
    tmp_path: Path, was: str, becomes: str, said: str
) -> None:
    assert was in START
    path = written(tmp_path, START.replace(was, becomes, 1))
    with pytest.raises(UserError, match=said) as caught:
        read_space_file(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.toml: cannot be read"):
        read_space_file(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"bytes\.toml: no TOML"):
        read_space_file(tmp_path / "bytes.toml")


def test_a_run_keeps_its_own_copy(tmp_path: Path) -> None:
    path, run = written(tmp_path, START), tmp_path / "run"
    run.mkdir()
    keep_space_file(path, run)
    own = read_space_file(path)
    path.write_text(START.replace("depths = [1, 2]", "depths = [1]", 1))
    assert run_preset("digits", path, run) == own != read_space_file(path)
    with pytest.raises(UserError, match=r"begun with another .*mine\.toml"):
        keep_space_file(path, run)
    path.unlink()
    assert run_preset("digits", path, run) == own
    assert run_preset("digits", None, run) == PRESETS["digits"]


def test_no_file_leaves_nothing(tmp_path: Path) -> None:
    keep_space_file(None, tmp_path)
    assert list(tmp_path.iterdir()) == []
