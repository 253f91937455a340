"""What the scripts say to settings and data that cannot be: one line, nothing written."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.smoke import run
from tests.test_scripts import refused


def test_search_before_train(tmp_path: Path) -> None:
    done = run("search.py", "--run", tmp_path / "none", "--target-latency", "5")
    refused(done, "run train.py first")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--data", "/no/such/folder"), "/no/such/folder: no such folder"),
        (("--teacher", "timm:resnet19"), "timm:resnet18"),
        (("--latency-provider", "NoSuchProvider"), "provider NoSuchProvider: not in this"),
        (("--teacher", "torchvision:resnet18", "--teacher-checkpoint", "/none.pt"), "/none.pt"),
        (("--teacher", "onnx:/none.onnx"), "/none.onnx: no such file"),
        (("--teacher", "stored:/none"), "/none/search/targets.json"),
        (("--teacher-weight", "1", "--teacher-weight", "2"), "2 for 1 teachers; give one each"),
        pytest.param(
            ("--sync-batch-norm",),
            "--sync-batch-norm: is for GPUs, and PyTorch sees none",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here"),
        ),
    ],
)
def test_bad_settings_write_nothing(
    tmp_path: Path, options: tuple[str, ...], expected: str
) -> None:
    refused(run("train.py", "--run", tmp_path / "run", *options), expected)
    assert not (tmp_path / "run").exists()


def test_unknown_preset_lists_the_known_ones(tmp_path: Path) -> None:
    done = run("train.py", "--preset", "mnist", "--run", tmp_path / "run")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert all(name in done.stderr for name in ("digits", "cifar10", "imagenet"))


@pytest.mark.parametrize(("script", "word"), [("train.py", "--w-epoch"), ("search.py", "--seeds")])
def test_unknown_options_bring_close_ones(script: str, word: str) -> None:
    done = run(script, word, "3")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert word in done.stderr
    assert {"--w-epoch": "--w-epochs", "--seeds": "--seed"}[word] in done.stderr


def test_corrupt_image_is_named(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    for index in range(40):
        path = tmp_path / "data" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = draws.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    (tmp_path / "data" / "a" / "4.png").write_bytes(b"no image")
    options = ("--data", tmp_path / "data", "--batch", "8", "--alpha-batch", "4", "--views", "2")
    done = run("train.py", "--run", tmp_path / "run", *options)
    refused(done, "4.png: not a readable image")
