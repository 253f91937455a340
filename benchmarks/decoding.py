"""How many images a second are drawn from a camera's photographs, and from small ones?

    python -m benchmarks.decoding

JPEGs of a coarse random picture, at 12 megapixels and at 150 pixels, in views of 32 and of 224
pixels: decoded whole, to what each view needs, and from shrunken copies where there are some, in
turn, one process. Then epochs of small images by two workers that start anew for each epoch, and by
two that live on. Writes
benchmarks/results/decoding.json.
"""

import io
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import tyro
from PIL import Image
from torchvision.transforms.v2 import functional

from base.files import write_json
from benchmarks.provenance import provenance
from kd.batches import LabelOutputs, LoaderSettings, distillation_batches, endless
from kd.images.copies import Copied
from kd.images.loader import shuffled
from kd.images.pixels import OnDisk, PackedTexts, Pixels
from kd.images.rendering import Frame, render_view, render_views
from kd.images.splits import DataSettings, load_data, student_frame
from kd.images.views import draw_geometry

SHAPES = {"12 megapixels": (3000, 4000), "150 pixels": (150, 150)}
VIEWS = {"32": (32, 32), "224": (224, 224)}
BATCH, WORKERS, EPOCHS = 64, 2, 5


@dataclass(frozen=True)
class Settings:
    """How often."""

    repeats: int = 7
    images: int = 6
    """Of 12 megapixels in a repeat; of small ones a hundred times as many."""
    out: Path = Path("benchmarks/results/decoding.json")


def main(settings: Settings) -> None:
    """Time every case in turn; print and write the median rates."""
    rates: dict[str, dict[str, float]] = {}
    for (kind, shape), (side, size) in itertools.product(SHAPES.items(), VIEWS.items()):
        count = settings.images * (1 if max(shape) > 1000 else 100)
        frame = student_frame(DataSettings(augment="resized_crop_flip", resolution=size))
        with TemporaryDirectory() as folder:
            (Path(folder) / "photograph.jpg").write_bytes(jpeg(shape))
            images = OnDisk(Path(folder), PackedTexts.of(["photograph.jpg"]))
            copies = Copied(images, Path(folder) / "copies", size)
            ways = {
                "whole": partial(drawn, images, frame, count, whole=True),
                "as needed": partial(drawn, images, frame, count, whole=False),
                "from copies": partial(drawn, copies, frame, count, whole=False),
            }
            rates[f"{kind}, views of {side}"] = rates_of(ways, count, settings.repeats)
    split = load_data(DataSettings(resolution=(16, 16), limit=1000)).train
    labels, loader = LabelOutputs(split, 10), LoaderSettings(BATCH, EPOCHS, workers=WORKERS)
    an_epoch = len(split) // BATCH

    def anew() -> None:
        for epoch in range(EPOCHS):
            order = shuffled(len(split), 0, epoch)
            for _ in distillation_batches(split, labels, epoch, BATCH, order, WORKERS, True):
                pass

    def living_on() -> None:
        stream = endless(split, labels, loader, torch.device("cpu"))
        for _ in itertools.islice(stream, EPOCHS * an_epoch):
            pass
        stream.close()

    ways = {"anew for each epoch": anew, "living on": living_on}
    count = EPOCHS * an_epoch * BATCH
    rates[f"workers, {EPOCHS} epochs of {len(split)} digits"] = rates_of(
        ways, count, settings.repeats
    )
    for case, found in rates.items():
        base = next(iter(found.values()))
        told = ", ".join(f"{way} {rate:,.0f} ({rate / base:.2f})" for way, rate in found.items())
        print(f"{case}: {told} images a second")
    write_json(settings.out, provenance("decoding", settings) | {"images_a_second": rates})


def drawn(images: Pixels, frame: Frame, count: int, *, whole: bool) -> None:
    """Draw a view of an image for each of `count` seeds, decoding all of it or what is needed."""
    for seed in range(count):
        picture = images.picture(0)
        geometry = draw_geometry("resized_crop_flip", seed, picture.size, frame)
        if whole:
            render_view(picture.pixels(), geometry, frame)
        else:
            render_views(picture, geometry, (frame,))


def rates_of(ways: dict[str, Callable[[], None]], count: int, repeats: int) -> dict[str, float]:
    """Return the median rate of each way, all timed in turn."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _, (way, run) in itertools.product(range(repeats), ways.items()):
        start = time.perf_counter()
        run()
        seconds[way].append(time.perf_counter() - start)
    return {way: count / float(np.median(found)) for way, found in seconds.items()}


def jpeg(shape: tuple[int, int]) -> bytes:
    """A picture with coarse structure and fine noise, as a camera's."""
    draws, content = torch.Generator().manual_seed(0), io.BytesIO()
    coarse = functional.resize(torch.rand(3, 30, 40, generator=draws), list(shape), antialias=True)
    noisy = coarse + 0.03 * torch.randn(3, *shape, generator=draws)
    pixels = (255 * noisy.clamp(0, 1)).to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(content, "jpeg", quality=90)
    return content.getvalue()


if __name__ == "__main__":
    main(tyro.cli(Settings))
