"""Every setting of train.py, and the groups in which the rest of the code takes them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from tyro.conf import UseAppendAction

from base.errors import UserError
from base.precision import Precision
from base.size import Size
from export.timing.stopwatch import Patience
from export.timing.unit_of_work import UnitOfWork
from kd.batches import LoaderSettings
from kd.embedding_loss import embedding_loss
from kd.evaluate import ACCURACY, COSINE, Quality
from kd.fit import FitSettings
from kd.images.loader import usable_workers
from kd.images.mixing import Mix
from kd.images.splits import DataSettings
from kd.images.views import Augment
from kd.loss import Loss, loss_of
from kd.networks import RGB, Channels, Interpolation
from kd.teacher.load import read_class_names
from kd.teacher.outputs import OutputSettings
from kd.teacher.request import PUBLISHED, TeacherRequest, TeacherSource, check_ensemble

CLASSIFY, EMBEDDING = "classify", "embedding"
PresetName = Literal["digits", "cifar10", "imagenet"]
LatencyPrecision = Literal["fp32", "bf16", "int8"]
DistanceName = Literal["kl", "dkd", "dist", "alpha_divergence"]
DEFAULT_TEACHERS: Mapping[str, str] = {
    "digits": "small_resnet18:2",
    "cifar10": "small_resnet18:1",
    "imagenet": "torchvision:resnet50",
}


@dataclass(frozen=True)
class TrainConfig:
    """Teacher -> supernet: the settings of train.py. The defaults shown are those of --preset."""

    preset: PresetName = "digits"
    """Search space and recipe."""
    space: Path | None = None
    """TOML file of a search space of your own, in place of the preset's (docs/spaces.md)."""
    resolution: str | None = None
    """Pixels of the images that students take, such as 96 or 96x160 (height x width); the preset's
    own when left out."""
    channels: Literal[1, 3] = 3
    """Channels of these images; 1 makes them grey, and shows a teacher three equal ones."""
    squeeze: bool = False
    """Squeeze whole images into the shape that students take; else they see the centre."""
    copies: bool = True
    """Keep shrunken copies of photographs of more than a megapixel in the run's folder."""
    data: str = "digits"
    """digits, cifar10, tar shards, or a folder: train/<class>/ with val/ or test/, or one folder of
    classes."""
    task: Literal["classify", "embedding"] = CLASSIFY
    """What a student learns: classes, or the vector of a teacher that answers with one, by which
    two images of an identity are known (faces)."""
    pairs: Path | None = None
    """With --task embedding, the pairs of images that judge it, in the format of Labeled Faces in
    the Wild: NAME 1 4, or NAME 2 OTHER 3. --data is then a folder of identities; none of those in
    the pairs is learned from."""
    unlabelled: str | None = None
    """A folder of more images, without classes, or shards: the teacher alone says what they are."""
    shard_image: str | None = None
    """Which file of a shard's sample is its image, such as png or rgb.png; jpg before others when
    left out."""
    run: Path = Path("runs/digits")
    """The run's folder."""
    resume: bool = False
    """Go on with the run in the folder, if it was begun."""
    preview: bool = False
    """Only say how long it would take, and what memory and disk; nothing is written."""
    checkpoint_seconds: float = 60
    """Training is kept this often, for --resume."""
    teacher: UseAppendAction[tuple[str, ...]] = ()
    """small_resnet18:STRIDE (trained here), torchvision:NAME, timm:NAME, onnx:FILE,
    program:FILE.pt2 of torch.export, python:MODULE:FACTORY (runs that code), or stored:FOLDER with
    another run's targets. Several make an ensemble. The preset's own when left out."""
    teacher_checkpoint: UseAppendAction[tuple[Path, ...]] = ()
    """Weights of a torchvision, timm or small_resnet18 teacher: safetensors, or a PyTorch file, a
    trainer's too; nothing in it is run. For an ensemble one for each, in order; "published" stands
    for the library's."""
    teacher_checkpoint_key: str | None = None
    """Which state dict of such a file, such as state_dict_ema; state_dict or model if left out."""
    teacher_weight: UseAppendAction[tuple[float, ...]] = ()
    """Weights of an ensemble's teachers, in order; equal when left out."""
    teacher_mean: RGB | None = None
    """Mean that the teacher normalises RGB in [0, 1] with; from its metadata when left out."""
    teacher_std: RGB | None = None
    """Standard deviation, likewise."""
    teacher_resolution: int | None = None
    """Pixels that the teacher sees, of the same views; 0 takes those of the students; likewise."""
    teacher_resize: int | None = None
    """Pixels of a plain image's shorter side before the teacher is shown its centre; 0 squeezes the
    whole image; likewise, or as for the students."""
    teacher_interpolation: Interpolation | None = None
    """How its images are resized; likewise."""
    teacher_channels: Channels = "rgb"
    """What the teacher takes for colour."""
    teacher_classes: Path | None = None
    """Text file of the teacher's own classes, one a line in its order, when they are not the
    data's classes in the data's order."""
    teacher_output: str | None = None
    """Which of an ONNX file's outputs answers; the one of as many classes when left out."""
    teacher_outputs: Literal["stored", "online"] = "stored"
    """Store the teacher's outputs once, or run the teacher in every step."""
    guide: Literal["teacher", "labels"] = "teacher"
    """What the search learns from; labels is conventional architecture search, a control."""
    seed: int = 0

    limit: int | None = None
    """At most so many training images, test images (not those of --pairs) and unlabelled ones, for
    quick looks."""
    augment: Augment = "affine"
    mix: Mix = "none"
    """Mix every augmented image with another one; teacher and student see the same mixture."""
    search_fraction: float = 0.2
    """Share of the training images set apart for alpha and the surrogate."""
    test_fraction: float = 0.2
    """Share of all images set apart to report, where the data has no test split."""
    views: int = 10
    """Augmented versions of every image for which the teacher's outputs are stored."""
    most_classes: int = 100
    """Of more classes, only so many of the largest probabilities are stored for an image."""
    batch: int = 128
    workers: int | None = None
    """Processes that decode images; 0 decodes in the main one. When left out one for every core
    where a GPU trains (of several, each has its share), and 0 where none does."""
    precision: Precision = "fp32"
    """Arithmetic of the networks while they train: bf16 is faster where the processor has it."""
    accumulate: int = 1
    """Parts that a batch, or a process's share of it, passes in one after the other: less memory,
    and BatchNorm sees one part at a time."""
    sync_batch_norm: bool = False
    """BatchNorm of teacher and students that are retrained sees the shares of all GPUs; that of the
    shared weights sees its own GPU's."""

    teacher_epochs: int = 16
    teacher_learning_rate: float = 0.03
    kd_distance: DistanceName = "kl"
    """Distance between teacher and student."""
    kd_temperature: float = 4.0
    relation_weight: float = 1.0
    """With --task embedding, weight of the relations among images beside each one's own vector."""
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
    surveyed: int = 128
    """Random students that are scored with the shared weights, for the surrogate."""

    latency_batch: int = 320
    """Images in the unit of work whose milliseconds count."""
    latency_threads: int = 1
    latency_provider: str = "CPUExecutionProvider"
    """ONNX Runtime execution provider, openvino:CPU, or torch:cpu or torch:cuda (PyTorch eager)."""
    latency_precision: LatencyPrecision = "fp32"
    """Precision of what ships: fp32; int8, in ONNX Runtime or OpenVINO; or bf16, in OpenVINO."""
    latency_slower: bool = False
    """Go on with a precision that is not faster than fp32 here."""
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

    def unit_of_work(self, resolution: Size, channels: int) -> UnitOfWork:
        """Return what is timed, on images of `resolution` and so many channels."""
        return UnitOfWork(
            self.latency_batch,
            resolution,
            self.latency_threads,
            self.latency_provider,
            self.latency_precision,
            channels=channels,
        )

    def data_settings(self, resolution: Size) -> DataSettings:
        """Return what decides the images of this run, which students see at `resolution`."""
        return DataSettings(
            source=self.data,
            unlabelled=self.unlabelled,
            shard_image=self.shard_image,
            resolution=resolution,
            channels=self.channels,
            squeeze=self.squeeze,
            augment=self.augment,
            mix=self.mix,
            search_fraction=self.search_fraction,
            test_fraction=self.test_fraction,
            seed=self.seed,
            limit=self.limit,
            pairs=self.pairs,
        )

    def loader(self) -> LoaderSettings:
        """Return how teacher, shared weights and student draw their batches."""
        return LoaderSettings(self.batch, self.views, self.seed, usable_workers(self.workers))

    def alpha_loader(self) -> LoaderSettings:
        """Return how alpha draws its batches."""
        return replace(self.loader(), batch=self.alpha_batch)

    def loss(self, learns_from: str) -> Loss:
        """Return the loss; one that learns from "labels" never sees the teacher: a control."""
        if self.task == EMBEDDING:
            return partial(embedding_loss, relation_weight=self.relation_weight)
        return loss_of(learns_from, self.kd_distance, self.kd_temperature, self.kd_weight)

    def quality(self) -> Quality:
        """Return what is told of a network beside its loss."""
        return COSINE if self.task == EMBEDDING else ACCURACY

    def teacher_request(self) -> TeacherRequest:
        """Return which teachers, with which weights and inputs.

        Raises `UserError` for settings that do not fit their number.
        """
        names = self.teacher or (DEFAULT_TEACHERS[self.preset],)
        online = self.teacher_outputs == "online"
        checkpoints, output = self.teacher_checkpoint, self.teacher_output
        check_ensemble(names, checkpoints, self.teacher_weight, output, online=online)
        if self.teacher_checkpoint_key and not checkpoints:
            raise UserError("--teacher-checkpoint-key: needs --teacher-checkpoint; give that, too")
        checkpoints = checkpoints or (PUBLISHED,) * len(names)
        wanted = TeacherSource(
            mean=self.teacher_mean,
            std=self.teacher_std,
            resolution=self.teacher_resolution,
            resize=self.teacher_resize,
            interpolation=self.teacher_interpolation,
            channels=self.teacher_channels,
            classes=read_class_names(self.teacher_classes) if self.teacher_classes else None,
            output=output,
            checkpoint_key=self.teacher_checkpoint_key,
        )
        sources = (
            replace(wanted, name=name, checkpoint=None if path == PUBLISHED else path)
            for name, path in zip(names, checkpoints, strict=True)
        )
        return TeacherRequest(tuple(sources), self.teacher_weight or (1.0,) * len(names))

    def teacher_training(self) -> FitSettings:
        """Return how a teacher is trained here."""
        return FitSettings(
            self.teacher_epochs,
            self.teacher_learning_rate,
            precision=self.precision,
            accumulate=self.accumulate,
            sync_batch_norm=self.sync_batch_norm,
        )

    def output_settings(self) -> OutputSettings:
        """Return where the teacher's outputs are, or how they are made."""
        return OutputSettings(
            folder=self.run / "targets",
            given=self.teacher_request().stored,
            online=self.teacher_outputs == "online",
            most_classes=self.most_classes,
            precision=self.precision,
        )

    def guide_name(self) -> str:
        """Name what the search learns from."""
        return self.teacher_request().name if self.guide == "teacher" else "labels"
