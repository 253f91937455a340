"""A student's parts, drawn with what they cost."""

from pathlib import Path

import pytest
from matplotlib.image import imread

from export.report.architecture import ROW, DrawnPart, architecture_figure
from export.report.student_page import drawn_parts

FORM = {
    "stem_width": 16,
    "stages": [
        {
            "width": 32,
            "layers": [
                {"operation": "fused", "kernel": 3, "expansion": 4, "squeeze_excite": False},
                {"operation": "mbconv", "kernel": 5, "expansion": 2, "squeeze_excite": True},
            ],
        }
    ],
    "head_width": 0,
}
SIZES = ([16, 16], [8, 8], [8, 8], [1, 1])
PARTS = [{"size": size, "predicted_ms": 0.5 * i} for i, size in enumerate(SIZES, start=1)]


def test_every_part_is_named_with_its_form_size_and_time() -> None:
    assert drawn_parts(FORM, PARTS) == [
        DrawnPart("stem", "convolution 3×3", 16, (16, 16), 0.5),
        DrawnPart("stage 1, layer 1", "fused 3×3, expansion 4", 32, (8, 8), 1.0),
        DrawnPart("stage 1, layer 2", "mbconv 5×5, expansion 2, SE", 32, (8, 8), 1.5),
        DrawnPart("head", "classifier alone", 0, (1, 1), 2.0),
    ]


def test_parts_that_are_not_those_of_the_architecture_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        drawn_parts(FORM, PARTS[:-1])


def test_a_part_has_a_row_of_the_picture(tmp_path: Path) -> None:
    parts = drawn_parts(FORM, PARTS)
    architecture_figure(tmp_path / "few.png", parts)
    architecture_figure(tmp_path / "many.png", [*parts[:1], *parts[1:3] * 12, parts[-1]])
    few, many = (imread(tmp_path / name).shape for name in ("few.png", "many.png"))
    assert few[1] == many[1]
    assert many[0] - few[0] == pytest.approx(22 * ROW * 160, abs=1)
