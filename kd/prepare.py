"""The teacher of a run and its stored outputs: made once, then found again."""

from functools import partial
from pathlib import Path

import torch

from kd.config import TrainConfig
from kd.data import Data
from kd.evaluate import predict
from kd.fit import FitSettings, fit
from kd.loss import kd_loss
from kd.networks import build_network
from kd.run import Metrics
from kd.targets import Targets, labelled, open_targets, store_targets
from kd.teacher import Teacher, check_teacher, load_teacher, restore_teacher, save_teacher


def given_teacher(config: TrainConfig, data: Data, device: torch.device) -> Teacher | None:
    """Return the teacher that the user brings, checked before anything is written.

    None when it is to be trained here. Raises `UserError` when it cannot be loaded or only guesses.
    """
    source = config.teacher_source()
    if source.trained_here:
        build_network(source.name, len(data.classes))
        return None
    teacher = load_teacher(source, len(data.classes)).to(device)
    search_accuracy(teacher, config, data)
    return teacher


def prepare_teacher(
    config: TrainConfig,
    given: Teacher | None,
    data: Data,
    folder: Path,
    metrics: Metrics,
    device: torch.device,
) -> tuple[Teacher, float]:
    """Return the run's teacher (found, given or trained now) and its search split accuracy.

    A teacher that only guesses raises `UserError`.
    """
    if (folder / "teacher.json").exists():
        teacher, facts = restore_teacher(folder, len(data.classes))
        return teacher.to(device), facts["search_accuracy"]
    teacher = given or _trained(config, data, metrics, device)
    accuracy = search_accuracy(teacher, config, data)
    facts = {"classes": list(data.classes), "search_accuracy": accuracy}
    save_teacher(teacher, config.teacher_source(), folder, facts)
    metrics.summary(teacher_search_accuracy=accuracy)
    return teacher, accuracy


def search_accuracy(teacher: Teacher, config: TrainConfig, data: Data) -> float:
    """Accuracy on the search split; `UserError` when it is that of guessing."""
    plain = data.search.view(None)
    return check_teacher(*predict(teacher, plain, config.batch, config.workers, "teacher's check"))


def _trained(config: TrainConfig, data: Data, metrics: Metrics, device: torch.device) -> Teacher:
    torch.manual_seed(config.seed)
    network = build_network(config.teacher, len(data.classes)).to(device)
    order = torch.Generator().manual_seed(config.seed)
    fit(
        network,
        lambda epoch: labelled(
            data.train, epoch, len(data.classes), config.batch, order, config.workers, True
        ),
        partial(kd_loss, kd_temperature=1.0, kd_weight=0.0),
        FitSettings(config.teacher_epochs, config.teacher_learning_rate),
        steps_per_epoch(data, config.batch),
        "teacher",
        partial(metrics.log, "teacher"),
    )
    return Teacher(network)


def steps_per_epoch(data: Data, batch: int) -> int:
    """Count the whole batches of the train split, at least one."""
    return max(1, len(data.train) // batch)


def prepare_targets(
    config: TrainConfig, teacher: Teacher, data: Data, folder: Path
) -> tuple[Targets, Targets]:
    """Return the teacher's outputs for the train and the search split, stored if they are not."""
    identity = {"data": data.fingerprint(), "teacher": teacher.fingerprint()}
    found = []
    for name, split in (("train", data.train), ("search", data.search)):
        place = folder / name
        if place.exists():
            found.append(open_targets(place, identity))
            continue
        size = (config.views + 1) * len(split) * len(data.classes) * 2
        size_text = f"{size / 2**20:.1f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"
        description = f"teacher's outputs, {name} ({size_text})"
        found.append(
            store_targets(
                *(teacher, split, config.views, place, identity),
                *(config.batch, config.workers, description),
            )
        )
    return found[0], found[1]
