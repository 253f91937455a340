"""Every setting of the two scripts, and the recipe of each preset."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from export.errors import UserError
from export.stopwatch import Patience
from kd.data import DataSettings
from kd.networks import RGB, TeacherSource
from kd.views import Augment

PresetName = Literal["digits", "cifar10", "imagenet"]


@dataclass(frozen=True)
class TrainConfig:
    """Teacher -> supernet: the settings of train.py. The defaults shown are those of --preset."""

    preset: PresetName = "digits"
    """Search space and recipe."""
    data: str = "digits"
    """digits, cifar10, or a folder: train/<class>/ with val/ or test/, or one folder of classes."""
    run: Path = Path("runs/digits")
    """The run's folder."""
    teacher: str = "small_resnet18:2"
    """small_resnet18:STRIDE (trained here), torchvision:NAME or timm:NAME."""
    teacher_checkpoint: Path | None = None
    """The teacher's weights: safetensors, or a PyTorch file of tensors only."""
    teacher_mean: RGB | None = None
    """Mean that the teacher normalises RGB in [0, 1] with; its library's own when left out."""
    teacher_std: RGB | None = None
    """Standard deviation, likewise."""
    guide: Literal["teacher", "labels"] = "teacher"
    """What the search learns from; labels is conventional architecture search, a control."""
    seed: int = 0

    limit: int | None = None
    """At most so many training and as many test images, for quick looks."""
    augment: Augment = "affine"
    search_fraction: float = 0.2
    """Share of the training images set apart for alpha and the ranking of candidates."""
    test_fraction: float = 0.2
    """Share of all images set apart to report, where the data has no test split."""
    views: int = 10
    """Augmented versions of every image for which the teacher's outputs are stored."""
    batch: int = 128
    workers: int = 0
    """Processes that decode images; 0 decodes in the main one."""

    teacher_epochs: int = 16
    teacher_learning_rate: float = 0.03
    kd_temperature: float = 4.0
    kd_weight: float = 0.9
    """Weight of the teacher in the loss; the rest is the labels'."""
    w_epochs: int = 40
    w_learning_rate: float = 0.2
    weight_decay: float = 1e-4
    alpha_steps: int = 400
    alpha_batch: int = 64
    alpha_learning_rate: float = 0.05
    multiplier_rate: float = 0.05
    """Step of the dual ascent on the latency multiplier."""
    tau_start: float = 5.0
    tau_end: float = 0.5
    """Gumbel temperature, annealed geometrically."""
    knots: int = 6
    """Knots in log T of alpha(T) and lambda(T)."""

    latency_batch: int = 320
    """Images in the unit of work whose milliseconds count."""
    latency_threads: int = 1
    latency_provider: str = "CPUExecutionProvider"
    """ONNX Runtime execution provider, or torch:cpu or torch:cuda for PyTorch eager."""
    latency_spread: float = 0.01
    """The table is measured until the typical relative standard error is this small."""
    latency_seconds: float = 40
    """But no longer than this."""
    latency_table: Path | None = None
    """A table to use in place of measuring here: another run's latency.json, or what a device kit
    returned. Its unit of work counts, not the one above."""

    def patience(self) -> Patience:
        """Return how long the latency table is measured."""
        return Patience(self.latency_spread, self.latency_seconds)

    def data_settings(self, resolution: int) -> DataSettings:
        """Return what decides the images of this run, at `resolution` pixels."""
        return DataSettings(
            source=self.data,
            resolution=resolution,
            augment=self.augment,
            search_fraction=self.search_fraction,
            test_fraction=self.test_fraction,
            seed=self.seed,
            limit=self.limit,
        )

    def teacher_source(self) -> TeacherSource:
        """Return which teacher, with which weights and normalisation."""
        return TeacherSource(
            self.teacher, self.teacher_checkpoint, self.teacher_mean, self.teacher_std
        )


