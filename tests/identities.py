"""Images of made-up identities, pairs of some of them, and a teacher that knows their colours."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from export.onnx_file import write_onnx
from tests.kd.teacher.vector_networks import colours
from tests.smoke import SMOKE

KNOWN, TESTED, IMAGES = 12, 4, 25
# What train.py is told of a run at smoke size.
EMBEDDING = (*SMOKE, "--teacher-resolution", "0")


def make_identities(folder: Path) -> Path:
    """Write images/, pairs.txt of identities that nothing learns from, and teacher.onnx."""
    draws = np.random.default_rng(0)
    names = [f"P{i}" for i in range(KNOWN + TESTED)]
    for name in names:
        own = draws.integers(40, 215, (2, 2, 3)).repeat(9, 0).repeat(9, 1)
        for number in range(1, IMAGES + 1):
            path = folder / "images" / name / f"{name}_{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.clip(draws.normal(own + draws.integers(-25, 25, 3), 20), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    lines = ["4\t12"]
    for _ in range(4):
        chosen = draws.choice(names[KNOWN:], (12, 3))
        numbers = draws.integers(1, IMAGES + 1, (12, 4))
        lines += [
            f"{one}\t{a}\t{1 + a % IMAGES}"
            for (one, *_), (a, *_) in zip(chosen, numbers, strict=True)
        ]
        for (one, *_), (a, b, *_) in zip(chosen, numbers, strict=True):
            other = names[KNOWN + (names.index(one) - KNOWN + 1) % TESTED]
            lines.append(f"{one}\t{a}\t{other}\t{b}")
    (folder / "pairs.txt").write_text("\n".join(lines))
    write_onnx(colours().eval(), torch.zeros(2, 3, 16, 16), folder / "teacher.onnx", {})
    return folder


def embedding_options(folder: Path) -> tuple[object, ...]:
    """Return what train.py is told of them."""
    return ("--task", "embedding", *of_images(folder))


def of_images(folder: Path) -> tuple[object, ...]:
    """Return the images, the pairs and the teacher."""
    teacher = f"onnx:{folder / 'teacher.onnx'}"
    named = ("--data", folder / "images", "--pairs", folder / "pairs.txt", "--teacher", teacher)
    return tuple(map(str, named))
