"""Pictures are the same whatever notebook, desktop or settings of matplotlib are around."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.smoke import ROOT

DRAWS = """
import sys
from pathlib import Path
from export.report.figures import Point, front_figure
front_figure(Path(sys.argv[1]), [Point(1, 0.5), Point(2, 0.6)], [], "a unit", "accuracy", "here", 9)
"""
THEIRS = "text.usetex: True\naxes.facecolor: black\nsavefig.dpi: 30\nbackend: TkAgg\n"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return drawn(tmp_path_factory.mktemp("plain"))


def drawn(folder: Path, **environment: str) -> bytes:
    path = folder / "front.png"
    done = subprocess.run(
        [sys.executable, "-c", DRAWS, str(path)],
        **{"cwd": ROOT, "env": os.environ | environment, "capture_output": True},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return path.read_bytes()


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "TkAgg", "x"])
def test_nobodys_backend_is_needed(tmp_path: Path, plain: bytes, backend: str) -> None:
    assert drawn(tmp_path, MPLBACKEND=backend, DISPLAY="") == plain


def test_nobodys_style_is_taken_over(tmp_path: Path, plain: bytes) -> None:
    (tmp_path / "matplotlibrc").write_text(THEIRS)
    assert drawn(tmp_path, MATPLOTLIBRC=str(tmp_path / "matplotlibrc")) == plain
