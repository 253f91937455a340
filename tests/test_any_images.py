"""Both scripts with images of another size and other channels than the preset's."""

import json
from pathlib import Path

import onnxruntime
import pytest
import torch

from export.onnx_file import read_metadata
from supernet.choice.programme import programme
from supernet.latency.kit import Settings, space_and_unit
from supernet.latency_table import LatencyTable
from supernet.presets import preset, preset_text
from supernet.space_files import read_space_file
from tests.smoke import QUICK_SEARCH, SMOKE, refused, run


def test_grey_images_that_are_not_square_end_to_end(tmp_path: Path) -> None:
    """In a space of the user's own, which the run keeps."""
    folder, path = tmp_path / "run", tmp_path / "mine.toml"
    path.write_text(
        preset_text(preset("digits")).replace("head_widths = [0, 128]", "head_widths = [0]")
    )
    shape = ("--resolution", "12x16", "--channels", "1", "--space", path)
    done = run("train.py", "--run", folder, *SMOKE, *shape)
    assert done.returncode == 0, done.stderr
    assert "grey images at 12×16" in done.stdout
    space = read_space_file(path).space(10, (12, 16), 1)
    path.unlink()
    table = LatencyTable.load(folder / "latency.json", space)
    assert space_and_unit(Settings(run=folder))[0] == space
    slowest_ms = programme(table).range_ms()[1]
    name = f"{2 * slowest_ms:g}"
    rivals = ("--rivals", "plain:4-8-16", "test_resnet")
    done = run("search.py", "--run", folder, "--target-latency", name, *QUICK_SEARCH, *rivals)
    assert done.returncode == 0, done.stdout + done.stderr
    student = folder / "students" / f"{name}ms"
    facts = json.loads((student / "metrics.json").read_text())
    assert facts["onnx_parity"]
    assert {rival["name"] for rival in facts["rivals"]} == set(rivals[1:])
    for path in (student / "student.onnx", *(student / "rivals").iterdir()):
        session = onnxruntime.InferenceSession(path)
        images = torch.rand(3, 1, 12, 16).numpy()
        assert session.run(None, {session.get_inputs()[0].name: images})[0].shape == (3, 10)
        # What ships tells nothing of the folders that it was made in.
        assert str(tmp_path).encode() not in path.read_bytes()
    told = read_metadata(student / "student.onnx")["input"]
    assert told == "grey [batch, 1, 12, 16], float32 in [0, 1]"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--resolution", "18"), "takes sides from 8 on in steps of 4; give 16 or 20"),
        (("--resolution", "16x"), "resolution 16x: expected pixels, such as 96 or 96x160"),
    ],
)
def test_sizes_that_cannot_be_are_refused(
    tmp_path: Path, options: tuple[str, str], said: str
) -> None:
    refused(run("train.py", "--run", tmp_path / "run", *SMOKE, *options), said)
    assert not (tmp_path / "run").exists()
