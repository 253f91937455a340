"""What a run learns from: its images, and what its teacher says of them."""

from dataclasses import dataclass, replace
from functools import partial

from base.processes import is_main_process, this_process
from base.size import Size
from kd.batches import Outputs, micro_batch
from kd.evaluate import CALIBRATION_BATCHES, Scorer, calibration_images, scores_recalibrated
from kd.images.copies import found_copies, plan_copies, with_copies
from kd.images.splits import Data, Split, load_data
from kd.run.bounds import check_parts
from kd.run.folder import open_run, refuse_other_images
from kd.run.metrics import AnyMetrics, open_phase
from kd.run.settings import onnx_metadata, settings_of
from kd.run.train_config import TrainConfig
from kd.teacher.model import shown_frames
from kd.teacher.outputs import TeacherOutputs, prepare_outputs
from kd.teacher.prepare import (
    CheckedTeacher,
    open_teacher,
    prepare_teacher,
    reload_teacher,
    train_teacher,
    with_vector,
)
from kd.teacher.saved import read_facts


@dataclass(frozen=True)
class Taught:
    """Images of a run, and its teacher's outputs for them."""

    config: TrainConfig
    data: Data
    outputs: TeacherOutputs

    @property
    def search_split(self) -> tuple[Split, Outputs]:
        """The images that judge, and the teacher's outputs for them."""
        return self.data.search, self.outputs.search

    def scorer(self) -> Scorer:
        """Return what scores models by the search split, with the loss that guides the search.

        BatchNorm statistics are recalibrated first, on the same images for all.
        """
        config, (split, outputs) = self.config, self.search_split
        batch = micro_batch(config.batch, this_process().num_processes, config.accumulate)
        count = CALIBRATION_BATCHES * (config.batch // batch)
        return partial(
            scores_recalibrated,
            images=calibration_images(self.data.train, batch, config.seed, count),
            split=split,
            outputs=outputs,
            loss=config.loss(config.guide),
            batch=batch,
            workers=config.loader().workers,
            quality=config.quality(),
        )

    def metadata(self, target_ms: float) -> dict[str, str]:
        """Return what a student's ONNX file says of where it comes from."""
        return onnx_metadata(target_ms, self.data, self.config)


def read_data(config: TrainConfig, resolution: Size) -> Data:
    """Return the images of a run that begins, as its teacher answers them."""
    data = load_data(config.data_settings(resolution))
    return with_vector(config.teacher_request(), data)


def found_taught(config: TrainConfig, resolution: Size) -> Taught:
    """Return what a run was begun with; `UserError` where something is missing or foreign.

    Outputs that are not stored are made by the run's teacher.
    """
    check_parts(config, this_process().num_processes)
    facts, data = read_facts(config.run), load_data(config.data_settings(resolution))
    data = replace(data, vector=facts.get("vector"))
    refuse_other_images(config.run, data.fingerprint())
    data = found_copies(data, config.run / "copies")
    own = (config.teacher_request(), data, config.run, this_process().device)
    load = partial(reload_teacher, *own)
    settings, loader = config.output_settings(), config.loader()
    outputs = prepare_outputs(settings, facts["fingerprint"], load, data, loader)
    return Taught(config, data, outputs)


def begin_run(config: TrainConfig, data: Data) -> tuple[TrainConfig, Data, CheckedTeacher | None]:
    """Check the given teacher; then begin the run's folder, or go on with it.

    Returns the settings, whose batch is no larger than the train split now; the data, with copies
    of large photographs; and the teacher unless it is to be trained. Raises `UserError` for a
    teacher that cannot be used, and a run of other settings or images.
    """
    parts, kept = this_process().num_processes * config.accumulate, settings_of(config)
    check_parts(config, this_process().num_processes)
    config = replace(config, batch=min(config.batch, len(data.train) // parts * parts))
    check_parts(config, this_process().num_processes)
    opened = open_teacher(config.teacher_request(), data, config.loader(), this_process().device)
    frames = shown_frames(opened.model if opened else None, data.train.frame)
    plan = plan_copies(data, frames) if config.copies else None
    if is_main_process():
        open_run(config.run, kept, resume=True, data=data.fingerprint())
    this_process().wait_for_everyone()
    return config, with_copies(data, plan, config.run / "copies"), opened


def teach(
    config: TrainConfig, data: Data, opened: CheckedTeacher | None, metrics: AnyMetrics
) -> Taught:
    """Return the images with what the run's teacher, given or trained now, says of them."""
    teacher = checked_teacher(config, data, opened, metrics)
    return Taught(config, data, teacher_outputs(config, data, teacher))


def checked_teacher(
    config: TrainConfig, data: Data, opened: CheckedTeacher | None, metrics: AnyMetrics
) -> CheckedTeacher:
    """Return the run's teacher: the one that was opened, that of the folder, or one trained now."""
    request, loader, device = config.teacher_request(), config.loader(), this_process().device
    training = (config.teacher_training(), loader, device, open_phase(metrics, "teacher"))
    train = partial(train_teacher, request.sources[0], data, *training)
    teacher = prepare_teacher(request, opened, data, loader, config.run, device, train)
    metrics.summary(**teacher.check.summary())
    return teacher


def teacher_outputs(config: TrainConfig, data: Data, teacher: CheckedTeacher) -> TeacherOutputs:
    """Return the teacher's outputs, stored now or found."""
    settings, loader = config.output_settings(), config.loader()
    return prepare_outputs(settings, teacher.fingerprint, lambda: teacher.model, data, loader)
