"""Every setting of search.py, and the groups in which the rest of the code takes them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tyro.conf import UseAppendAction

from base.precision import Precision
from export.timing.statistic import UNDISTURBED, Statistic
from export.timing.stopwatch import Patience
from kd.fit import FitSettings
from kd.networks import RGB, Channels, Interpolation
from kd.run.train_config import TrainConfig

SCRATCH, SHARED = "scratch", "shared"
# What is said of a teacher for other images.
OF_TEACHER = (
    *("teacher", "teacher_checkpoint", "teacher_classes", "teacher_mean", "teacher_std"),
    *("teacher_channels", "teacher_resolution", "teacher_resize", "teacher_interpolation"),
    "teacher_output",
)


@dataclass(frozen=True)
class SearchConfig:
    """Budget -> student -> ONNX: the settings of search.py."""

    target_latency: tuple[float, ...] = ()
    """Budgets in milliseconds for the unit of work of the latency table."""
    run: Path = Path("runs/digits")
    """The folder that train.py made."""
    architecture: Path | None = None
    """A student's folder, such as runs/a/students/20ms: its architecture is retrained for the
    images and the teacher that are given, without a search. The rest is done as in its run."""
    data: str | None = None
    """Where the run's images are now, if they were moved; with --architecture the new ones, as for
    train.py."""
    unlabelled: str | None = None
    """Its unlabelled images, likewise."""
    pairs: Path | None = None
    """Its list of pairs, likewise; with --architecture the student then learns an embedding."""
    teacher: UseAppendAction[tuple[str, ...]] = ()
    """With --architecture, the teacher for the new images, as for train.py; the preset's own when
    left out."""
    teacher_checkpoint: UseAppendAction[tuple[Path, ...]] = ()
    """Its weights, likewise."""
    teacher_classes: Path | None = None
    """Its own classes, likewise."""
    teacher_mean: RGB | None = None
    """Mean that it normalises RGB in [0, 1] with, likewise."""
    teacher_std: RGB | None = None
    """Standard deviation, likewise."""
    teacher_channels: Channels = "rgb"
    """What it takes for colour, likewise."""
    teacher_resolution: int | None = None
    """Pixels that it sees, likewise."""
    teacher_resize: int | None = None
    """Pixels of a plain image's shorter side before its centre is cut out, likewise."""
    teacher_interpolation: Interpolation | None = None
    """How its images are resized, likewise."""
    teacher_output: str | None = None
    """Which of an ONNX file's outputs answers, likewise."""
    start: str = SCRATCH
    """What the student's weights are before it is trained: scratch, shared (its slice of the shared
    weights), or another student's folder, whose weights are taken wherever they fit."""
    retrain_with: Literal["kd", "labels"] = "kd"
    """What the final student learns from; labels is a control."""
    seed: int = 0
    candidates: int = 16
    """Architectures derived from alpha within the budget and ranked by the surrogate."""
    finalists: int = 4
    """Students that are measured whole at once, the best expected first."""
    trials: int = 8
    """Different students of a budget that are trained briefly; the best is taken. With 0 the
    surrogate alone decides."""
    trial_epochs: int = 5
    """How long each of them is trained."""
    measure_spread: float = 0.004
    """Whole students are timed until it is sure which one keeps the budget, or until every one's
    relative standard error is this small."""
    measure_seconds: float = 45
    """But no longer than this."""
    latency_statistic: Statistic = UNDISTURBED
    """What of a student's runs keeps the budget: their undisturbed time, or the median or the 95th
    percentile of runs one after the other, on this machine with its other load."""
    latency_table: Path | None = None
    """Search for the device of this table in place of the run's: alpha is trained for it first."""
    compile: bool = False
    """Compile the student with torch.compile while it is retrained; what ships is not."""
    checkpoint_seconds: float = 60
    """Training is kept this often; the same command goes on after an interruption."""
    controls: bool = False
    """Retrain more: students as fast that nobody searched (random, random without gates, the one of
    most multiply-accumulates), and this one without the teacher; say what each of them lacks."""
    rivals: tuple[str, ...] = ()
    """Networks to compare the student with: names of timm or torchvision, plain:W1-W2-W3,
    resnet:W1-W2-W3, or auto for one of each family that fills the budget. Those within the budget
    are trained as the student is, from scratch or from --rival-checkpoint."""
    rival_checkpoint: tuple[Path, ...] = ()
    """Weights that rivals start from, one for each: a file, or scratch."""
    accuracy_loss: float = 0.005
    """Share of the images by which a precision below fp32 may be less right: a student that loses
    more is trained on for int8, and has broken its promise when it still does."""
    list: bool = False
    """Only show the feasible range and the students found so far."""
    epochs: int = 40
    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    precision: Precision = "fp32"
    """Arithmetic of the student while it trains: fp32 or bf16; what ships, the run says."""
    fine_tuning_epochs: int = 4
    """Of training on for int8, where that is needed."""
    fine_tuning_rate: float = 0.01

    @property
    def home(self) -> Path:
        """The folder of the run in which architectures are searched, or were."""
        return self.architecture.resolve().parent.parent if self.architecture else self.run

    @property
    def starts_elsewhere(self) -> bool:
        """Whether students start from the weights of a student in another folder."""
        return self.start not in (SCRATCH, SHARED)

    def patience(self) -> Patience:
        """Return how long students are timed at most: until the worst one's error is small."""
        return Patience(self.measure_spread, self.measure_seconds, share=1.0, least_rounds=20)

    def retraining(self, home: TrainConfig) -> FitSettings:
        """Return how the student is trained; its batches are parted as in train.py."""
        return FitSettings(
            self.epochs,
            self.learning_rate,
            self.weight_decay,
            precision=self.precision,
            accumulate=home.accumulate,
            compile=self.compile,
            sync_batch_norm=home.sync_batch_norm,
        )

    def trial(self, home: TrainConfig) -> FitSettings:
        """Return how a student is trained on trial: as at the end, but briefly."""
        return replace(self.retraining(home), epochs=self.trial_epochs, compile=False)

    def fine_tuning(self, home: TrainConfig) -> FitSettings:
        """Return how a student is trained on for int8."""
        return FitSettings(
            self.fine_tuning_epochs,
            self.fine_tuning_rate,
            self.weight_decay,
            accumulate=home.accumulate,
            sync_batch_norm=home.sync_batch_norm,
        )

    def budgets(self) -> tuple[float, ...]:
        """Return the budgets, one for each student: what has the same name is made once."""
        names = [self.student_name(ms) for ms in self.target_latency]
        return tuple(ms for i, ms in enumerate(self.target_latency) if names[i] not in names[:i])

    def student_name(self, target_ms: float) -> str:
        """Return the name of a student's folder: 20ms, 20ms-p95, or phone-20ms for phone.json."""
        device = f"{self.latency_table.stem}-" if self.latency_table else ""
        plain = "" if self.latency_statistic == UNDISTURBED else f"-{self.latency_statistic}"
        return f"{device}{target_ms:g}ms{plain}"
