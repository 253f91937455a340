"""Settings of the scripts: to config.json and back."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import tyro
from torch.nn.functional import cross_entropy

from base.errors import UserError
from kd.batches import Batch
from kd.distances import dkd
from kd.loss import kd_loss
from kd.run.bounds import check_task
from kd.run.folder import open_run
from kd.run.recipes import SEARCH_RECIPES, TRAIN_RECIPES, option
from kd.run.search_config import SearchConfig
from kd.run.settings import (
    home_config,
    search_identity,
    settings_of,
    transfer_budget,
    transfer_config,
)
from kd.run.settings import train_config_of as restored
from kd.run.train_config import TrainConfig
from kd.teacher.request import TeacherSource


@pytest.mark.parametrize("preset", TRAIN_RECIPES)
def test_settings_survive_json(preset: str) -> None:
    config = replace(
        TRAIN_RECIPES[preset],
        run=Path("elsewhere"),
        teacher=("timm:resnet18", "onnx:b.onnx"),
        teacher_checkpoint=(Path("weights.pt"), Path("published")),
        teacher_weight=(1.0, 2.5),
        teacher_classes=Path("names.txt"),
        latency_table=Path("phone.json"),
        teacher_mean=(0.1, 0.2, 0.3),
    )
    stored = json.loads(json.dumps(settings_of(config), default=str))
    assert restored(stored, Path("elsewhere")) == config


def test_default_settings_survive_json() -> None:
    stored = json.loads(json.dumps(settings_of(TrainConfig())))
    assert restored(stored, TrainConfig().run) == TrainConfig()


def test_a_run_may_be_resumed_on_terms_that_change_nothing() -> None:
    """A precision that was faster once may be slower the next time: then it is asked for."""
    assert settings_of(TrainConfig(latency_slower=True)) == settings_of(TrainConfig())
    assert settings_of(TrainConfig(latency_precision="int8")) != settings_of(TrainConfig())


def test_settings_of_another_version_are_refused() -> None:
    stored = settings_of(TrainConfig())
    with pytest.raises(UserError, match=r"another version \(novelty\)"):
        restored({**stored, "novelty": 1}, Path("x"))
    del stored["seed"]
    with pytest.raises(UserError, match=r"another version \(seed\)"):
        restored(stored, Path("x"))


def test_a_search_knows_where_images_are_now(tmp_path: Path) -> None:
    begun = TrainConfig(data="images", unlabelled="more", run=tmp_path)
    open_run(tmp_path, settings_of(begun), resume=False, data="fingerprint")
    usual = search_identity(SearchConfig(run=tmp_path), "t", "scratch")
    for search, expected in (
        (SearchConfig(run=tmp_path), begun),
        (SearchConfig(run=tmp_path, data="/mnt/images"), replace(begun, data="/mnt/images")),
        (SearchConfig(run=tmp_path, unlabelled="x"), replace(begun, unlabelled="x")),
    ):
        assert home_config(search) == expected
        assert search_identity(search, "t", "scratch") == usual


def test_an_architecture_takes_the_recipe_of_its_run_to_other_images(tmp_path: Path) -> None:
    """But nothing that is said of the images and the teacher that it comes from."""
    begun = TrainConfig(
        data="images",
        unlabelled="more",
        run=tmp_path / "a",
        views=3,
        limit=100,
        kd_weight=0.5,
        augment="crop_flip",
        teacher=("onnx:old.onnx",),
        teacher_mean=(0.1, 0.2, 0.3),
        teacher_output="logits",
        guide="labels",
        latency_table=Path("phone.json"),
    )
    open_run(begun.run, settings_of(begun), resume=False, data="fingerprint")
    search = SearchConfig(
        architecture=begun.run / "students" / "5ms",
        data="others",
        teacher=("timm:resnet10t",),
        run=tmp_path / "b",
    )
    assert home_config(search) == begun
    expected = TrainConfig(
        data="others",
        run=tmp_path / "b",
        views=3,
        kd_weight=0.5,
        augment="crop_flip",
        teacher=("timm:resnet10t",),
    )
    assert transfer_config(search, begun) == expected


def test_what_is_said_of_the_new_teacher_counts_and_what_only_classes_have_does_not() -> None:
    home = TrainConfig(kd_distance="dist", latency_precision="int8", teacher_std=(9.0,) * 3)
    search = SearchConfig(
        architecture=Path("a/students/5ms"),
        data="faces",
        pairs=Path("pairs.txt"),
        teacher=("onnx:faces.onnx",),
        teacher_mean=(0.5,) * 3,
        teacher_channels="bgr",
        teacher_resolution=112,
        teacher_output="embedding",
    )
    found = transfer_config(search, home)
    check_task(found)
    assert (found.task, found.pairs) == ("embedding", Path("pairs.txt"))
    assert (found.kd_distance, found.latency_precision) == ("kl", "fp32")
    (source,) = found.teacher_request().sources
    assert (source.mean, source.std) == ((0.5,) * 3, None)
    assert (source.channels, source.resolution, source.output) == ("bgr", 112, "embedding")
    assert transfer_config(replace(search, pairs=None), home).kd_distance == "dist"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "does not say the student's budget; give --target-latency"),
        ({}, "does not say the student's budget"),
        ({"target_ms": "5", "table": "t"}, "does not say the student's budget"),
        ({"target_ms": 0, "table": "t"}, "does not say the student's budget"),
        ({"target_ms": 5, "table": "phone"}, "its 5 ms are of another latency table"),
    ],
)
def test_the_budget_of_an_architecture_is_that_of_its_student(
    tmp_path: Path, content: dict | None, said: str
) -> None:
    """In the milliseconds of the same table."""
    path, own = tmp_path / "metrics.json", SearchConfig(architecture=tmp_path)
    if content is not None:
        path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=said):
        transfer_budget(own, "t")
    assert transfer_budget(replace(own, target_latency=(7.5,)), "t") == 7.5
    path.write_text(json.dumps({"target_ms": 5, "table": "t"}))
    assert transfer_budget(own, "t") == 5.0


def test_the_home_of_an_architecture_is_the_run_around_it(tmp_path: Path) -> None:
    student = tmp_path / "a" / "students" / "5ms"
    (tmp_path / "link").symlink_to(student)
    student.mkdir(parents=True)
    for place in (student, tmp_path / "link", student / ".." / "5ms"):
        assert SearchConfig(architecture=place).home == tmp_path / "a"
    assert SearchConfig(architecture=Path("/foo")).home == Path("/")
    assert SearchConfig(run=tmp_path).home == tmp_path


def test_recipes_name_themselves() -> None:
    assert {name: recipe.preset for name, recipe in TRAIN_RECIPES.items()} == {
        name: name for name in TRAIN_RECIPES
    }
    for name, recipe in SEARCH_RECIPES.items():
        assert recipe.run == TRAIN_RECIPES[name].run == Path("runs") / name


def test_option_is_read_ahead() -> None:
    assert option(["--seed", "1", "--preset", "cifar10"], "--preset", "digits") == "cifar10"
    assert option(["--preset=imagenet"], "--preset", "digits") == "imagenet"
    assert option(["--preset"], "--preset", "digits") == "digits"


@pytest.mark.parametrize(
    ("preset", "name"),
    [
        ("digits", "small_resnet18:2"),
        ("cifar10", "small_resnet18:1"),
        ("imagenet", "torchvision:resnet50"),
    ],
)
def test_a_preset_has_a_teacher_of_its_own(preset: str, name: str) -> None:
    config = TRAIN_RECIPES[preset]
    request = config.teacher_request()
    assert request.sources == (TeacherSource(name),)
    assert request.name == config.guide_name() == name
    assert request.trained_here == (preset != "imagenet")
    assert request.stored is None


def test_options_for_the_teacher_are_read_from_the_command_line(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("b\na\n")
    options = "--teacher timm:a --teacher onnx:b.onnx --teacher-weight 1 --teacher-weight 3"
    inputs = "--teacher-mean 0.1 0.2 0.3 --teacher-resolution 32 --teacher-channels bgr"
    inputs += " --teacher-resize 36 --teacher-interpolation bicubic"
    weights = "--teacher-checkpoint a.pt --teacher-checkpoint published"
    words = f"{options} {inputs} {weights}".split()
    config = tyro.cli(TrainConfig, args=[*words, "--teacher-classes", str(names)])
    shared = ((0.1, 0.2, 0.3), None, 32, "bicubic", 36, "bgr", ("b", "a"))
    request = config.teacher_request()
    assert request.sources == (
        TeacherSource("timm:a", Path("a.pt"), *shared),
        TeacherSource("onnx:b.onnx", None, *shared),
    )
    assert request.weights == (1.0, 3.0)
    assert request.name == "timm:a + onnx:b.onnx"
    assert not request.trained_here


def test_only_a_small_network_alone_and_without_weights_is_trained() -> None:
    def trained_here(*teachers: str, **others: object) -> bool:
        return TrainConfig(teacher=teachers, **others).teacher_request().trained_here

    small = "small_resnet18:1"
    assert trained_here(small)
    assert not trained_here(small, teacher_checkpoint=(Path("c.pt"),))
    assert not trained_here(small, "timm:resnet18")
    assert not trained_here("timm:resnet18")
    assert not trained_here("stored:there")


def test_stored_outputs_stand_for_a_teacher() -> None:
    config = TrainConfig(teacher=("stored:runs/a/targets",))
    assert config.teacher_request().stored == Path("runs/a/targets")
    assert config.output_settings().given == Path("runs/a/targets")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"teacher_checkpoint": (Path("a"),)}, "--teacher-checkpoint: 1 for 2 teachers"),
        ({"teacher_weight": (1.0, 2.0, 3.0)}, "--teacher-weight: 3 for 2 teachers"),
        ({"teacher_weight": (1.0, 0.0)}, "expected numbers above 0"),
        ({"teacher_weight": (1.0, float("nan"))}, "expected numbers above 0"),
        ({"teacher_weight": (1.0, float("inf"))}, "expected numbers above 0"),
        ({"teacher": ("stored:a", "timm:b")}, "stored: stands alone"),
        ({"teacher_checkpoint_key": "ema"}, "--teacher-checkpoint-key: needs"),
        ({"teacher_output": "rows"}, "--teacher-output rows: is for a teacher onnx:FILE"),
    ],
)
def test_ensembles_that_make_no_sense_are_refused(
    changes: dict[str, object], expected: str
) -> None:
    config = replace(TrainConfig(teacher=("timm:a", "timm:b")), **changes)
    with pytest.raises(UserError, match=expected):
        config.teacher_request()


def test_loss_is_that_of_the_settings() -> None:
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    batch = Batch(torch.empty(0), torch.eye(4)[:3], logits.flip(0).softmax(dim=1))
    config = TrainConfig(kd_distance="dkd", kd_temperature=2.0, kd_weight=0.7)
    for learns_from in ("teacher", "kd"):  # as the search and as the retraining call it
        expected = kd_loss(logits, batch, 2.0, 0.7, dkd)
        assert torch.equal(config.loss(learns_from)(logits, batch), expected)
    assert torch.equal(config.loss("labels")(logits, batch), cross_entropy(logits, batch.labels))
