"""Both scripts with images that have no classes."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.smoke import QUICK_SEARCH, SMOKE, middle_ms, run


def test_unlabelled_images_end_to_end(tmp_path: Path) -> None:
    """Their outputs are stored; w and the student learn from them, the control does not."""
    folder, more = tmp_path / "run", tmp_path / "more"
    more.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 12, 9, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(more / f"{number}.png")
    quick = ("--surveyed", "4", "--w-epochs", "1", "--alpha-steps", "4", "--views", "1")
    done = run("train.py", "--run", folder, *SMOKE, *quick, "--unlabelled", more)
    assert done.returncode == 0, done.stderr
    assert "240 train, 60 search, 40 unlabelled, 300 test" in done.stdout
    stored = np.load(folder / "targets" / "unlabelled" / "probabilities.npy")
    assert stored.shape == (2, 40, 10)
    budget, one = middle_ms(folder), ("--candidates", "1", "--finalists", "1")
    done = run(
        "search.py", "--run", folder, "--target-latency", budget, *QUICK_SEARCH, *one, "--controls"
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    facts = json.loads((folder / "students" / f"{budget:g}ms" / "metrics.json").read_text())
    assert facts["onnx_parity"]
    # Two epochs of ten steps each: as many as 340 images give, also where only 300 have labels.
    steps = {
        line["phase"]: line["step"]
        for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        if line["phase"].startswith("student_")
    }
    own = f"student_{budget:g}ms"
    assert steps.keys() == {own, *(f"{own}-{control}" for control in facts["controls"])}
    assert {"random", "labels"} <= facts["controls"].keys()
    assert set(steps.values()) == {19}
