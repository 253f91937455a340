"""The whole path of the imagenet preset, on made-up images of ImageNet's shape: 1000 classes.

    python -m benchmarks.imagenet_shape

Writes JPEGs (RGB, grey, CMYK, turned by their camera) as folders and as tar shards, trains and
searches with both at the least size, and shows what a truncated image brings. The pictures are
flat colours that say their class, so that a teacher can be written by hand. Prints time and peak
memory of each script; nothing here says how well anything learns.
"""

import io
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

ROOT = Path(__file__).parent.parent
CLASSES, LEVELS = 1000, 10
MODES = ("RGB", "RGB", "RGB", "L", "CMYK")
TURNED = 0x0112, 6  # EXIF's orientation, and a camera on its side
TEACHER = f'''
import torch
from torch import nn


class Colours(nn.Module):
    """Tells a flat colour's class from its mean."""

    def __init__(self):
        super().__init__()
        steps = torch.arange({LEVELS}) / {LEVELS - 1}
        self.register_buffer("palette", torch.cartesian_prod(steps, steps, steps))

    def forward(self, images):
        return -200 * torch.cdist(images.mean((2, 3)), self.palette) ** 2


def teacher():
    return Colours()
'''
LEAST = (
    *("--views", "1", "--batch", "16", "--alpha-batch", "8", "--workers", "2", "--limit", "2000"),
    *("--w-epochs", "1", "--alpha-steps", "4", "--surveyed", "8", "--latency-seconds", "3"),
)
LEAST_SEARCH = (
    *("--epochs", "1", "--candidates", "3", "--finalists", "2"),
    *("--measure-seconds", "5", "--target-latency", "6"),
)


@dataclass(frozen=True)
class Settings:
    """What is run."""

    folder: Path | None = None
    """Where images and runs go; a folder that is removed afterwards when left out."""


def main(settings: Settings) -> None:
    """Write the images, and run everything on them."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = settings.folder or Path(temporary)
        write_images(folder)
        (folder / "colours.py").write_text(TEACHER)
        shards = str(folder / "shards" / "{train-{0..1},val-0,test-0}.tar")
        for name, data in (("folders", str(folder / "folders")), ("shards", shards)):
            run = folder / "runs" / name
            begin = ("--preset", "imagenet", "--data", data, "--run", run)
            script(folder, "train.py", *begin, "--teacher", "python:colours:teacher", *LEAST)
            script(folder, "search.py", "--run", run, *LEAST_SEARCH)
        broken = next((folder / "folders" / "train" / "0007").iterdir())
        broken.write_bytes(broken.read_bytes()[:200])
        run = (
            "--preset",
            "imagenet",
            "--data",
            folder / "folders",
            "--run",
            folder / "runs/broken",
        )
        script(folder, "train.py", *run, "--teacher", "python:colours:teacher", *LEAST)


def write_images(folder: Path) -> None:
    """Two training images a class, one to search and one to test with."""
    for part, each in (("train", 2), ("val", 1), ("test", 1)):
        shards = [folder / "shards" / f"{part}-{n}.tar" for n in range(each)]
        shards[0].parent.mkdir(parents=True, exist_ok=True)
        for number, shard in enumerate(shards):
            with tarfile.open(shard, "w") as tar:
                for label, content in images(part, number):
                    name = f"{number * CLASSES + label:06d}"
                    path = folder / "folders" / part / f"{label:04d}" / f"{name}.jpg"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
                    add(tar, f"{name}.jpg", content)
                    add(tar, f"{name}.cls", str(label).encode())


def images(part: str, number: int) -> Iterator[tuple[int, bytes]]:
    """(class, JPEG) of one image a class."""
    draws = np.random.default_rng((len(part), number))
    for label in range(CLASSES):
        height, width = draws.integers(48, 96, 2)
        levels = np.array([label // LEVELS**2, label // LEVELS % LEVELS, label % LEVELS])
        pixels = np.full((height, width, 3), 255 * levels / (LEVELS - 1)).round().astype(np.uint8)
        exif, content = Image.Exif(), io.BytesIO()
        if label % 7 == 0:
            exif[TURNED[0]] = TURNED[1]
        image = Image.fromarray(pixels).convert(MODES[label % len(MODES)])
        image.save(content, "jpeg", quality=90, exif=exif)
        yield label, content.getvalue()


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Put a file into a shard."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def script(folder: Path, *words: object) -> None:
    """Run a script with the hand-written teacher at hand; say its time, memory and last lines."""
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    name, *options = map(str, words)
    paths = {"PYTHONPATH": str(folder), "WANDB_MODE": "offline", "XDG_CACHE_HOME": str(folder)}
    done = subprocess.run(
        [sys.executable, str(ROOT / name), *options],
        env={**os.environ, **paths},
        capture_output=True,
        text=True,
        check=False,
    )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    said = (done.stdout if done.returncode == 0 else done.stderr.splitlines()[-1]).strip()
    memory = f"{peak / 2**20:.2f} GiB" if peak > before else "no more than before"
    seconds = time.perf_counter() - begin
    print(
        f"== {name}: exit {done.returncode}, {seconds:.0f} s, peak {memory}\n{said}\n", flush=True
    )


if __name__ == "__main__":
    main(tyro.cli(Settings))