@dataclass(frozen=True)
class SearchConfig:
    """Budget -> student -> ONNX: the settings of search.py."""

    target_latency: tuple[float, ...] = ()
    """Budgets in milliseconds for the unit of work of the latency table."""
    run: Path = Path("runs/digits")
    """The folder that train.py made."""
    retrain_with: Literal["kd", "labels"] = "kd"
    """What the final student learns from; labels is a control."""
    seed: int = 0
    candidates: int = 16
    """Architectures derived within the budget and ranked with the shared weights."""
    finalists: int = 4
    """Best of them that are measured whole."""
    measure_spread: float = 0.004
    """Whole students are timed until every one's relative standard error is this small."""
    measure_seconds: float = 45
    """But no longer than this."""
    latency_table: Path | None = None
    """Search for the device of this table in place of the run's: alpha is trained for it first."""
    list: bool = False
    """Only show the feasible range and the students found so far."""
    epochs: int = 40
    learning_rate: float = 0.1
    weight_decay: float = 5e-4

    def patience(self) -> Patience:
        """Return how long whole students are timed: until the worst is within the spread."""
        return Patience(self.measure_spread, self.measure_seconds, share=1.0, least_rounds=30)

    def student_name(self, target_ms: float) -> str:
        """Return the name of a student's folder: 20ms, or phone-20ms for the table phone.json."""
        device = f"{self.latency_table.stem}-" if self.latency_table else ""
        return f"{device}{target_ms:g}ms"


TRAIN_RECIPES: Mapping[str, TrainConfig] = {
    "digits": TrainConfig(),
    "cifar10": TrainConfig(
        preset="cifar10",
        data="cifar10",
        run=Path("runs/cifar10"),
        teacher="small_resnet18:1",
        augment="crop_flip",
        search_fraction=0.1,
        views=8,
        batch=256,
        teacher_epochs=30,
        w_epochs=60,
        alpha_steps=2000,
        alpha_batch=128,
        latency_batch=16,
        latency_seconds=120,
    ),
    "imagenet": TrainConfig(
        preset="imagenet",
        data="",
        run=Path("runs/imagenet"),
        teacher="torchvision:resnet50",
        augment="resized_crop_flip",
        search_fraction=0.02,
        views=4,
        batch=256,
        workers=4,
        w_epochs=100,
        w_learning_rate=0.4,
        weight_decay=3e-5,
        alpha_steps=5000,
        alpha_batch=128,
        latency_batch=1,
        latency_seconds=240,
    ),
}

SEARCH_RECIPES: Mapping[str, SearchConfig] = {
    "digits": SearchConfig(),
    "cifar10": SearchConfig(run=Path("runs/cifar10"), epochs=120),
    "imagenet": SearchConfig(run=Path("runs/imagenet"), epochs=150, weight_decay=3e-5),
}


def option(argv: Sequence[str], name: str, default: str) -> str:
    """Read one option's value ahead of the whole command line: it decides the others' defaults."""
    for i, word in enumerate(argv):
        if word == name and i + 1 < len(argv):
            return argv[i + 1]
        if word.startswith(f"{name}="):
            return word.removeprefix(f"{name}=")
    return default


def settings_of(config: TrainConfig | SearchConfig) -> dict:
    """Return the settings as plain values; the folder is not one, it may be moved."""
    values = {name: value for name, value in dataclasses.asdict(config).items() if name != "run"}
    return {n: str(value) if isinstance(value, Path) else value for n, value in values.items()}


def train_config_of(settings: Mapping[str, object], run: Path) -> TrainConfig:
    """Rebuild train.py's settings from a run's config.json; foreign ones raise `UserError`."""
    expected = settings_of(TrainConfig())
    if settings.keys() != expected.keys():
        odd = ", ".join(sorted(settings.keys() ^ expected.keys()))
        raise UserError(f"{run}/config.json: settings of another version ({odd}); train again")
    restored = {name: _tupled(value) for name, value in settings.items()}
    for name in ("teacher_checkpoint", "latency_table"):
        restored[name] = Path(settings[name]) if settings[name] else None
    return replace(TrainConfig(), run=run, **restored)


def _tupled(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value
